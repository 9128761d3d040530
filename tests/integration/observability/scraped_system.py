"""Registry, router and two workers as processes, under load, scraped by a real Prometheus with the shipped files.

Of the shipped configuration only what is a matter of place and patience is replaced: where the targets are, and how
often they are asked. What is asked of Prometheus is the tests' to know.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from looksmith.cli.stack import free_run
from services.registry.seaweedfs import RunningStore
from tests.integration.observability.load import under_load
from tests.integration.processes import ROOT, service

SHIPPED = ROOT / "deploy" / "observability"
SCRAPE_S = 0.2
LOAD_S = 3.0
WORKERS = ("w1", "w2")
#: What rates are taken over here: Grafana gives at least four scrapes.
RATE_INTERVAL = "2s"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus; ``load_ended`` is the time, in its own terms, at which the load did."""

    url: str
    load_ended: float = 0.0

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  # JSON is what it is
        """The data of one answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:  # noqa: S310  # http, on loopback
            return json.load(answer)["data"]

    async def scrapes(self, targets: int) -> None:
        """Returns once so many answer: it looks for targets every five seconds only."""
        async with asyncio.timeout(30):
            while len((await asyncio.to_thread(self.get, "query", query="up == 1"))["result"]) < targets:  # noqa: ASYNC110  # it tells only who asks
                await asyncio.sleep(0.1)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series of the answer, at the end of the load."""
        found = self.get("query", query=expression, time=str(self.load_ended))["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def most_under_load(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Likewise, the largest value that each series had while the load ran; without those that never had one."""
        series = self.query(f"max_over_time(({expression})[{LOAD_S:.0f}s:200ms])")
        return [(labels, value) for labels, value in series if math.isfinite(value)]


def needed_tool() -> None:
    """Skips where Prometheus is not installed; in CI it is, and nothing is skipped there."""
    if shutil.which("prometheus"):
        return
    if os.environ.get("CI") == "true":
        pytest.fail("needs prometheus (Debian's package of that name)")
    pytest.skip("needs prometheus (Debian's package of that name)")


@asynccontextmanager
async def scraped_system(weed: RunningStore, folder: Path) -> AsyncIterator[Prometheus]:
    """Everything, after some seconds of load; still running."""
    ports = iter(range(first := free_run(10), first + 10))
    at = {name: (next(ports), next(ports)) for name in ("registry", "router")}  # to call, to scrape
    scraped = {name: next(ports) for name in WORKERS}
    registry, router = (f"127.0.0.1:{port}" for port, _ in at.values())
    jobs = {name: [port] for name, (_, port) in at.items()} | {"gpu-worker": list(scraped.values())}
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as starting:

            def start(name: str, **environ: object) -> None:
                settings = {key: str(value) for key, value in environ.items()}
                starting.create_task(stack.enter_async_context(service(name, **settings)))

            for name, (port, metrics_port) in at.items():
                prefix = name.upper()
                start(
                    name,
                    **{f"{prefix}_PORT": port, f"{prefix}_METRICS_PORT": metrics_port},
                    **weed.beside("observability").environ(),
                    ROUTER_NAME="r1",
                    ROUTER_REGISTRY=registry,
                )
            for name, metrics_port in scraped.items():
                start(
                    "gpu_worker",
                    WORKER_NAME=name,
                    WORKER_REGISTRY=registry,
                    WORKER_ROUTERS=router,
                    WORKER_ENGINE="timed",
                    WORKER_BATCH_SIZES="1,2",  # so that jobs wait
                    WORKER_DISK_CACHE=folder / name,
                    WORKER_METRICS_PORT=metrics_port,
                )
            asking = starting.create_task(stack.enter_async_context(prometheus(folder, next(ports), jobs)))
        await asking.result().scrapes(sum(map(len, jobs.values())))
        await under_load(registry, router, workers=len(WORKERS), lasting_s=LOAD_S)
        yield replace(asking.result(), load_ended=time.time())


@asynccontextmanager
async def prometheus(folder: Path, port: int, jobs: Mapping[str, Sequence[int]]) -> AsyncIterator[Prometheus]:
    """A Prometheus that asks the ``jobs``' ports with the shipped configuration and the shipped alerts."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S * 1000:.0f}ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(SHIPPED / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in jobs[job["job_name"]]]}]
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={written}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    lines = []
    try:
        async with asyncio.timeout(30):
            async for line in process.stderr:
                lines.append(line.decode())
                if "ready to receive web requests" in lines[-1]:
                    break
            else:
                raise AssertionError("".join(lines))
        reading = asyncio.create_task(process.stderr.read())
        yield Prometheus(f"http://127.0.0.1:{port}")
        process.kill()  # what it knows, nobody will ask again
        await reading
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

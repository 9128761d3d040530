"""A rolling upgrade from the last release to this tree and back again, under users who ask all the while.

Every process in turn, so that old workers meet new routers and new workers old ones. The last release is the newest
tag, or where there is none the commit that last replaced the protos' baseline, as a release does.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.brands import publish_brands, write_brands
from benchmarks.loadtest import verdict
from benchmarks.loadtest.cluster import ready_workers
from benchmarks.loadtest.users import Users
from benchmarks.loadtest.verdict import Window
from benchmarks.mortal import Mortal
from benchmarks.references import references
from benchmarks.report import Bars, report
from looksmith.cli.stack import CHECKOUT, free_run
from services.registry.seaweedfs import seaweedfs

BASELINE = "protos/baseline/v1.binpb"
BRANDS, USERS = 6, 4
#: Seconds of load between one process and the next, in which old and new work together.
BETWEEN_S = 4.0
ENDS_WITHIN_S, READY_WITHIN_S = 120.0, 180.0
#: Mixed on purpose: a new worker at an old router, then a new router with an old worker.
ORDER = ("registry-0", "worker-0", "router-0", "registry-1", "worker-1", "router-1")
BARS: Bars = dict.fromkeys(
    ("failures", "duplicates", "gaps", "wrong_brand", "wrong_adapter", "wrong_seed"), ("<=", 0.0)
)


@dataclass(frozen=True)
class Release:
    """A checkout that processes can be started from."""

    name: str
    folder: Path


class Replaced:
    """One process of the system, which is of either release."""

    def __init__(self, made: Mapping[str, Mortal]) -> None:
        """``made``: by release."""
        self._made = made
        self.running: Mortal | None = None

    async def become(self, release: str) -> None:
        """Ends it as Kubernetes does, and returns once its successor serves."""
        if self.running:
            self.running.signal(signal.SIGTERM)
            if code := await self.running.ended(within_s=ENDS_WITHIN_S):
                raise RuntimeError(f"{self.running.name} ended with code {code}; see {self.running.log}")
        self.running = self._made[release]
        await self.running.start()
        await self.running.serves()


def last_release() -> str:
    """The newest tag of this branch's past, or else the commit that last replaced the baseline."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match=v*")
    return tag or _git("log", "-1", "--format=%h", "--", BASELINE)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)  # noqa: S607  # of whoever runs it
    return done.stdout.strip()


def checked_out(revision: str, folder: Path) -> Release:
    """The tree as it was then. Raises: CalledProcessError, where the revision is not here."""
    archive = subprocess.run(["git", "archive", revision], cwd=CHECKOUT, capture_output=True, check=True)  # noqa: S607  # as above
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return Release(revision, folder)


async def run(old: Release, folder: Path) -> dict[str, float]:
    """Old all over; then each process new, one after the other; then each old again, in reverse."""
    new = Release("this tree", CHECKOUT)
    files = write_brands(BRANDS, folder / "brands")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(seaweedfs(folder / "store"))
        ports = dict(zip(sorted(ORDER), range(free_run(len(ORDER)), 65_000), strict=False))
        address = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        routers = (address["router-0"], address["router-1"])
        either_registry = f"ipv4:{address['registry-0']},{address['registry-1']}"
        of_kind = {
            "registry": ("services.registry", store.environ()),
            "router": ("services.router", {"ROUTER_REGISTRY": either_registry}),
            "worker": (
                "services.gpu_worker",
                {
                    "WORKER_REGISTRY": either_registry,
                    "WORKER_ROUTERS": ",".join(routers),
                    "WORKER_THREADS": "1",
                },
            ),
        }
        system: dict[str, Replaced] = {}
        for name in ORDER:
            kind = name.partition("-")[0]
            module, settings = of_kind[kind]
            own = {f"{kind.upper()}_NAME": name, f"{kind.upper()}_PORT": str(ports[name])}
            if kind == "worker":
                own["WORKER_DISK_CACHE"] = str(folder / name)
            made: dict[str, Mortal] = {}
            for release in (old, new):
                process = Mortal(
                    name,
                    [sys.executable, "-m", module],
                    port=ports[name],
                    environ={**os.environ, "PYTHONUNBUFFERED": "1", **settings, **own},
                    logs=folder / "logs" / release.name.replace(" ", "-"),
                    cwd=release.folder,
                )
                made[release.name] = await stack.enter_async_context(process)
            system[name] = Replaced(made)
        for name in ORDER:
            await system[name].become(old.name)
        async with grpc.aio.insecure_channel(address["registry-0"]) as channel:
            digests = await publish_brands(channel, files)
        users = Users(USERS, routers, list(digests), timeout_s=180.0, seed=0)
        await _all_ready(routers)
        began = time.monotonic()
        async with users.asking():
            await asyncio.sleep(BETWEEN_S)
            turns = [*((name, new.name) for name in ORDER), *((name, old.name) for name in reversed(ORDER))]
            for name, successor in tqdm(turns, desc="processes replaced"):
                await system[name].become(successor)
                await _all_ready(routers)
                await asyncio.sleep(BETWEEN_S)
            window = Window(began, time.monotonic())
    told = verdict.figures(users.requests, window, digests)
    for error in sorted({request.error for request in users.requests if request.error}):
        print(error)
    return {**told, **verdict.look(users.requests, users.pictures, references(files)), "replaced": float(len(turns))}


async def _all_ready(routers: Sequence[str]) -> None:
    async with asyncio.timeout(READY_WITHIN_S):
        while await asyncio.gather(*map(ready_workers, routers)) != [2] * len(routers):  # noqa: ASYNC110  # as asked
            await asyncio.sleep(0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default=last_release(), help="a tag or a commit; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="looksmith-upgrade-") as made:
        folder = Path(made)
        figures = asyncio.run(run(checked_out(asked.since, folder / "old"), folder))
    sys.exit(not report(figures, BARS, file=asked.json, since=asked.since))


if __name__ == "__main__":
    main()

"""A fault is planted in a running system: doctor names it, says what to do, and the server concerned has logged it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from looksmith.cli.findings import Level
from looksmith.nouns import AdapterRef
from services.chassis.process import CannotStart
from services.gpu_worker.machine import Machine
from services.registry.commit_log import Surroundings
from services.registry.compose import registry
from services.registry.minio_store import MinioObjectStore
from services.registry.object_store import InMemoryObjectStore
from services.registry.seaweedfs import RunningStore
from services.registry.settings import RegistrySettings
from services.registry.status import StatusTeller
from services.router.client import WorkerState
from tests.integration.doctor.doctored import System, furnished, system, until
from tests.unit.registry.parts import header_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def well(tmp_path: Path) -> AsyncIterator[System]:
    """A router, a registry and a worker, with nothing wrong."""
    core, _ = await furnished()
    async with system(tmp_path, core) as made:
        yield made


@asynccontextmanager
async def held(made: System, *brands: str) -> AsyncIterator[None]:
    """While inside, a request of each brand is under way and does not get on."""
    made.engine_gate.clear()
    painting = [asyncio.create_task(made.paint(brand)) for brand in brands]
    try:
        yield
    finally:
        made.engine_gate.set()
        await asyncio.gather(*painting, return_exceptions=True)


async def test_nothing_is_wrong_with_a_system_that_is_well(well: System) -> None:
    await well.add_router("r2")
    found = await well.findings(paint=True)
    complaints = [each for each in found if each.level is not Level.OK]
    assert [each.what for each in complaints] == ["no worker has joined it: nothing is painted"], (
        "of r2, which has none"
    )
    fine = {each.subject: each.what for each in found if each.level is Level.OK}
    assert "release" in fine[f"registry {well.registry}"]
    assert "is written, read and deleted" in fine["store memory"]
    assert fine["brands"] == "the production adapters of 2 brands are there"
    assert "painted a picture" in fine["worker w1"]


async def test_no_worker_has_joined(tmp_path: Path) -> None:
    core, _ = await furnished()
    async with system(tmp_path, core, workers=0) as made:
        (complaint,) = await made.complaints()
        assert await reason_in_the_log(made, "acme") == "NO_WORKER"
    assert complaint.startswith("FAIL router")
    assert "no worker has joined it" in complaint


async def reason_in_the_log(made: System, brand: str) -> str:
    """Why a router could not paint, as its log has it."""
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError):
        await made.paint(brand)
    (line,) = [line for line in logs if line["event"] == "request.ended"]
    return str(line["reason"])


async def test_the_store_does_not_take_the_registry_s_key(weed: RunningStore, tmp_path: Path) -> None:
    wrong = replace(weed, secret_key="not-the-key")  # noqa: S106  # that is the point
    starting = RegistrySettings(
        store_endpoint=weed.endpoint, store_access_key=weed.access_key, store_secret_key=SecretStr(wrong.secret_key)
    )
    with pytest.raises(CannotStart, match=r"REGISTRY_STORE_SECRET_KEY.* is not right"):
        async with registry(starting):
            pass
    store = MinioObjectStore(
        endpoint=weed.endpoint,
        access_key=weed.access_key,
        secret_key=wrong.secret_key,
        bucket=weed.bucket,
        secure=False,
        region="us-east-1",
    )
    core, _ = await furnished()
    changed = replace(core, status=StatusTeller(store=store, name=weed.endpoint, around=Surroundings(writer="reg-0")))
    async with system(tmp_path, changed) as made:
        with capture_logs() as logs:
            (complaint,) = await made.complaints()
    assert complaint.startswith(f"FAIL store {weed.endpoint}: does not work")
    assert "SignatureDoesNotMatch" in complaint
    assert "REGISTRY_STORE_SECRET_KEY" in complaint
    (line,) = [line for line in logs if line["event"] == "store.fails"]
    assert "SignatureDoesNotMatch" in line["problem"]


class SlowStore(InMemoryObjectStore):
    delay_s = 0.0

    async def _arrive(self) -> None:
        await asyncio.sleep(self.delay_s)
        await super()._arrive()


async def test_the_store_is_slow(tmp_path: Path) -> None:
    store = SlowStore()
    core, _ = await furnished(store)
    async with system(tmp_path, core) as made:
        await made.complaints()
        store.delay_s = 0.25
        with capture_logs() as logs:
            (complaint,) = [each for each in await made.complaints() if "store" in each]
    assert complaint.startswith("WARN store memory: is slow")
    assert "0.8 s" in complaint
    assert [line["event"] for line in logs if line["event"].startswith("store.")] == ["store.slow"]


async def test_an_engine_hangs(well: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gpu_worker.progress.UNKNOWN_S", 0.3)
    with capture_logs() as logs:
        async with held(well, "acme"):
            await until(lambda: _stalled(well))
            (complaint,) = [each for each in await well.complaints() if "w1" in each]
    assert complaint.startswith("FAIL worker w1: its engine hangs")
    assert "looksmith reset w1" in complaint
    assert [line["jobs"] for line in logs if line["event"] == "engine.stalled"] == [1]


async def _stalled(made: System) -> bool:
    return (await made.workers())["w1"].state is WorkerState.STALLED


async def test_the_memory_for_adapters_is_full(tmp_path: Path) -> None:
    core, _ = await furnished()
    async with system(tmp_path, core, workers=0) as made:
        await made.add_worker("w1", WORKER_HOST_BYTES="130")  # acme's file has 80 bytes, zenith's 120
        with capture_logs() as logs:
            async with held(made, "acme", "zenith"):
                await until(lambda: _waits(made))
                (complaint,) = [each for each in await made.complaints() if "w1" in each]
    assert complaint.startswith("FAIL worker w1: its memory for adapters is full: 1 jobs wait")
    assert "WORKER_HOST_BYTES" in complaint
    assert [line["limit"] for line in logs if line["event"] == "adapter.waits_for_memory"] == [130]


async def _waits(made: System) -> bool:
    return (await made.workers())["w1"].heartbeat.waiting_for_memory > 0


async def test_a_production_version_is_yanked(tmp_path: Path) -> None:
    core, within = await furnished()
    async with system(tmp_path, core) as made:
        await within.yank("acme", "look", 1, reason="the old logo", force=True)
        (complaint,) = await made.complaints()
        assert await reason_in_the_log(made, "acme") == "ADAPTER_YANKED"
    assert complaint.startswith("FAIL brand acme: look can't be painted with, its production version was yanked")
    assert "looksmith promote acme/look@" in complaint


async def test_a_worker_s_disk_is_full(tmp_path: Path) -> None:
    core, within = await furnished()
    data = b"larger" * 10_000
    await within.publish(header_for(data, brand="acme", adapter="look", family="studio"), [data])
    await within.promote(AdapterRef("acme", "look", 2))
    async with system(tmp_path, core, workers=0) as made:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"ulimit -f 16; exec {sys.executable} -m services.gpu_worker"),  # KiB a file
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "WORKER_NAME": "w1",
                "WORKER_ENGINE": "fake",
                "WORKER_REGISTRY": made.registry,
                "WORKER_ROUTERS": made.routers[0],
                "WORKER_DISK_CACHE": str(tmp_path / "cache"),
                "WORKER_SHUTDOWN_GRACE_S": "0",
            },
        )
        try:
            await until(made.workers, seconds=20)
            with pytest.raises(grpc.aio.AioRpcError, match="File too large"):
                await made.paint("acme")
            await until(lambda: _failed(made))
            (complaint,) = [each for each in await made.complaints() if "failed several" not in each]
        finally:
            process.terminate()
            _, log = await process.communicate()
    assert complaint.startswith("FAIL worker w1: its disk is full: adapter ")
    assert "WORKER_DISK_CACHE_BYTES" in complaint
    assert b'"event": "disk.full"' in log


async def _failed(made: System) -> object:
    return (await made.workers())["w1"].heartbeat.last_errors


async def test_a_worker_and_its_router_are_of_different_releases(well: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gpu_worker.compose.__version__", "0.0.9")
    with capture_logs() as logs:
        await well.add_worker("w2")
    (complaint,) = await well.complaints()
    assert complaint.startswith("WARN worker w2: runs release 0.0.9, its router ")
    (line,) = [line for line in logs if line["event"] == "worker.other_release"]
    assert (line["worker"], line["version"]) == ("w2", "0.0.9")


async def test_a_worker_s_clock_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core, _ = await furnished()
    ahead = partial(Machine, now=lambda: datetime.now(UTC) + timedelta(seconds=90))
    monkeypatch.setattr("services.gpu_worker.compose.Machine", ahead)
    async with system(tmp_path, core) as made:
        complaints = await made.complaints()
    assert [each.split(" -> ")[0] for each in complaints] == [
        "WARN worker w1: its clock beside its router's is 90 s ahead"
    ]


async def test_routers_that_do_not_see_the_same_workers_are_named(well: System) -> None:
    await well.add_router("r2")
    await well.add_worker("w2")  # at both
    (complaint,) = await well.complaints()
    assert complaint.startswith(f"WARN router {well.routers[1]}: does not see w1, which another router sees")

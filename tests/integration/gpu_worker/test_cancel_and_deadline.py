"""A caller who leaves, or whose time is up, while a real worker paints for it: its rows are free within one step.

The UNet is held at the beginning of each pass until the test allows it, so that a step is always under way when the
call ends.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from looksmith.errors import DeadlineExceeded
from looksmith.nouns import Brand
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.client import WorkerCall, WorkerClient
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import gpu_worker, make_engine
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient
from tests.unit.gpu_worker.engine import tiny
from tests.unit.gpu_worker.engine.passes import Pass, passes_of
from tests.unit.gpu_worker.worker_parts import eventually

pytestmark = [pytest.mark.integration]

#: Takes both rows of the engine for 64 steps.
LONG = pb.GenerateRequest(brand="hasty", prompt="a red boat", count=16, steps=8, report_steps=True)
SHORT = pb.GenerateRequest(brand="patient", prompt="a blue car", steps=2, report_steps=True)
BOTH_ROWS = [LONG.prompt, LONG.prompt]
SHORT_ALONE = [[SHORT.prompt]] * SHORT.steps
#: Two steps are allowed and seen; one more may have been under way when the call ended.
WITHIN_ONE_STEP = (2 * [BOTH_ROWS] + SHORT_ALONE, 3 * [BOTH_ROWS] + SHORT_ALONE)


class Gate:
    """Lets as many passes begin as it was told; a test that forgets it fails and does not hang."""

    def __init__(self) -> None:
        self._allowed = threading.Semaphore(0)

    def allow(self, passes: int) -> None:
        self._allowed.release(passes)

    def __call__(self, _: Pass) -> None:
        if not self._allowed.acquire(timeout=20):
            raise TimeoutError("no pass was allowed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@asynccontextmanager
async def worker(base: Path, folder: Path, gate: Gate) -> AsyncIterator[tuple[WorkerClient, list[Pass]]]:
    """A worker whose engine has two rows, and the passes that it begins."""
    settings = WorkerSettings.read(
        {
            "WORKER_NAME": "w1",
            "WORKER_REGISTRY": "unused",
            "WORKER_DISK_CACHE": str(folder / "cache"),
            "WORKER_RECIPES": str(tiny.write_recipe(folder / "tiny.toml", base)),
            "WORKER_THREADS": "1",
            "WORKER_BATCH_SIZES": "1,2",
            "WORKER_SHUTDOWN_GRACE_S": "0",
        }
    )
    registry = FakeRegistryClient()
    for brand in (LONG.brand, SHORT.brand):
        await registry.put_brand(Brand(brand))
    engine = make_engine(settings, steady_clock())
    assert isinstance(engine, BankEngine)
    async with (
        gpu_worker(settings, registry=registry, engine=engine) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with passes_of(engine, gate) as passes:
            try:
                yield WorkerClient(channel), passes
            finally:
                gate.allow(10_000)


async def read_until(call: WorkerCall, kind: str) -> pb.GenerateResponse:
    async for response in call:
        if response.WhichOneof("event") == kind:
            return response
    raise AssertionError(f"the call ended before {kind}")


async def ended(logged: list[EventDict], status: str) -> None:
    """Waits until the server has done with a call that ended so."""
    await eventually(lambda: any(line["event"] == "call.done" and line["status"] == status for line in logged))


async def test_cancelled_caller_s_rows_are_free_within_one_step_and_who_waited_is_painted(
    base: Path, tmp_path: Path, logged: list[EventDict]
) -> None:
    gate = Gate()
    async with worker(base, tmp_path, gate) as (client, passes), AsyncExitStack() as stack:
        async with client.generate(LONG, timeout_s=60) as call:
            gate.allow(2)
            while (await read_until(call, "step")).step.step < 2:
                pass
            other = await stack.enter_async_context(client.generate(SHORT, timeout_s=60))
            await read_until(other, "placed")
        await ended(logged, "CANCELLED")
        assert SHORT.prompt not in chain(*passes), "there was no room for it"
        gate.allow(1000)
        await read_until(other, "finished")
    assert passes in WITHIN_ONE_STEP


async def test_caller_whose_time_is_up_is_told_so_and_painted_for_one_more_step_at_most(
    base: Path, tmp_path: Path, logged: list[EventDict]
) -> None:
    gate = Gate()
    async with worker(base, tmp_path, gate) as (client, passes), AsyncExitStack() as stack:
        async with client.generate(LONG, timeout_s=1.5) as call:
            gate.allow(2)
            while (await read_until(call, "step")).step.step < 2:
                pass
            other = await stack.enter_async_context(client.generate(SHORT, timeout_s=60))
            await read_until(other, "placed")
            with pytest.raises(DeadlineExceeded):
                await read_until(call, "finished")
        await ended(logged, "DEADLINE_EXCEEDED")
        gate.allow(1000)
        await read_until(other, "finished")
    assert passes in WITHIN_ONE_STEP

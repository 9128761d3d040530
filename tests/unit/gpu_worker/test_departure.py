from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from structlog.testing import capture_logs

from services.chassis.interceptors import Call
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.departure import REPORT_S, OpenCalls, leave
from tests.unit.gpu_worker.worker_parts import eventually

METHOD = "/looksmith.v1.ImageGenerationService/Generate"


def call(method: str = METHOD) -> Call:
    return Call(method, None, {})  # type: ignore[arg-type]  # no layer here looks at the context


class Worker:
    """What leaving is told of: calls, whether it drains, and routers that hear of it when a test lets them."""

    def __init__(self) -> None:
        self.calls = OpenCalls(METHOD)
        self.told: list[str] = []

    def leaving(self, *reports: Any, drain_s: float = 5.0) -> asyncio.Task[None]:  # noqa: ANN401  # of any awaitables
        return asyncio.create_task(
            leave(
                calls=self.calls,
                drain=lambda: self.told.append("drain"),
                reports=reports,
                drain_s=drain_s,
                clock=steady_clock(),
            )
        )

    async def report(self, name: str, *, heard: asyncio.Event | None = None) -> None:
        self.told.append(name)
        if heard:
            await heard.wait()


async def test_without_calls_it_is_gone_as_soon_as_every_router_has_heard() -> None:
    worker, heard = Worker(), asyncio.Event()
    leaving = worker.leaving(worker.report("r1"), worker.report("r2", heard=heard))
    await eventually(lambda: len(worker.told) == 3)
    assert worker.told[0] == "drain", "a report that comes first would say that it takes jobs"
    assert not leaving.done()
    heard.set()
    await asyncio.wait_for(leaving, 0.5)


async def test_a_router_that_never_answers_is_waited_for_a_second() -> None:
    worker = Worker()
    began = time.monotonic()
    await worker.leaving(worker.report("r1", heard=asyncio.Event()))
    assert REPORT_S <= time.monotonic() - began < REPORT_S + 1


async def test_stays_until_the_last_call_is_answered() -> None:
    worker = Worker()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(worker.calls.layer(call()))
        leaving = worker.leaving()
        await eventually(lambda: worker.told)
        await asyncio.sleep(0.05)
        assert not leaving.done()
    await asyncio.wait_for(leaving, 0.5)


async def test_calls_of_other_methods_keep_nobody() -> None:
    worker = Worker()
    async with worker.calls.layer(call("/grpc.health.v1.Health/Watch")):
        await asyncio.wait_for(worker.leaving(), 0.5)


async def test_calls_that_take_too_long_are_left_and_said_so() -> None:
    worker = Worker()
    async with worker.calls.layer(call()):
        with capture_logs() as lines:
            await asyncio.wait_for(worker.leaving(drain_s=0.05), 1)
    assert [(line["event"], line["calls"]) for line in lines if line["event"] == "worker.left_calls"] == [
        ("worker.left_calls", 1)
    ]

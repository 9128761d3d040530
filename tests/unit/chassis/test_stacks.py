from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.chassis.stacks import frames


async def innermost() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 1


async def between(prompt: str) -> AsyncIterator[int]:
    assert prompt
    async for each in innermost():
        yield each


async def outermost() -> None:
    async for _ in between("a prompt that nobody may see"):
        pass


async def test_a_task_s_frames_go_down_through_generators_to_what_it_waits_for_and_show_no_variables() -> None:
    task = asyncio.create_task(outermost())
    await asyncio.sleep(0)
    told = list(frames(task.get_coro()))
    task.cancel()
    assert [frame.rpartition(" ")[2] for frame in told] == ["outermost", "between", "innermost", "Event.wait"]
    assert all(__file__ in frame for frame in told[:3])
    assert "nobody may see" not in "".join(told)

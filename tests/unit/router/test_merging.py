import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from services.router.merging import merged


async def counting(
    name: str, times: int, closed: list[str], error: Exception | None = None
) -> AsyncGenerator[str, None]:
    try:
        for number in range(times):
            yield f"{name}{number}"
            await asyncio.sleep(0)
        if error:
            raise error
    finally:
        closed.append(name)


async def test_streams_come_as_one_each_in_its_own_order() -> None:
    closed: list[str] = []
    got = [item async for item in merged([counting("a", 3, closed), counting("b", 5, closed)])]
    assert [item for item in got if item[0] == "a"] == ["a0", "a1", "a2"]
    assert [item for item in got if item[0] == "b"] == ["b0", "b1", "b2", "b3", "b4"]
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize("others", [0, 2])
async def test_a_stream_that_fails_lets_the_others_end(others: int) -> None:
    closed: list[str] = []
    got: list[str] = []

    async def read() -> None:
        streams = [counting("a", 2, closed, ValueError("a broke")), *[counting("b", 9, closed) for _ in range(others)]]
        async for item in merged(streams):
            got.append(item)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(ValueError, match="a broke"):
        await read()
    assert len(got) == 2 + 9 * others
    assert len(closed) == 1 + others


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_it_closes_the_streams(count: int) -> None:
    closed: list[str] = []
    async with aclosing(merged([counting(str(n), 10**9, closed) for n in range(count)])) as items:
        await anext(items)
    assert len(closed) == count


async def test_a_slow_reader_slows_the_streams() -> None:
    made = 0

    async def eager() -> AsyncGenerator[int, None]:
        nonlocal made
        while True:
            made += 1
            yield made

    async with aclosing(merged([eager(), eager()])) as items:
        await anext(items)
        for _ in range(50):
            await asyncio.sleep(0)
        assert made <= 5

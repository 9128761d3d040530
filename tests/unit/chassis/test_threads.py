import asyncio
import threading

from services.chassis.threads import default_pool, full_pool


def test_all_threads_of_a_pool_are_there_before_its_first_work() -> None:
    before = threading.active_count()
    with full_pool(5, "five") as pool:
        assert threading.active_count() == before + 5
        assert sum(pool.map(int, "12345")) == 15
        assert threading.active_count() == before + 5


async def test_what_runs_beside_the_loop_starts_no_more_threads() -> None:
    asyncio.get_running_loop().set_default_executor(default_pool())
    before = threading.active_count()
    together = threading.Barrier(3)
    await asyncio.gather(*(asyncio.to_thread(together.wait, 10) for _ in range(3)))
    assert threading.active_count() == before

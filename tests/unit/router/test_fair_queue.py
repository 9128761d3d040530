from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.fair_queue import MOST_SAVED, FairQueue


def anything(_item: object) -> bool:
    return True


def queue_of(jobs: dict[str, list[float]], weights: dict[str, float] | None = None) -> FairQueue[tuple[str, int]]:
    """Jobs by brand, each of so many GPU-seconds; an item is its brand and number."""
    queue = FairQueue[tuple[str, int]]()
    for brand, costs in jobs.items():
        weight = (weights or {}).get(brand, 1.0)
        for number, cost in enumerate(costs):
            queue.push((brand, number), brand=brand, weight=weight, cost=cost, deadline=100.0)
    return queue


def served(queue: FairQueue[tuple[str, int]], times: int, may: Callable[[tuple[str, int]], bool] = anything) -> str:
    return "".join(item[0] if (item := queue.take(may)) else "-" for _ in range(times))


def test_brands_take_turns_however_much_one_of_them_asks_for() -> None:
    assert served(queue_of({"a": [1.0] * 9, "b": [1.0] * 2, "c": [1.0]}), 7) == "abcabaa"


def test_turns_are_paid_in_gpu_seconds_not_in_jobs() -> None:
    order = served(queue_of({"a": [3.0] * 9, "b": [1.0] * 30}), 20)
    assert order.count("b") == 3 * order.count("a")


def test_weights_share_out_what_is_there() -> None:
    order = served(queue_of({"a": [1.0] * 30, "b": [1.0] * 30}, {"a": 2.0}), 15)
    assert order.count("a") == 2 * order.count("b")


def test_the_earliest_deadline_of_a_brand_goes_first_and_then_who_came_first() -> None:
    queue = FairQueue[str]()
    for item, deadline in (("late", 9.0), ("first", 5.0), ("second", 5.0)):
        queue.push(item, brand="a", weight=1.0, cost=1.0, deadline=deadline)
    assert [queue.take(anything) for _ in range(4)] == ["first", "second", "late", None]


def test_what_may_not_be_served_now_is_passed_over_and_keeps_its_place() -> None:
    queue = queue_of({"a": [1.0], "b": [1.0], "c": [1.0]})
    assert queue.take(lambda item: item[0] == "b") == ("b", 0)
    assert served(queue, 2) == "ac"


def test_a_brand_that_others_passed_by_at_another_worker_catches_up() -> None:
    queue = queue_of({"a": [1.0] * 9, "b": [1.0] * 9})
    assert served(queue, 4, may=lambda item: item[0] == "b") == "bbbb"
    assert served(queue, 4) == "aaaa"


def test_it_catches_up_no_further_than_it_may_save() -> None:
    queue = queue_of({"a": [1.0] * 50, "b": [1.0] * 50})
    served(queue, 30, may=lambda item: item[0] == "b")
    order = served(queue, 2 * int(MOST_SAVED))
    assert order.count("b") == pytest.approx(MOST_SAVED / 2, abs=1)


def test_a_brand_that_has_nothing_left_saves_nothing() -> None:
    queue = queue_of({"a": [1.0], "b": [1.0] * 20})
    assert served(queue, 10) == "abbbbbbbbb"
    for number in range(5):
        queue.push(("a", 10 + number), brand="a", weight=1.0, cost=1.0, deadline=100.0)
    assert served(queue, 6).count("a") == 3


def test_what_has_been_paid_for_goes_ahead_of_its_brand_s_turn() -> None:
    queue = queue_of({"a": [1.0] * 3, "b": [1.0] * 3})
    assert served(queue, 2) == "ab"
    queue.push(("b", 9), brand="b", weight=1.0, cost=0.0, deadline=1.0)
    assert queue.take(anything) == ("b", 9)


def test_what_is_due_is_named_and_can_be_taken_out() -> None:
    queue = FairQueue[str]()
    for item, brand, deadline in (("x", "a", 3.0), ("y", "b", 2.0), ("z", "a", 9.0)):
        queue.push(item, brand=brand, weight=1.0, cost=1.0, deadline=deadline)
    assert set(queue.due(3.0)) == {"x", "y"}
    assert (queue.remove("x"), queue.remove("x")) == (True, False)
    assert (len(queue), "x" in queue, queue.waiting("a"), queue.waiting("none")) == (2, False, 1, 0)


@given(
    costs=st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), min_size=2, max_size=5),
    weights=st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
)
def test_while_all_have_work_no_brand_gets_ahead_by_more_than_a_job_a_brand(
    costs: list[list[float]], weights: list[float]
) -> None:
    brands = dict(zip("abcde", costs, strict=False))
    queue = queue_of(brands, dict(zip("abcde", weights, strict=True)))
    had = Counter[str]()
    while all(queue.waiting(brand) for brand in brands):
        item = queue.take(anything)
        assert item
        had[item[0]] += brands[item[0]][item[1]]  # type: ignore[assignment]  # GPU-seconds are floats
        if not all(queue.waiting(brand) for brand in brands):
            break
        shares = {brand: had[brand] / weight for brand, weight in zip(brands, weights, strict=False)}
        longest = {brand: max(jobs) / weight for (brand, jobs), weight in zip(brands.items(), weights, strict=False)}
        for one in brands:
            for other in brands:
                assert shares[one] <= shares[other] + longest[one] + longest[other] + 1e-6
    assert sum(map(queue.waiting, brands)) == len(queue)

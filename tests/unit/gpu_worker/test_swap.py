import pytest

from looksmith.nouns import Tier
from services.gpu_worker.engine.protocol import Stage
from services.gpu_worker.swap import StageTime, SwapReport, swap_report

S = 10**9


def report(*stages: tuple[Stage, int, int], turn: int) -> SwapReport:
    times = [StageTime(stage, start * S, end * S) for stage, start, end in stages]
    return swap_report(times, tier=Tier.STORE, turn_ns=turn * S, bound_ns=99 * S, fetched_bytes=5)


def test_what_passed_before_the_turn_is_hidden_and_the_rest_was_waited_for() -> None:
    swap = report((Stage.FETCH, 0, 4), (Stage.COMPILE, 4, 5), (Stage.COPY, 9, 10), turn=3)
    assert (swap.hidden_s, swap.visible_s) == pytest.approx((3.0, 3.0))
    assert (swap.start_ns, swap.end_ns) == (0, 10 * S)


def test_time_between_stages_is_no_swap() -> None:
    swap = report((Stage.FETCH, 0, 1), (Stage.BIND, 8, 9), turn=8)
    assert (swap.hidden_s, swap.visible_s) == pytest.approx((1.0, 1.0))


def test_adapters_that_came_at_once_count_once() -> None:
    swap = report((Stage.FETCH, 0, 4), (Stage.FETCH, 1, 3), (Stage.FETCH, 2, 6), turn=0)
    assert swap.visible_s == pytest.approx(6.0)
    assert swap.stage_s(Stage.FETCH) == pytest.approx(6.0)
    assert swap.stage_s(Stage.VERIFY) == 0


def test_with_nothing_to_do_the_swap_is_a_moment_before_the_first_step() -> None:
    swap = report(turn=3)
    assert (swap.start_ns, swap.end_ns, swap.visible_s, swap.hidden_s) == (99 * S, 99 * S, 0.0, 0.0)

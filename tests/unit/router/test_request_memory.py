import pytest

from looksmith.nouns import AdapterUse
from services.router.errors import RequestIdReused
from services.router.request_memory import CAPACITY, REMEMBERED_S, RequestMemory
from tests.unit.router.router_parts import DIGEST, Clock, request, resolved, settled

RESOLVED = {AdapterUse("look"): resolved(version=3)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_retry_supersedes_the_try_that_still_runs(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    stopped: list[str] = []
    _, first = memory.begin(settled(), RESOLVED, "content")
    first.stop = lambda: stopped.append("first")
    _, second = memory.begin(settled(), RESOLVED, "content")
    assert (first.superseded, second.superseded, stopped) == (True, False, ["first"])


def test_other_content_under_an_id_is_refused_and_the_first_try_runs_on(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    _, first = memory.begin(settled(), RESOLVED, "content")
    with pytest.raises(RequestIdReused):
        memory.begin(settled(), RESOLVED, "other content")
    assert not first.superseded


def test_retry_paints_what_the_first_try_settled_less_what_its_caller_holds(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    first = settled(count=3)
    memory.begin(first, RESOLVED, "content")
    changed = settled(request(count=3, images_done=frozenset({0}), raw_prompt=True), seed=99)
    retried, _ = memory.begin(changed, RESOLVED, "content")
    assert (retried.final_prompt, retried.adapters) == (first.final_prompt, first.adapters)
    assert retried.images_to_paint == (1, 2)


def test_id_is_free_again_after_ten_minutes(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    memory.begin(settled(), RESOLVED, "content")
    clock.seconds += REMEMBERED_S + 1
    assert memory.recall("r1") is None
    memory.begin(settled(), RESOLVED, "other content")


def test_each_use_of_an_id_begins_its_ten_minutes_anew(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    for _ in range(3):
        memory.begin(settled(), RESOLVED, "content")
        clock.seconds += REMEMBERED_S - 1
    assert memory.recall("r1")


def test_longest_unseen_id_is_forgotten_when_memory_is_full(clock: Clock) -> None:
    memory = RequestMemory(clock=clock, capacity=2)
    for request_id in ("r1", "r2", "r1", "r3"):
        memory.begin(settled(request(request_id)), RESOLVED, "content")
    assert [memory.recall(r) is not None for r in ("r1", "r2", "r3")] == [True, False, True]
    assert CAPACITY > 1000


@pytest.mark.parametrize(
    ("use", "known"),
    [
        (AdapterUse("look"), True),
        (AdapterUse("look", 3), True),
        (AdapterUse("look", DIGEST, weight=0.5), True),
        (AdapterUse("look", 4), False),
        (AdapterUse("look", "canary"), False),
        (AdapterUse("other"), False),
    ],
)
def test_adapter_means_what_it_meant_at_the_first_try_however_it_is_spelled(
    clock: Clock,
    use: AdapterUse,
    known: bool,  # noqa: FBT001  # a column of the table
) -> None:
    memory = RequestMemory(clock=clock)
    memory.begin(settled(), RESOLVED, "content")
    remembered = memory.recall("r1")
    assert remembered and (remembered.resolution(use) is not None) == known


def test_id_of_a_try_that_no_worker_accepted_is_free_for_other_content(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    _, refused = memory.begin(settled(), RESOLVED, "content")
    memory.give_back("r1", refused)
    assert memory.recall("r1") is None
    memory.begin(settled(), RESOLVED, "other content")


def test_id_of_an_accepted_request_stays_claimed_though_a_retry_is_refused(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    _, first = memory.begin(settled(), RESOLVED, "content")
    first.accepted = True
    memory.give_back("r1", first)
    _, second = memory.begin(settled(), RESOLVED, "content")
    memory.give_back("r1", second)
    with pytest.raises(RequestIdReused):
        memory.begin(settled(), RESOLVED, "other content")


def test_end_of_a_superseded_try_leaves_the_id_to_the_one_that_took_over(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    _, first = memory.begin(settled(), RESOLVED, "content")
    memory.begin(settled(), RESOLVED, "content")
    memory.give_back("r1", first)
    with pytest.raises(RequestIdReused):
        memory.begin(settled(), RESOLVED, "other content")


def test_recent_requests_are_told_newest_first_and_old_ones_not(clock: Clock) -> None:
    memory = RequestMemory(clock=clock)
    for request_id in ("r1", "r2", "r3", "r2"):
        memory.begin(settled(request(request_id)), RESOLVED, "content")
        clock.seconds += REMEMBERED_S / 3
    assert [each.request.request_id for each in memory.recent()] == ["r2", "r3"]

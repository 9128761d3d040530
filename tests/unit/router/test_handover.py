from __future__ import annotations

import pytest

from looksmith.nouns import AdapterUse, Tier
from services.chassis.painting import Settled, settle
from services.router.consistent_hash import rank
from services.router.fleet import Fleet, Member
from services.router.handover import MOST_A_WORKER, Handover, heirs
from services.router.members import Command, Heartbeat, Prefetch, WorkerState
from tests.unit.router.router_parts import (
    DIGEST,
    NOON,
    Clock,
    NoConnection,
    acme,
    recipe,
    registration,
    request,
    resolved,
    settled,
    snapshot,
    view,
)

NAMES = ("w1", "w2", "w3", "w4")
HOME, NEXT, THIRD, LAST = rank("acme", dict.fromkeys(NAMES, 1.0))
HELD = {DIGEST: Tier.DEVICE}


def used(digest: str) -> Settled:
    """A request of acme with the adapter of that digest."""
    asked, use = request(), AdapterUse("look")
    return settle(asked, brand=acme().brands["acme"], resolved={use: resolved(digest=digest)}, recipe=recipe())


def test_the_next_in_hash_order_fetches_what_was_in_use() -> None:
    fleet = snapshot(*map(view, NAMES))
    assert heirs(view(HOME, residency=HELD), fleet, [settled()]) == [(NEXT, Prefetch("acme", DIGEST))]


def test_one_that_can_not_paint_it_is_passed_over() -> None:
    other = registration(THIRD, recipes=(recipe("turbo"),))
    fleet = snapshot(view(HOME), view(NEXT, state=WorkerState.DRAINING), view(THIRD, registration=other), view(LAST))
    assert heirs(view(HOME, residency=HELD), fleet, [settled()]) == [(LAST, Prefetch("acme", DIGEST))]


@pytest.mark.parametrize("tier", [Tier.HOST, Tier.DEVICE])
def test_one_that_holds_it_already_is_told_nothing(tier: Tier) -> None:
    fleet = snapshot(view(HOME), view(NEXT, residency={DIGEST: tier}), view(THIRD))
    assert heirs(view(HOME, residency=HELD), fleet, [settled()]) == []


def test_what_is_not_in_the_leaving_worker_s_memory_is_not_handed_over() -> None:
    fleet = snapshot(*map(view, NAMES))
    assert heirs(view(HOME, residency={DIGEST: Tier.DISK}), fleet, [settled()]) == []
    assert heirs(view(HOME, residency={"c" * 64: Tier.DEVICE}), fleet, [settled()]) == []


def test_nobody_inherits_where_nobody_is_left() -> None:
    assert heirs(view(HOME, residency=HELD), snapshot(view(HOME)), [settled()]) == []


def test_the_newest_are_handed_over_once_each_and_only_so_many() -> None:
    digests = [f"{number:064x}" for number in range(MOST_A_WORKER + 5)]
    leaving = view(HOME, residency=dict.fromkeys(digests, Tier.HOST))
    recent = [used(digest) for digest in digests for _ in range(2)]
    assert heirs(leaving, snapshot(*map(view, NAMES)), recent) == [
        (NEXT, Prefetch("acme", digest)) for digest in digests[:MOST_A_WORKER]
    ]


def test_a_worker_hands_over_once_when_it_begins_to_drain() -> None:
    told: list[tuple[str, Command]] = []
    members: dict[str, Member] = {}
    fleet = Fleet(router="r1", lease_s=3.0, clock=Clock(), now=lambda: NOON)
    fleet.watch(Handover(fleet=fleet, recent=lambda: [settled()]).on_change)

    def join(name: str, incarnation: str) -> None:
        who = registration(name, incarnation=incarnation)
        member = fleet.join(who, NoConnection(), tell=lambda command: told.append((name, command)))
        fleet.heard(member, Heartbeat(1, full=True, residency=HELD if name == HOME else {}))
        members[name] = member

    for name in NAMES:
        join(name, "i1")
    assert told == []
    for sequence in (2, 3, 4):
        fleet.heard(members[HOME], Heartbeat(sequence, full=False, draining=True))
    assert told == [(NEXT, Prefetch("acme", DIGEST))]
    join(HOME, "i2")  # its next process may drain too
    fleet.heard(members[HOME], Heartbeat(2, full=False, draining=True))
    assert told == [(NEXT, Prefetch("acme", DIGEST))] * 2

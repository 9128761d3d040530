from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.consistent_hash import rank

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,12}", fullmatch=True)
FLEETS = st.dictionaries(NAMES, st.floats(0.1, 10), min_size=2, max_size=8)


def test_orders_as_it_did_when_brands_were_first_placed() -> None:
    workers = dict.fromkeys(("w1", "w2", "w3", "w4"), 1.0)
    assert rank("acme", workers) == ("w4", "w3", "w1", "w2")
    assert rank("bolt", workers) == ("w1", "w2", "w3", "w4")


@given(NAMES, FLEETS)
def test_order_does_not_depend_on_how_workers_are_listed(brand: str, fleet: dict[str, float]) -> None:
    assert rank(brand, fleet) == rank(brand, dict(reversed(fleet.items())))
    assert sorted(rank(brand, fleet)) == sorted(fleet)


@given(NAMES, FLEETS, st.data())
def test_only_the_brands_of_a_lost_worker_move(brand: str, fleet: dict[str, float], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(sorted(fleet)))
    left = {name: weight for name, weight in fleet.items() if name != lost}
    assert rank(brand, left) == tuple(name for name in rank(brand, fleet) if name != lost)


@given(NAMES, FLEETS, st.data())
def test_a_heavier_worker_only_gains_brands(brand: str, fleet: dict[str, float], data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(fleet)))
    before, after = rank(brand, fleet), rank(brand, {**fleet, grown: fleet[grown] * 2})
    assert after.index(grown) <= before.index(grown)
    assert [name for name in after if name != grown] == [name for name in before if name != grown]


def test_shares_follow_the_weights() -> None:
    homes = Counter(rank(f"brand-{i}", {"slow": 1.0, "fast": 3.0})[0] for i in range(4000))
    assert homes["fast"] / 4000 == pytest.approx(0.75, abs=0.03)

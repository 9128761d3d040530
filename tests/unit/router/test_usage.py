from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from services.router.errors import UsageNotKept
from services.router.usage import BrandUsage, Usage
from tests.unit.router.router_parts import NOON


class Wall:
    """The wall clock, turned by hand."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def turn(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def usage(wall: Wall) -> Usage:
    return Usage(now=wall)


def test_images_and_gpu_seconds_add_up_by_brand_in_the_order_of_names(usage: Usage) -> None:
    usage.add("harbour", images=2)
    usage.add("acme", images=1, gpu_seconds=1.5)
    usage.add("harbour", gpu_seconds=0.5)
    assert usage.of() == (BrandUsage("acme", 1, 1.5), BrandUsage("harbour", 2, 0.5))
    assert usage.of("harbour") == (BrandUsage("harbour", 2, 0.5),)
    assert usage.of("nobody") == ()


def test_usage_since_a_time_counts_its_minute_and_all_after_it(usage: Usage, wall: Wall) -> None:
    for _ in range(3):
        usage.add("acme", images=1)
        wall.turn(seconds=60)
    assert usage.of(since=NOON) == (BrandUsage("acme", 3, 0.0),)
    assert usage.of(since=NOON + timedelta(seconds=61)) == (BrandUsage("acme", 2, 0.0),)
    assert usage.of(since=NOON + timedelta(seconds=150)) == (BrandUsage("acme", 1, 0.0),)
    assert usage.of(since=wall.time) == ()


def test_the_last_hour_is_told_apart_and_the_time_before_it_only_in_the_total(usage: Usage, wall: Wall) -> None:
    usage.add("acme", images=1)
    wall.turn(minutes=30)
    usage.add("acme", images=10)
    wall.turn(minutes=30)
    assert usage.of(since=wall.time - timedelta(hours=1)) == (BrandUsage("acme", 11, 0.0),)
    wall.turn(minutes=1)
    usage.add("acme", images=100)
    with pytest.raises(UsageNotKept) as caught:
        usage.of(since=NOON)
    assert "tells minutes apart since 2026-01-01T12:01:00+00:00" in caught.value.message
    assert [violation.field for violation in caught.value.violations] == ["since"]
    assert usage.of(since=wall.time - timedelta(hours=1)) == (BrandUsage("acme", 110, 0.0),)
    assert usage.of() == (BrandUsage("acme", 111, 0.0),)


def test_usage_before_the_router_s_start_is_refused_saying_when_that_was(usage: Usage) -> None:
    with pytest.raises(UsageNotKept) as caught:
        usage.of(since=NOON - timedelta(seconds=1))
    assert "started at 2026-01-01T12:00:00+00:00" in caught.value.message


def test_minutes_that_have_passed_are_forgotten_so_that_memory_stays_bounded(usage: Usage, wall: Wall) -> None:
    for _ in range(200):
        usage.add("acme", images=1)
        wall.turn(minutes=1)
    assert len(usage._minutes) == 61
    assert usage.of() == (BrandUsage("acme", 200, 0.0),)


def test_brands_past_the_bound_are_summed_up_without_a_name(wall: Wall) -> None:
    usage = Usage(now=wall, brands=2)
    for brand in ("a", "b", "c", "d", "a"):
        usage.add(brand, images=1)
    told = (BrandUsage("", 2, 0.0), BrandUsage("a", 2, 0.0), BrandUsage("b", 1, 0.0))
    assert usage.of() == told
    assert usage.of(since=NOON) == told

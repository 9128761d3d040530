"""What bounds a brand's use, and repeated attempts."""

import pytest

from services.router.errors import BrandRateLimited
from services.router.rate_limits import RateLimits
from services.router.retry_budget import RetryBudget
from tests.unit.router.router_parts import Clock


def test_a_brand_may_use_a_minute_s_gpu_seconds_at_once_and_then_as_they_come_back() -> None:
    clock = Clock()
    limits = RateLimits(clock=clock)
    limits.check("acme", 30)
    limits.spend("acme", 30, 31)
    with pytest.raises(BrandRateLimited) as refused:
        limits.check("acme", 30)
    assert refused.value.retry_after_s == pytest.approx(2)
    clock.seconds += 2.1
    limits.check("acme", 30)
    limits.check("other", 30)


def test_what_was_charged_too_much_is_given_back() -> None:
    limits = RateLimits(clock=Clock())
    limits.spend("acme", 10, 15)
    limits.spend("acme", 10, -6)
    limits.check("acme", 10)


def test_a_brand_saves_no_more_than_a_minute_s() -> None:
    clock = Clock()
    limits = RateLimits(clock=clock)
    limits.spend("acme", 10, 1)
    clock.seconds += 3600
    limits.spend("acme", 10, 10)
    with pytest.raises(BrandRateLimited):
        limits.check("acme", 10)


def test_without_a_limit_nothing_is_counted() -> None:
    limits = RateLimits(clock=Clock())
    limits.spend("acme", 0, 1e9)
    limits.check("acme", 0)


def test_attempts_are_repeated_until_the_budget_is_spent_and_requests_fill_it_up() -> None:
    budget = RetryBudget(most=2, earned=0.5)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(2):
        budget.request()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(100):
        budget.request()
    assert [budget.spend() for _ in range(3)] == [True, True, False]

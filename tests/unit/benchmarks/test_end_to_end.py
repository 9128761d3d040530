"""What counts as wrong while an alias is moved to and fro."""

from __future__ import annotations

import pytest

from benchmarks.end_to_end import Flip, Painted, faults

#: Version 2 from the start, 1 as of 10.5 at the latest, 2 again as of 20.5, and 1 for 0.3 s before that.
FLIPS = [
    Flip(2, float("-inf"), float("-inf")),
    Flip(1, 10.0, 10.5),
    Flip(2, 20.0, 20.5),
    Flip(1, 30.0, 30.1),
    Flip(2, 30.4, 30.5),
]


@pytest.mark.parametrize(
    ("accepted_at", "versions"),
    [(9.9, {2}), (10.0, {1, 2}), (12.4, {1, 2}), (12.6, {1}), (19.9, {1}), (22.4, {1, 2}), (22.6, {2}), (32.0, {1, 2}),
     (32.6, {2})],
)  # fmt: skip
def test_a_request_may_have_what_the_alias_named_within_the_last_two_seconds_and_nothing_else(
    accepted_at: float, versions: set[int]
) -> None:
    fine = {version for version in (1, 2) if not faults(Painted(accepted_at, version, (version, version)), FLIPS)}
    assert fine == versions


@pytest.mark.parametrize("shown", [(1, 2), (2, 2)])
def test_pictures_must_all_be_of_the_version_that_the_reply_names(shown: tuple[int, ...]) -> None:
    assert faults(Painted(11.0, 1, shown), FLIPS)

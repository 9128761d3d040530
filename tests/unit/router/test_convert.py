from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.duration_pb2 import Duration

from looksmith.errors import InvalidField
from looksmith.nouns import Tier
from looksmith.v1 import fleet_pb2 as pb
from services.router.convert import heartbeat_to_pb, join_from_pb
from services.router.members import Heartbeat

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def heard(**fields: object) -> Heartbeat:
    heartbeat = join_from_pb(pb.JoinRequest(heartbeat=pb.WorkerHeartbeat(**fields)))  # type: ignore[arg-type]  # a test names its fields
    assert isinstance(heartbeat, Heartbeat)
    return heartbeat


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), -1, 315_576_000_001])
def test_a_time_that_cannot_have_passed_is_refused_by_its_field(seconds: int) -> None:
    with pytest.raises(InvalidField) as caught:
        heard(stalled=Duration(seconds=seconds))
    assert caught.value.violations[0].field == "heartbeat.stalled"
    with pytest.raises(InvalidField) as caught:
        heard(reset=pb.WorkerReset(phase=pb.RESET_PHASE_DONE, duration=Duration(seconds=seconds)))
    assert caught.value.violations[0].field == "heartbeat.reset.duration"


def test_a_tier_that_only_newer_workers_know_counts_as_none() -> None:
    held = pb.Residency(digest="a" * 64, tier=99)  # type: ignore[arg-type]  # open enums take any number
    assert heard(residency=[held]).residency == {"a" * 64: Tier.STORE}


def test_the_longest_time_comes_back_as_it_was() -> None:
    longest = Duration(seconds=315_576_000_000)
    assert heartbeat_to_pb(heard(stalled=longest)).stalled == longest

"""The router's way to a worker, once the worker's session has ended."""

from __future__ import annotations

import pytest

from services.chassis.painting import Pinned
from services.router.errors import WorkerLost
from services.router.worker_connection import GrpcWorkerConnection
from tests.unit.router.router_parts import registration, settled


async def test_an_attempt_that_begins_when_its_worker_has_just_left_fails_like_any_at_a_lost_worker() -> None:
    connection = GrpcWorkerConnection(registration("w1"))
    await connection.retire()
    pinned = Pinned((), "", "", attempt=1, router="r1")
    with pytest.raises(WorkerLost, match="just left"):
        async with connection.generate(settled(), pinned, timeout_s=1.0, metadata={}):
            pass

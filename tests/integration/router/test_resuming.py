"""The client and a router: a request that was dropped is asked for again under its id, and goes on where it was."""

from __future__ import annotations

import asyncio

import pytest

from looksmith.client import Looksmith
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting import derived_seed
from services.router.client import FleetClient
from tests.integration.router.scripted_workers import dies_within_the_second_image, joined_worker, picture

pytestmark = pytest.mark.integration

THREE_KITES = pb.GenerateRequest(brand="acme", prompt="a red kite", request_id="r1", count=3)


def expected() -> list[bytes]:
    return [picture(image, derived_seed("r1") + image) for image in range(3)]


async def test_request_whose_only_worker_died_is_finished_by_the_next_one_at_the_same_router(address: str) -> None:
    async with (
        Looksmith([address]) as client,
        FleetClient.connect(address) as fleet,
        joined_worker(address, "w1", dies_within_the_second_image),
    ):
        asking = asyncio.create_task(client.paint(THREE_KITES, timeout_s=30))
        async with asyncio.timeout(10):
            while await fleet.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        async with joined_worker(address, "w2") as second:
            painting = await asking
    assert [image.data for image in painting.images] == expected()
    assert list(second.requests[0].images_done) == [0]


async def test_request_that_finds_no_worker_waits_as_long_as_it_is_told_and_is_painted(address: str) -> None:
    async with Looksmith([address]) as client:
        asking = asyncio.create_task(client.paint(THREE_KITES, timeout_s=30))
        await asyncio.sleep(0.2)  # the first refusal has come by now; were it later, the test would pass no less
        async with joined_worker(address, "w1") as worker:
            painting = await asking
    assert [image.data for image in painting.images] == expected()
    assert len(worker.requests) == 1

"""A fleet of real processes of which one is killed in the middle of its work: callers notice nothing."""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from benchmarks.callers import Asked, Callers, Moment, image_in, mid_denoise, mid_image
from benchmarks.fleet_processes import Fleet, Kind, fleet, house_style_files
from benchmarks.lost_workers import first_run, key, request
from looksmith.v1 import generation_pb2 as pb
from services.registry.seaweedfs import RunningStore

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
]

SMALL, LARGE = 128, 768  # of noise: one chunk, and seven
BLOWS = 4  # one may come too late: what a worker has sent reaches its router, though the worker is dead
KIND = Kind("benchmarks.hanging_worker", {}, sizes=(SMALL, LARGE), workers=2, routers=2)
Act = Callable[[pb.GenerateResponse, Asked], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(weed: RunningStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Two workers and two routers. Every test leaves it whole."""
    folder = tmp_path_factory.mktemp("fleet")
    async with fleet(folder, KIND, house_style_files(folder), on=weed.beside("failover")) as running:
        yield running


async def struck(running: Fleet, size: int, moment: Moment, act: Act, *, max_resumes: int = 0) -> Asked:
    """The request that was struck, once all have ended; their images are those of undisturbed requests."""
    first, second = (router.address for router in running.routers)
    requests = [request(number, size, images=4) for number in range(2)]
    undisturbed = await first_run((first,), requests)
    calling = Callers([(first, second)] * 2, itertools.cycle(requests), max_resumes=max_resumes)
    async with calling.calling():
        asked = await calling.strike(moment, act)
    assert not calling.faults(), [each.error for each in calling.asked]
    assert {key(each.request): each.witness.sha256 for each in calling.asked} == undisturbed
    return asked


def worker_of(message: pb.GenerateResponse, asked: Asked) -> str:
    return asked.witness.worker_of(image_in(message))


def mid_later_image(message: pb.GenerateResponse, asked: Asked) -> bool:
    """The worker has finished an image before, which must not come again."""
    whole = {asked.witness.worker_of(image) for image in asked.witness.sha256}
    return mid_image(message, asked) and worker_of(message, asked) in whole


@pytest.mark.parametrize(("moment", "size"), [(mid_denoise, SMALL), (mid_later_image, LARGE)])
async def test_a_worker_killed_in_mid_denoise_or_mid_image_costs_no_image_and_no_byte(
    running: Fleet, moment: Moment, size: int
) -> None:
    victims: list[str] = []

    def kill(message: pb.GenerateResponse, asked: Asked) -> None:
        victims.append(worker_of(message, asked))
        running.worker(victims[-1]).signal(signal.SIGKILL)

    for _ in range(BLOWS):
        witness = (await struck(running, size, moment, kill)).witness
        victim = running.worker(victims[-1])
        await victim.ended(within_s=10)
        await running.anew(victim)
        if moment is mid_denoise or witness.restarted:
            assert witness.attempts == 2
            assert bool(witness.restarted) == (moment is mid_later_image)
            return
    pytest.fail(f"{BLOWS} workers had sent all of an image of which a caller had heard the first chunk")


async def test_a_router_killed_in_mid_image_costs_callers_who_know_another_nothing(running: Fleet) -> None:
    first = running.routers[0]
    asked = await struck(
        running, LARGE, mid_later_image, lambda _message, _asked: first.signal(signal.SIGKILL), max_resumes=4
    )
    assert asked.witness.accepted == 2
    await first.ended(within_s=10)

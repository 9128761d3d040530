"""Workers that are killed, stopped or hang while they paint: what it costs their callers, and how soon others go on."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from benchmarks.batches import HOUSE_STYLES
from benchmarks.callers import Asked, Callers, Moment, image_in, mid_denoise, mid_image, numbered
from benchmarks.fleet_processes import Fleet, Kind, fleet, house_style_files
from benchmarks.mortal import Mortal
from benchmarks.redispatches import redispatches_ms
from looksmith.v1 import generation_pb2 as pb

KILLS, EXACT_KILLS, STOPS, HANGS = 40, 20, 8, 5
CALLERS, IMAGES, STEPS = 4, 4, 4
#: A large picture is 12 chunks of noise: of fewer, all may be on their way before the first has been read.
SMALL, LARGE = 128, 1024
#: Seeds are few, so that every request has been painted undisturbed before.
SEEDS = 6
_EXPORTED_S = 1.5

#: Twice the measured times: some 0.3 s a picture, and 40 ms at least between two steps.
STAND_INS = Kind("benchmarks.hanging_worker", {"WORKER_TIMED_SCALE": "2"}, sizes=(SMALL, LARGE))
STUDIO = Kind("services.gpu_worker", {"WORKER_THREADS": "1"}, workers=2)


def request(number: int, size: int = SMALL, *, images: int = IMAGES) -> pb.GenerateRequest:
    """Brands in turn, each with the same few seeds; every picture's bytes depend on these and the size alone."""
    return pb.GenerateRequest(
        brand=HOUSE_STYLES[number % len(HOUSE_STYLES)],
        prompt="a red kite on a blue background",
        seed=1000 * (number % SEEDS),
        count=images,
        steps=STEPS,
        width=size,
        height=size,
        report_steps=True,
        reproducible=True,
    )


def key(asked: pb.GenerateRequest) -> tuple[str, int, int]:
    return asked.brand, asked.seed, asked.width


#: SHA-256 by image, of each of the requests.
Pictures = Mapping[tuple[str, int, int], Mapping[int, str]]


@dataclass(eq=False)
class Lost:
    """What was done to workers, and what came of it."""

    fleet: Fleet
    callers: Callers
    undisturbed: Pictures
    struck: list[Asked] = field(default_factory=list)
    away: list[tuple[str, float, float]] = field(default_factory=list)  # workers, and from when to when, by the wall
    mistaken: int = 0  # see lost_by_mistake

    async def strike(self, moment: Moment, number: signal.Signals) -> tuple[Asked, Mortal, float]:
        """Sends a signal to the worker that paints, at that moment: whom it struck, and when."""
        done: list[tuple[Mortal, float]] = []

        def act(message: pb.GenerateResponse, asked: Asked) -> None:
            victim = asked.witness.worker_of(image_in(message))
            self.away.append((victim, time.time(), float("inf")))
            self.fleet.worker(victim).signal(number)
            asked.witness.strike(victim)
            done.append((self.fleet.worker(victim), time.perf_counter()))

        asked = await self.callers.strike(moment, act)
        self.struck.append(asked)
        return asked, *done[0]

    async def back(self) -> None:
        """Returns once the worker that was struck last is ready again."""
        name, since, _ = self.away[-1]
        await self.fleet.joined(self.fleet.worker(name))
        self.away[-1] = (name, since, time.time())

    def lost_by_mistake(self) -> int:
        """How often the router took a worker for lost or hung that nothing had been done to."""
        told = [line for router in self.fleet.routers for line in router.said("worker.left", "attempt.failed")]
        lost = [line for line in told if line.get("reason") in {None, "WORKER_LOST", "WORKER_STALLED"}]
        mistaken = [line for line in lost if not self._away(line)]
        for line in mistaken:
            print(f"lost by mistake: {line}")
        return len(mistaken)

    def _away(self, line: Mapping[str, str]) -> bool:
        at = datetime.fromisoformat(line["timestamp"]).timestamp()
        return any(name == line["worker"] and since <= at <= until for name, since, until in self.away)

    async def revive(self, victim: Mortal) -> None:
        """Ends a worker's process, if it lives, and starts another in its place."""
        victim.signal(signal.SIGKILL)
        await victim.ended(within_s=10)
        del self.callers.painted[victim.name]
        await self.fleet.anew(victim)
        await self.back()


def fault_figures(name: str, callers: Callers, undisturbed: Pictures) -> dict[str, float]:
    """What went wrong for callers, under a name; what they were told goes to standard output."""
    faults = callers.faults()
    for asked in callers.asked:
        if asked.error:
            print(f"{name}: {asked.error}")
    other = sum(
        undisturbed[key(asked.request)].get(image) != sha256
        for asked in callers.asked
        for image, sha256 in asked.witness.sha256.items()
    )
    return {
        f"{name}_requests": float(len(callers.asked)),
        f"{name}_images": float(sum(len(asked.witness.sha256) for asked in callers.asked)),
        f"{name}_errors": float(faults["errors"]),
        f"{name}_duplicates": float(faults["duplicates"]),
        f"{name}_missing": float(faults["missing"]),
        f"{name}_gaps": float(faults["gaps"] + faults["restarted without a part"]),
        f"{name}_other_bytes": float(other),
    }


@asynccontextmanager
async def losing(folder: Path, kind: Kind) -> AsyncIterator[Lost]:
    """A fleet whose callers are asking, each with no resuming of its own: what the router lets through is an error."""
    async with fleet(folder, kind, house_style_files(folder)) as running:
        router = (running.routers[0].address,)
        requests = every_request(kind.sizes)
        undisturbed = await first_run(router, requests)
        callers = Callers([router] * CALLERS, numbered(lambda number: requests[number % len(requests)]), max_resumes=0)
        lost = Lost(running, callers, undisturbed)
        async with callers.calling():
            yield lost
        lost.mistaken = lost.lost_by_mistake()  # before the fleet is taken down, which routers notice


def every_request(sizes: Sequence[int]) -> list[pb.GenerateRequest]:
    """Sizes in turn, so that each is always under way."""
    return [request(number, size) for number in range(len(HOUSE_STYLES) * SEEDS // 2) for size in sizes]


async def first_run(
    router: tuple[str, ...], requests: Sequence[pb.GenerateRequest]
) -> dict[tuple[str, int, int], dict[int, str]]:
    """What each request's images are while nothing happens. Raises: RuntimeError, if something does."""
    callers = Callers([router], iter(requests), max_resumes=0)
    asked = [await callers.ask(each, router) for each in tqdm(requests, desc="undisturbed")]
    if faults := +callers.faults():
        raise RuntimeError(f"without a fault there were {dict(faults)}: {[each.error for each in asked if each.error]}")
    return {key(each.request): dict(each.witness.sha256) for each in asked}


# Kills


async def kills(folder: Path) -> dict[str, float]:
    """SIGKILL in mid-denoise and in mid-image, in turn, of workers with the timed engine."""
    return await _kills(folder, STAND_INS, KILLS, "failover", (mid_denoise, mid_image))


async def exact(folder: Path) -> dict[str, float]:
    """SIGKILL in mid-denoise of workers that really paint, reproducibly."""
    return await _kills(folder, STUDIO, EXACT_KILLS, "exact", (mid_denoise,))


async def _kills(folder: Path, kind: Kind, count: int, name: str, moments: tuple[Moment, ...]) -> dict[str, float]:
    went_on: list[float] = []
    async with losing(folder, kind) as lost:
        for number in tqdm(range(count), desc=f"{name}: kills"):
            asked, victim, at = await lost.strike(moments[number % len(moments)], signal.SIGKILL)
            await lost.revive(victim)
            await asked.over.wait()
            if asked.witness.went_on:
                went_on.append(asked.witness.went_on.at - at)
    await asyncio.sleep(_EXPORTED_S)
    took = redispatches_ms(lost.fleet.traces, [asked.trace for asked in lost.callers.asked])
    return {
        **fault_figures(name, lost.callers, lost.undisturbed),
        f"{name}_kills": float(count),
        f"{name}_lost_by_mistake": float(lost.mistaken),
        f"{name}_struck_images_restarted": float(sum(bool(asked.witness.restarted) for asked in lost.struck)),
        f"{name}_redispatched": float(len(took)),
        **summed(took, f"{name}_redispatch", "ms"),
        **summed(went_on, f"{name}_goes_on", "s"),
    }


# Stops and hangs


async def stops(folder: Path) -> dict[str, float]:
    """SIGSTOP of the worker that paints; once others have gone on, SIGCONT, until it paints again."""
    went_on: list[float] = []
    again: list[float] = []
    async with losing(folder, STAND_INS) as lost:
        for _ in tqdm(range(STOPS), desc="stops"):
            asked, victim, at = await lost.strike(mid_denoise, signal.SIGSTOP)
            await asked.over.wait()
            if asked.witness.went_on:
                went_on.append(asked.witness.went_on.at - at)
            before = len(lost.callers.asked)
            woken = time.perf_counter()
            victim.signal(signal.SIGCONT)
            await lost.back()
            await _paints(lost.callers, victim.name, since=before)
            again.append(time.perf_counter() - woken)
    return {
        **fault_figures("stop", lost.callers, lost.undisturbed),
        "stop_went_on": float(len(went_on)),
        "stop_lost_by_mistake": float(lost.mistaken),
        **summed(went_on, "stop_goes_on", "s"),
        **summed(again, "stop_paints_again", "s"),
    }


async def hangs(folder: Path) -> dict[str, float]:
    """An engine whose tick never returns; its process is replaced once others have gone on.

    Of workers that have painted: what an engine's usual pace is, nobody knows before.
    """
    went_on: list[float] = []
    async with losing(folder, STAND_INS) as lost:

        def by_one_that_has_painted(message: pb.GenerateResponse, asked: Asked) -> bool:
            return mid_denoise(message, asked) and asked.witness.worker_of(message.step.image) in lost.callers.painted

        for _ in tqdm(range(HANGS), desc="hangs"):
            asked, victim, at = await lost.strike(by_one_that_has_painted, signal.SIGUSR1)
            await asked.over.wait()
            if asked.witness.went_on:
                went_on.append(asked.witness.went_on.at - at)
            await lost.revive(victim)
    return {
        **fault_figures("hang", lost.callers, lost.undisturbed),
        "hang_went_on": float(len(went_on)),
        "hang_lost_by_mistake": float(lost.mistaken),
        **summed(went_on, "hang_goes_on", "s"),
    }


async def _paints(callers: Callers, worker: str, *, since: int) -> None:
    """Returns once a request that began after the first ``since`` has been placed at a worker."""
    async with asyncio.timeout(30):
        while not any(worker in asked.witness.workers for asked in callers.asked[since:]):  # noqa: ASYNC110  # told no other way
            await asyncio.sleep(0.02)


def summed(took: Sequence[float], name: str, unit: str) -> dict[str, float]:
    if not took:
        return {f"{name}_p50_{unit}": float("inf"), f"{name}_max_{unit}": float("inf")}
    return {f"{name}_p50_{unit}": statistics.median(took), f"{name}_max_{unit}": max(took)}

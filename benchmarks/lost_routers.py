"""Routers that are ended in the middle of an image, one of two, under callers that know both.

By SIGTERM, which lets a router finish what it has begun, and by SIGKILL, after which callers go on at the other one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.callers import Asked, Callers, mid_image, numbered
from benchmarks.fleet_processes import Fleet, fleet, house_style_files
from benchmarks.lost_workers import CALLERS, STAND_INS, every_request, fault_figures, first_run, summed
from benchmarks.mortal import Mortal
from looksmith.v1 import generation_pb2 as pb

ENDS = 8  # by each signal
#: Seconds for a router to finish what it has begun.
ENDS_WITHIN_S = 60.0


async def routers(folder: Path) -> dict[str, float]:
    """Each end strikes the router that an image comes from; the next one waits until all workers are back there."""
    ended_in: list[float] = []
    resumed = dict.fromkeys((signal.SIGTERM, signal.SIGKILL), 0)
    async with fleet(folder, replace(STAND_INS, routers=2), house_style_files(folder)) as running:
        first, second = (router.address for router in running.routers)
        requests = every_request(STAND_INS.sizes)
        undisturbed = await first_run((first,), requests)
        callers = Callers(
            [(first, second), (second, first)] * (CALLERS // 2),
            numbered(lambda number: requests[number % len(requests)]),
            max_resumes=4,
        )
        async with callers.calling():
            for turn in tqdm(range(2 * ENDS), desc="routers ended"):
                number = list(resumed)[turn % 2]
                asked, victim = await _strike(running, callers, number, since=time.perf_counter())
                began = time.perf_counter()
                await victim.ended(within_s=ENDS_WITHIN_S)
                if number is signal.SIGTERM:
                    ended_in.append(time.perf_counter() - began)
                await asked.over.wait()
                resumed[number] += asked.witness.accepted > 1
                await back(running, victim)
    return {
        **fault_figures("router", callers, undisturbed),
        "router_sigterms": float(ENDS),
        "router_sigkills": float(ENDS),
        "router_sigterm_struck_resumed": float(resumed[signal.SIGTERM]),
        "router_sigkill_struck_resumed": float(resumed[signal.SIGKILL]),
        "router_resumed": float(sum(asked.witness.accepted > 1 for asked in callers.asked)),
        **summed(ended_in, "router_sigterm_ends", "s"),
    }


async def _strike(running: Fleet, callers: Callers, number: signal.Signals, *, since: float) -> tuple[Asked, Mortal]:
    """Sends a signal to the router that an image comes from, in the middle of a request's first one.

    Of requests that began before ``since``, when all routers serve, nobody knows which router has them.
    """

    def at_its_first_router(message: pb.GenerateResponse, asked: Asked) -> bool:
        first = asked.began > since and asked.witness.accepted == 1 and not asked.witness.sha256
        return first and mid_image(message, asked)

    def victim(asked: Asked) -> Mortal:
        return next(router for router in running.routers if router.address == asked.routers[0])

    asked = await callers.strike(at_its_first_router, lambda _message, asked: victim(asked).signal(number))
    return asked, victim(asked)


async def back(running: Fleet, router: Mortal) -> None:
    """Starts a router that has ended, and returns once all workers are ready there."""
    await router.start()
    await router.serves()
    await asyncio.gather(*map(running.joined, running.workers))

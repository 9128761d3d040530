"""How the images of one request are shared out over workers, where that ends it sooner. Pure.

Decides how many portions of what size there are; each is placed like a request of its own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace

from services.router.fleet import FleetSnapshot, WorkerView
from services.router.placement import SWAP_COSTS, Job, Rating, SwapCosts, able_workers

#: A request is shared out if it then ends in at most so much of the time: every portion is a call and a swap more.
WORTH_SHARING = 0.9


def portion_sizes(
    job: Job, fleet: FleetSnapshot, now: float, *, costs: SwapCosts = SWAP_COSTS, excluded: Collection[str] = ()
) -> tuple[int, ...]:
    """Images of each portion, the largest first; one portion if sharing is not worth it.

    Image after image goes to the worker that would be done with it first. A worker that lacks the adapter begins
    later, by what bringing it costs and by what placement asks of a new home.
    """
    if job.images < 2:
        return (job.images,)
    one = replace(job, images=1)
    single = _comparable(able_workers(one, fleet, now, excluded=excluded, costs=costs), one, fleet)
    if len(single) < 2:
        return (job.images,)
    alone = min(rating.expected + (job.images - 1) * rating.painting for rating in single)
    ends = [(rating.expected, number) for number, rating in enumerate(single)]
    heapq.heapify(ends)
    given = [0] * len(single)
    last = 0.0
    for _ in range(job.images):
        end, number = heapq.heappop(ends)
        given[number] += 1
        last = max(last, end)
        heapq.heappush(ends, (end + single[number].painting, number))
    if last > WORTH_SHARING * alone:
        return (job.images,)
    return tuple(sorted((count for count in given if count), reverse=True))


def _comparable(offers: Sequence[Rating], job: Job, fleet: FleetSnapshot) -> list[Rating]:
    """Offers by what painting costs in the smallest batch that any worker of the kind has measured.

    An image costs less in a larger batch: who has only painted such would seem faster than its like, and get more.
    """
    views = {view.name: view for view in fleet.workers}
    rows: dict[str, float] = {}
    finest: dict[Hashable, Rating] = {}
    for offer in offers:
        measured = views[offer.worker].cost(job.recipe.name, job.size)
        rows[offer.worker] = measured.rows if measured else math.inf
        best = finest.setdefault(_kind(views[offer.worker]), offer)
        if rows[offer.worker] < rows[best.worker]:
            finest[_kind(views[offer.worker])] = offer
    compared = []
    for offer in offers:
        best = finest[_kind(views[offer.worker])]
        if rows[best.worker] < rows[offer.worker]:
            expected = offer.expected - offer.painting + best.painting
            compared.append(offer._replace(expected=expected, painting=best.painting))
        else:
            compared.append(offer)
    return compared


def _kind(view: WorkerView) -> Hashable:
    who = view.registration
    return who.engine, who.device, who.speed, who.max_rows


def dealt(images: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """``images`` cut into portions of those sizes, in order."""
    portions, at = [], 0
    for size in sizes:
        portions.append(tuple(images[at : at + size]))
        at += size
    return portions

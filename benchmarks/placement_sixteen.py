"""A request of sixteen pictures in virtual time: how long it takes on several workers, and how long others wait for it.

The real portions, scheduler and fleet over workers of world B, which hold the adapters already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.placement_simulation import NOON, RECIPE, SIZE, STEPS, NoConnection, Overlapped
from benchmarks.simulated_workers import Journey, SimulatedWorker, Timeline
from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.router.demand import Demand
from services.router.fleet import Fleet
from services.router.members import Heartbeat, Registration
from services.router.placement import Job
from services.router.portions import portion_sizes
from services.router.scheduler import Scheduler, Ticket
from services.router.warmth import Warmth

#: The other brand asks so soon after the big request: its first batches have just begun.
SOON_S = 0.1


class Sixteen:
    """Workers that wait for a request, and what becomes of it."""

    def __init__(self, *, workers: int) -> None:
        self._timeline = Timeline()
        clock: Callable[[], float] = lambda: self._timeline.now  # noqa: E731
        self._fleet = Fleet(router="simulated", lease_s=1e9, clock=clock, now=lambda: NOON)
        self._scheduler = Scheduler(
            fleet=self._fleet, demand=Demand(), warmth=Warmth(fleet=self._fleet, clock=clock), clock=clock
        )
        self._workers: dict[str, SimulatedWorker] = {}
        self._tickets: dict[Journey, Ticket] = {}
        self._left: dict[Ticket, int] = {}
        self.journeys: dict[int, list[Journey]] = {}  # by brand
        world = Overlapped()
        for number in range(workers):
            name = f"worker-{number}"
            registration = Registration(name, "1", "simulated:1", (RECIPE,), max_rows=world.max_rows)
            member = self._fleet.join(registration, NoConnection())
            residency = {_digest(brand): Tier.DEVICE for brand in (0, 1)}
            self._fleet.heard(member, Heartbeat(1, full=True, residency=residency, costs=world.costs))
            worker = self._workers[name] = world.worker(self._timeline, self._done, [])
            for digest in residency:
                worker.tiers.use(digest)

    def ask(self, brand: int, images: int, after: float = 0.0) -> None:
        self._timeline.after(after, partial(self._enter, brand, images))

    def run(self) -> None:
        self._timeline.run()

    def _enter(self, brand: int, images: int) -> None:
        now = self._timeline.now
        job = Job(f"brand-{brand}", RECIPE, SIZE, STEPS, images, digests=(_digest(brand),))
        self.journeys[brand] = [Journey(brand, _digest(brand), now) for _ in range(images)]
        waiting = iter(self.journeys[brand])
        for size in portion_sizes(job, self._fleet.snapshot(), now):
            portion = Job(job.brand, RECIPE, SIZE, STEPS, size, digests=job.digests)
            pictures = [next(waiting) for _ in range(size)]
            ticket = self._scheduler.enter(
                portion, arrived=now, deadline=now + 180, settled=partial(self._settled, pictures)
            )
            self._left[ticket] = size
            self._tickets |= dict.fromkeys(pictures, ticket)

    def _settled(self, pictures: list[Journey], error: LooksmithError | None) -> None:
        if error:
            raise error
        self._timeline.after(0.0, partial(self._give, pictures))

    def _give(self, pictures: list[Journey]) -> None:
        self._workers[self._tickets[pictures[0]].worker].give(*pictures)

    def _done(self, picture: Journey) -> None:
        picture.finished = self._timeline.now
        ticket = self._tickets[picture]
        self._left[ticket] -= 1
        if not self._left[ticket]:
            self._scheduler.leave(ticket)


def sixteen() -> dict[str, float]:
    """The time of sixteen pictures on four workers over that on one, and how many batches a single one waits beside."""
    took = {}
    for workers in (1, 4):
        alone = Sixteen(workers=workers)
        alone.ask(0, 16)
        alone.run()
        took[workers] = max(picture.finished for picture in alone.journeys[0])
    waits = []
    for workers in (1, 4):
        beside = Sixteen(workers=workers)
        beside.ask(0, 16)
        beside.ask(1, 1, after=SOON_S)
        beside.run()
        (single,) = beside.journeys[1]
        waits.append((single.started - single.arrived) / Overlapped().batch_seconds[-1])
    return {"sixteen_on_four_workers": took[4] / took[1], "single_delayed_by_batches": max(waits)}


def _digest(brand: int) -> str:
    return f"{brand:064x}"

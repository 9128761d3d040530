"""One Generate call: settles the request, follows its job and tells what happens as a stream of replies.

Owns the order of replies, spans and timings; queueing, swapping and painting are the painter's.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.chassis.painting import ImageFormat, PaintRequest, Settled, content_digest
from services.chassis.painting_events import (
    Accepted,
    Chunk,
    Event,
    Finished,
    ImageBlocked,
    ImageDone,
    Placed,
    Preview,
    Step,
    Swapped,
    Timings,
)
from services.gpu_worker import telemetry
from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.encode import encode
from services.gpu_worker.engine import protocol
from services.gpu_worker.engine.protocol import (
    EngineJob,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
    WeightedAdapter,
)
from services.gpu_worker.errors import RequestIdReused, Superseded
from services.gpu_worker.painter import Bound, JobEvent, Painter, Painting
from services.gpu_worker.provenance import xmp_packet
from services.gpu_worker.settlement import Settler
from services.gpu_worker.swap import SwapReport
from services.gpu_worker.withdrawals import Withdrawals

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
ASKED_DIRECTLY = "asked directly"


@dataclass(frozen=True, eq=False)
class _Try:
    """A request that is being painted, or a portion of one."""

    content: str
    settled: Settled
    painting: Painting

    def complements(self, other: _Try) -> bool:
        """Whether the two are portions of one request, shared out by one router."""
        mine, its = self.settled.request.pinned, other.settled.request.pinned
        return bool(mine and its and mine.router == its.router and mine.portion != its.portion and its.portion)


@dataclass
class _Spent:
    """Seconds by stage, and what else the last message sums up."""

    bound: Bound | None = None
    stages: defaultdict[Stage, float] = field(default_factory=lambda: defaultdict(float))
    gpu_seconds: float = 0.0
    blocked: int = 0  # images


class Generation:
    def __init__(
        self,
        *,
        worker: str,
        engine: str,
        settler: Settler,
        painter: Painter,
        withdrawals: Withdrawals,
        tier_of: Callable[[str], Tier],
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._worker, self._engine, self._settler, self._painter = worker, engine, settler, painter
        self._withdrawals, self._tier_of, self._clock, self._new_id = withdrawals, tier_of, clock, new_id
        self._tries: defaultdict[str, list[_Try]] = defaultdict(list)  # by request

    async def generate(self, request: PaintRequest, *, left_s: float | None) -> AsyncGenerator[Event, None]:
        """Replies in the order of generation.proto. ``left_s``: seconds until the caller gives up; None: never.

        Raises:
            LooksmithError: what is wrong with the request, its adapters, or this worker.
        """
        arrived = self._clock()
        structlog.contextvars.bind_contextvars(request_id=request.request_id, brand=request.brand)
        # 1. Settle what the request leaves open
        settlement = await self._settler.settle(request)
        settled = settlement.settled
        telemetry.span("settle", arrived, self._clock())
        job = _engine_job(self._new_id(), settled)
        tiers = [self._tier_of(adapter.digest) for adapter in job.adapters]
        router, attempt = (request.pinned.router, request.pinned.attempt) if request.pinned else ("", 1)
        spent = _Spent()
        # 2. Join the queue: adapters begin to come while the caller hears that the request is accepted
        async with self._painter.painting(job, router=router, request_id=request.request_id, left_s=left_s) as painting:
            with self._only_try(settled, painting) as current:
                if refusal := await self._refusal(current):
                    raise refusal
                yield Accepted(settled, settlement.stale_since)
                reason = f"placed by {router}" if router else ASKED_DIRECTLY
                yield Placed(self._worker, reason, max(tiers, default=None), attempt)
                # 3. Pass on what happens
                async for event in painting.events:
                    async for reply in self._replies(event, settled, spent):
                        yield reply
        telemetry.images_painted.add(len(job.images) - spent.blocked, {"brand": request.brand})
        telemetry.gpu_seconds.add(spent.gpu_seconds, {"brand": request.brand})
        log.info("job.painted", images=len(job.images), blocked=spent.blocked, gpu_seconds=round(spent.gpu_seconds, 4))
        yield Finished(self._worker, self._engine, settled, self._timings(spent, arrived), spent.gpu_seconds, attempt)

    async def end_refused(self) -> None:
        """Ends requests whose adapters have been withdrawn; pictures that have begun are painted and sent."""

        async def look_at(current: _Try) -> None:
            if refusal := await self._refusal(current):
                log.info("job.withdrawn", request_id=current.settled.request.request_id, reason=refusal.reason)
                await current.painting.curtail(refusal)

        await asyncio.gather(*map(look_at, itertools.chain.from_iterable(self._tries.values())))

    async def _refusal(self, current: _Try) -> LooksmithError | None:
        return await self._withdrawals.refusal(current.settled.request.brand, current.settled.adapters)

    @contextmanager
    def _only_try(self, settled: Settled, painting: Painting) -> Iterator[_Try]:
        """Ends earlier tries of the same request. From entry on, ``end_refused`` knows this one.

        Another portion that the same router has sent is no earlier try: the images are shared out, and portions may
        meet here once another worker is lost.

        Raises:
            RequestIdReused: the earlier request under this id had other content.
        """
        identity = settled.request.request_id
        content = content_digest(settled.request, settled)
        current = _Try(content, settled, painting)
        known = self._tries[identity]
        try:
            for earlier in list(known):
                if earlier.content != current.content:
                    raise RequestIdReused(identity)
                if not current.complements(earlier):
                    known.remove(earlier)
                    earlier.painting.give_up(Superseded(identity))
            known.append(current)
            yield current
        finally:
            if current in known:
                known.remove(current)
            if not known and self._tries.get(identity) is known:
                del self._tries[identity]

    async def _replies(self, event: JobEvent, settled: Settled, spent: _Spent) -> AsyncIterator[Event]:
        match event:
            case Bound():
                telemetry.record_bound(event)
                spent.bound = event
                yield _swapped(event.swap)
            case StageDone():
                telemetry.record_stage(event)
                spent.stages[event.stage] += seconds(event.start_ns, event.end_ns)
            case StepDone():
                if settled.request.report_steps:
                    yield Step(event.image, event.step, event.steps, event.batch_rows)
            case PreviewReady():
                origin = xmp_packet(settled, event.image)
                jpeg = await asyncio.to_thread(encode, event.pixels, ImageFormat.JPEG, origin)
                yield Preview(event.image, event.step, b"" if settled.request.omit_image_bytes else jpeg)
            case ImageReady():
                async for reply in self._image(event, settled, spent):
                    yield reply
            case protocol.ImageBlocked():
                blocked = ImageBlocked(event.image, event.seed)
                telemetry.record_blocked(blocked, recipe=settled.recipe.name)
                spent.blocked += 1
                yield blocked
            case JobDone():
                self._job_done(event, settled, spent)

    async def _image(self, ready: ImageReady, settled: Settled, spent: _Spent) -> AsyncIterator[Event]:
        request, origin = settled.request, xmp_packet(settled, ready.image)
        began = self._clock()
        data = await asyncio.to_thread(encode, ready.pixels, request.image_format, origin)
        encoded = self._clock()
        telemetry.span(Stage.IMAGE_ENCODE.value, began, encoded)
        spent.stages[Stage.IMAGE_ENCODE] += seconds(began, encoded)
        for offset in range(0, len(data), CHUNK_BYTES):
            part = data[offset : offset + CHUNK_BYTES]
            yield Chunk(ready.image, offset, b"" if request.omit_image_bytes else part)
        yield ImageDone(
            image=ready.image,
            seed=ready.seed,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            image_format=request.image_format,
            width=ready.pixels.width,
            height=ready.pixels.height,
        )
        telemetry.span("send", encoded, self._clock(), {"looksmith.bytes": len(data)})

    def _job_done(self, done: JobDone, settled: Settled, spent: _Spent) -> None:
        spent.gpu_seconds = done.gpu_seconds
        if not settled.images_to_paint:  # every trace tells how long denoising took, if only that it took none
            now = self._clock()
            telemetry.record_stage(StageDone(done.job, Stage.DENOISE, now, now))

    def _timings(self, spent: _Spent, arrived: int) -> Timings:
        bound = spent.bound
        return Timings(
            total=seconds(arrived, self._clock()),
            wait=seconds(bound.wait_start_ns, bound.wait_end_ns) if bound else 0.0,
            swap_visible=bound.swap.visible_s if bound else 0.0,
            swap_hidden=bound.swap.hidden_s if bound else 0.0,
            prompt_encode=spent.stages[Stage.PROMPT_ENCODE],
            denoise=spent.stages[Stage.DENOISE],
            vae_decode=spent.stages[Stage.VAE_DECODE],
            image_encode=spent.stages[Stage.IMAGE_ENCODE],
        )


def _swapped(swap: SwapReport) -> Swapped:
    return Swapped(
        tier=swap.tier,
        visible_s=swap.visible_s,
        hidden_s=swap.hidden_s,
        fetch_s=swap.stage_s(Stage.FETCH),
        verify_s=swap.stage_s(Stage.VERIFY),
        compile_s=swap.stage_s(Stage.COMPILE),
        copy_s=swap.stage_s(Stage.COPY),
        bind_s=swap.stage_s(Stage.BIND),
        fetched_bytes=swap.fetched_bytes,
    )


def _engine_job(identity: str, settled: Settled) -> EngineJob:
    return EngineJob(
        id=identity,
        brand=settled.request.brand,
        recipe=settled.recipe.name,
        prompt=settled.final_prompt,
        negative_prompt=settled.negative_prompt,
        adapters=tuple(WeightedAdapter(adapter.digest, adapter.weight) for adapter in settled.adapters),
        images=tuple(ImageTask(image, settled.image_seed(image)) for image in settled.images_to_paint),
        width=settled.width,
        height=settled.height,
        steps=settled.steps,
        guidance=settled.guidance,
        preview_every=settled.request.preview_every,
        reproducible=settled.request.reproducible,
    )

"""Painting events from protobuf and back: what routers send to workers and callers."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from google.protobuf.duration_pb2 import Duration

from looksmith import convert
from looksmith.nouns import AdapterUse, Tier
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting import Pinned, Settled
from services.chassis.painting_pb import IMAGE_FORMAT_TO_PB, pinned_to_pb
from services.router.events import Accepted, Event, Finished, ImageRestarted, Kind, Placed, WorkerEvent


def tier_to_pb(tier: Tier | None) -> pb.Tier.ValueType:
    return pb.Tier.Value(f"TIER_{tier.name}") if tier else pb.TIER_UNSPECIFIED


def tier_from_pb(tier: pb.Tier.ValueType) -> Tier | None:
    return Tier(tier) if tier else None


def duration_to_pb(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def settled_to_pb(settled: Settled, pinned: Pinned) -> pb.GenerateRequest:
    """The request for a worker: all that was settled is spelled out, so that every attempt paints the same."""
    request = settled.request
    return pb.GenerateRequest(
        brand=request.brand,
        prompt=request.prompt,
        negative_prompt=settled.negative_prompt,
        adapters=[convert.use_to_pb(AdapterUse(a.adapter, a.digest, a.weight)) for a in settled.adapters],
        no_adapters=not settled.adapters,
        recipe=settled.recipe.name,
        count=request.count,
        seed=settled.seed,
        width=settled.width,
        height=settled.height,
        steps=settled.steps,
        guidance=settled.guidance,
        image_format=IMAGE_FORMAT_TO_PB[request.image_format],
        report_steps=request.report_steps,
        preview_every=request.preview_every,
        omit_image_bytes=request.omit_image_bytes,
        raw_prompt=request.raw_prompt,
        allow_truncation=request.allow_truncation,
        request_id=request.request_id,
        images_done=sorted(request.images_done),
        reproducible=request.reproducible,
        pinned=pinned_to_pb(pinned),
    )


def worker_event_from_pb(message: pb.GenerateResponse) -> WorkerEvent:
    kind = Kind(message.WhichOneof("event") or Kind.UNKNOWN)
    match kind:
        case Kind.CHUNK:
            return WorkerEvent(kind, message, image=message.chunk.image)
        case Kind.IMAGE_DONE:
            return WorkerEvent(kind, message, image=message.image_done.image)
        case Kind.FINISHED:
            return WorkerEvent(kind, message, gpu_seconds=message.finished.gpu_seconds)
    return WorkerEvent(kind, message)


def event_to_pb(event: Event) -> pb.GenerateResponse:
    match event:
        case Accepted():
            return pb.GenerateResponse(accepted=_accepted_to_pb(event))
        case Placed(worker, reason, tier, attempt):
            placed = pb.Placed(worker=worker, reason=reason, tier=tier_to_pb(tier), attempt=attempt)
            return pb.GenerateResponse(placed=placed)
        case ImageRestarted(image):
            return pb.GenerateResponse(image_restarted=pb.ImageRestarted(image=image))
        case Finished():
            return _finished_to_pb(event)
        case WorkerEvent():
            return _message_of(event)


def _accepted_to_pb(accepted: Accepted) -> pb.Accepted:
    settled = accepted.settled
    return pb.Accepted(
        request_id=settled.request.request_id,
        seed=settled.seed,
        adapters=map(convert.pinned_to_pb, settled.adapters),
        recipe=settled.recipe.name,
        recipe_digest=settled.recipe.digest,
        warnings=settled.warnings,
        stale_since=convert.time_to_pb(accepted.stale_since),
    )


def _finished_to_pb(finished: Finished) -> pb.GenerateResponse:
    message = pb.GenerateResponse()
    message.CopyFrom(_message_of(finished.event))
    message.finished.attempts = finished.attempts
    message.finished.timings.total.CopyFrom(duration_to_pb(finished.total_s))
    message.finished.timings.queue.CopyFrom(duration_to_pb(finished.queue_s))
    return message


def _message_of(event: WorkerEvent) -> pb.GenerateResponse:
    return cast("pb.GenerateResponse", event.message)  # what worker_event_from_pb put in

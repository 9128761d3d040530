"""Replies to protobuf. Requests come in through services.chassis.painting_pb."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from looksmith import convert
from looksmith.nouns import Tier
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting_pb import IMAGE_FORMAT_TO_PB
from services.gpu_worker.engine.protocol import Stage, StepDone
from services.gpu_worker.replies import (
    Accepted,
    Chunk,
    Finished,
    ImageDone,
    Placed,
    Preview,
    Reply,
    Swapped,
    Timings,
)
from services.gpu_worker.swap import SwapReport


def reply_to_pb(reply: Reply) -> pb.GenerateResponse:  # noqa: PLR0911  # one a kind of reply
    match reply:
        case Accepted():
            return pb.GenerateResponse(accepted=_accepted_to_pb(reply))
        case Placed(worker, reason, tier, attempt):
            placed = pb.Placed(worker=worker, reason=reason, tier=_tier_to_pb(tier), attempt=attempt)
            return pb.GenerateResponse(placed=placed)
        case Swapped(swap):
            return pb.GenerateResponse(swapped=_swap_to_pb(swap))
        case StepDone(image=image, step=step, steps=steps, batch_rows=rows):
            return pb.GenerateResponse(step=pb.StepDone(image=image, step=step, steps=steps, batch_rows=rows))
        case Preview(image, step, jpeg):
            return pb.GenerateResponse(preview=pb.Preview(image=image, step=step, jpeg=jpeg))
        case Chunk(image, offset, data):
            return pb.GenerateResponse(chunk=pb.ImageChunk(image=image, offset=offset, data=data))
        case ImageDone():
            return pb.GenerateResponse(image_done=_image_done_to_pb(reply))
        case Finished():
            return pb.GenerateResponse(finished=_finished_to_pb(reply))


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


def _swap_to_pb(swap: SwapReport) -> pb.Swapped:
    return pb.Swapped(
        tier=_tier_to_pb(swap.tier),
        visible=_duration(swap.visible_s),
        hidden=_duration(swap.hidden_s),
        fetch=_duration(swap.stage_s(Stage.FETCH)),
        verify=_duration(swap.stage_s(Stage.VERIFY)),
        compile=_duration(swap.stage_s(Stage.COMPILE)),
        copy=_duration(swap.stage_s(Stage.COPY)),
        bind=_duration(swap.stage_s(Stage.BIND)),
        fetched_bytes=swap.fetched_bytes,
    )


def _image_done_to_pb(done: ImageDone) -> pb.ImageDone:
    return pb.ImageDone(
        image=done.image,
        seed=done.seed,
        sha256=done.sha256,
        size_bytes=done.size_bytes,
        image_format=IMAGE_FORMAT_TO_PB[done.image_format],
        width=done.width,
        height=done.height,
    )


def _finished_to_pb(finished: Finished) -> pb.Finished:
    settled = finished.settled
    return pb.Finished(
        worker=finished.worker,
        engine=finished.engine,
        adapters=map(convert.pinned_to_pb, settled.adapters),
        base_digest=settled.recipe.base_digest,
        recipe=settled.recipe.name,
        recipe_digest=settled.recipe.digest,
        final_prompt=settled.final_prompt,
        timings=_timings_to_pb(finished.timings),
        gpu_seconds=finished.gpu_seconds,
        attempts=finished.attempts,
        warnings=settled.warnings,
    )


def _timings_to_pb(timings: Timings) -> pb.Timings:
    return pb.Timings(
        total=_duration(timings.total),
        wait=_duration(timings.wait),
        swap_visible=_duration(timings.swap_visible),
        swap_hidden=_duration(timings.swap_hidden),
        prompt_encode=_duration(timings.prompt_encode),
        denoise=_duration(timings.denoise),
        vae_decode=_duration(timings.vae_decode),
        image_encode=_duration(timings.image_encode),
    )


def _tier_to_pb(tier: Tier | None) -> pb.Tier.ValueType:
    return pb.Tier.Value(f"TIER_{tier.name}") if tier else pb.TIER_UNSPECIFIED


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration

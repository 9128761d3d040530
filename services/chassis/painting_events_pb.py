"""Painting events to protobuf, for the two services that answer Generate. Requests are painting_pb's."""

from __future__ import annotations

from looksmith import convert
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting_events import (
    Accepted,
    Chunk,
    Event,
    Finished,
    ImageBlocked,
    ImageDone,
    ImageRestarted,
    Placed,
    Preview,
    Queued,
    Step,
    Swapped,
    Timings,
)
from services.chassis.painting_pb import IMAGE_FORMAT_TO_PB, duration_to_pb, tier_to_pb


def event_to_pb(event: Event) -> pb.GenerateResponse:  # noqa: C901, PLR0911  # one a kind of event
    match event:
        case Queued():
            return pb.GenerateResponse(queued=_queued_to_pb(event))
        case Accepted():
            return pb.GenerateResponse(accepted=_accepted_to_pb(event))
        case Placed(worker, reason, tier, attempt, images):
            placed = pb.Placed(worker=worker, reason=reason, tier=tier_to_pb(tier), attempt=attempt, images=images)
            return pb.GenerateResponse(placed=placed)
        case Swapped():
            return pb.GenerateResponse(swapped=_swapped_to_pb(event))
        case Step(image, step, steps, rows):
            return pb.GenerateResponse(step=pb.StepDone(image=image, step=step, steps=steps, batch_rows=rows))
        case Preview(image, step, jpeg):
            return pb.GenerateResponse(preview=pb.Preview(image=image, step=step, jpeg=jpeg))
        case Chunk(image, offset, data):
            return pb.GenerateResponse(chunk=pb.ImageChunk(image=image, offset=offset, data=data))
        case ImageDone():
            return pb.GenerateResponse(image_done=_image_done_to_pb(event))
        case ImageBlocked(image, seed, reason):
            return pb.GenerateResponse(image_blocked=pb.ImageBlocked(image=image, seed=seed, reason=reason))
        case ImageRestarted(image):
            return pb.GenerateResponse(image_restarted=pb.ImageRestarted(image=image))
        case Finished():
            return pb.GenerateResponse(finished=_finished_to_pb(event))


def _queued_to_pb(queued: Queued) -> pb.Queued:
    message = pb.Queued(reason=queued.reason, waited=duration_to_pb(queued.waited_s))
    if queued.expected_s is not None:
        message.expected.CopyFrom(duration_to_pb(queued.expected_s))
    return message


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
        width=settled.width,
        height=settled.height,
    )


def _swapped_to_pb(swapped: Swapped) -> pb.Swapped:
    return pb.Swapped(
        tier=tier_to_pb(swapped.tier),
        visible=duration_to_pb(swapped.visible_s),
        hidden=duration_to_pb(swapped.hidden_s),
        fetch=duration_to_pb(swapped.fetch_s),
        verify=duration_to_pb(swapped.verify_s),
        compile=duration_to_pb(swapped.compile_s),
        copy=duration_to_pb(swapped.copy_s),
        bind=duration_to_pb(swapped.bind_s),
        fetched_bytes=swapped.fetched_bytes,
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
        total=duration_to_pb(timings.total),
        wait=duration_to_pb(timings.wait),
        swap_visible=duration_to_pb(timings.swap_visible),
        swap_hidden=duration_to_pb(timings.swap_hidden),
        prompt_encode=duration_to_pb(timings.prompt_encode),
        denoise=duration_to_pb(timings.denoise),
        vae_decode=duration_to_pb(timings.vae_decode),
        image_encode=duration_to_pb(timings.image_encode),
    )

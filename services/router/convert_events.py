"""A worker's messages from protobuf, and all that a router tells its caller to protobuf."""

from __future__ import annotations

from typing import cast

from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting_events_pb import event_to_pb
from services.chassis.painting_pb import duration_to_pb
from services.router.events import Kind, LastEvent, RouterEvent, WorkerEvent


def worker_event_from_pb(message: pb.GenerateResponse) -> WorkerEvent:
    kind = Kind(message.WhichOneof("event") or Kind.UNKNOWN)
    match kind:
        case Kind.CHUNK:
            return WorkerEvent(kind, message, image=message.chunk.image)
        case Kind.IMAGE_DONE:
            return WorkerEvent(kind, message, image=message.image_done.image)
        case Kind.IMAGE_BLOCKED:
            return WorkerEvent(kind, message, image=message.image_blocked.image, reason=message.image_blocked.reason)
        case Kind.FINISHED:
            return WorkerEvent(kind, message, gpu_seconds=message.finished.gpu_seconds)
    return WorkerEvent(kind, message)


def router_event_to_pb(event: RouterEvent) -> pb.GenerateResponse:
    match event:
        case WorkerEvent():
            return _message_of(event)
        case LastEvent():
            return _last_to_pb(event)
    return event_to_pb(event)


def _last_to_pb(last: LastEvent) -> pb.GenerateResponse:
    message = pb.GenerateResponse()
    message.CopyFrom(_message_of(last.event))
    message.finished.attempts = last.attempts
    message.finished.gpu_seconds = last.gpu_seconds
    message.finished.timings.total.CopyFrom(duration_to_pb(last.total_s))
    message.finished.timings.queue.CopyFrom(duration_to_pb(last.queue_s))
    return message


def _message_of(event: WorkerEvent) -> pb.GenerateResponse:
    return cast("pb.GenerateResponse", event.message)  # what worker_event_from_pb put in

"""The gRPC edge of a worker: protobuf to request, events to protobuf. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from looksmith.nouns import Action
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis import access
from services.chassis.painting_events_pb import event_to_pb
from services.chassis.painting_pb import request_from_pb
from services.gpu_worker.generation import Generation


class ImageGenerationServicer(rpc.ImageGenerationServiceServicer):
    def __init__(self, *, generation: Generation, new_request_id: Callable[[], str]) -> None:
        self._generation, self._new_request_id = generation, new_request_id

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        asked = request_from_pb(request, new_request_id=self._new_request_id())
        if asked.pinned:  # names files by their digests, of whatever brand: only who may use them all is believed
            access.check_every(Action.GENERATE)
        async with aclosing(self._generation.generate(asked, left_s=context.time_remaining())) as events:
            async for event in events:
                yield event_to_pb(event)

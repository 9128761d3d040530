"""Workers that do as a test says: real servers on port 0 with real sessions, and no engine behind them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import grpc

from looksmith.errors import Internal, InvalidField
from looksmith.nouns import Tier
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.server import ServedApi, grpc_server
from services.chassis.settings import ServiceSettings
from services.gpu_worker.errors import WorkerFull
from services.router.client import FleetClient, FleetSession, Heartbeat
from tests.unit.router.router_parts import Changes, registration

GENERATION = "looksmith.v1.ImageGenerationService"
CHUNK = 256 * 1024

Act = Callable[["ScriptedWorker", pb.GenerateRequest], AsyncIterator[pb.GenerateResponse]]


class WorkerSettings(ServiceSettings):
    env_prefix: ClassVar[str] = "WORKER_"
    shutdown_grace_s: float = 0


class ScriptedWorker(rpc.ImageGenerationServiceServicer):
    """Answers each request with ``act``, and notes what came and how it ended."""

    def __init__(self, name: str, act: Act) -> None:
        self.name = name
        self.act = act
        self.requests: list[pb.GenerateRequest] = []
        self.sent = 0
        self.time_left: float | None = None
        self.stopped = asyncio.Event()  # a request was cut short
        self.life = AsyncExitStack()

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.time_left = context.time_remaining()
        try:
            yield pb.GenerateResponse(accepted=pb.Accepted(request_id="of the worker"))
            yield pb.GenerateResponse(placed=pb.Placed(worker=self.name, reason="of the worker"))
            async for response in self.act(self, request):
                self.sent += 1
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.set()
            raise

    def die(self) -> None:
        """Takes server and session away, in the midst of whatever runs."""
        self._death = asyncio.create_task(self.life.aclose())


def picture(image: int, seed: int) -> bytes:
    """Bytes of one and a half chunks that only this image of this seed has."""
    return hashlib.sha256(f"{image}/{seed}".encode()).digest() * (CHUNK * 3 // 64)


def chunks(image: int, data: bytes) -> list[pb.GenerateResponse]:
    starts = range(0, len(data), CHUNK)
    return [
        pb.GenerateResponse(chunk=pb.ImageChunk(image=image, offset=at, data=data[at : at + CHUNK])) for at in starts
    ]


def image_of(request: pb.GenerateRequest, image: int) -> list[pb.GenerateResponse]:
    data = picture(image, request.seed + image)
    done = pb.ImageDone(image=image, seed=request.seed + image, sha256=hashlib.sha256(data).hexdigest())
    return [*chunks(image, data), pb.GenerateResponse(image_done=done)]


def blocked(request: pb.GenerateRequest, image: int) -> pb.GenerateResponse:
    told = pb.ImageBlocked(image=image, seed=request.seed + image, reason="SAFETY_CHECKER")
    return pb.GenerateResponse(image_blocked=told)


def left(request: pb.GenerateRequest) -> list[int]:
    return [i for i in range(request.count) if i not in request.images_done]


async def paints(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(swapped=pb.Swapped(tier=pb.TIER_STORE))
    for image in left(request):
        for response in image_of(request, image):
            yield response
    finished = pb.Finished(worker=worker.name, engine="scripted", gpu_seconds=1.5, adapters=request.pinned.adapters)
    finished.timings.denoise.FromSeconds(2)
    yield pb.GenerateResponse(finished=finished)


async def blocks_odd_images(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    async for response in paints(worker, request):
        image = response.chunk.image if response.HasField("chunk") else response.image_done.image
        if image % 2 == 0:
            yield response
        elif response.HasField("image_done"):
            yield blocked(request, image)


async def hangs(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(swapped=pb.Swapped(tier=pb.TIER_STORE))
    await asyncio.Event().wait()


async def dies_before_the_first_image(
    worker: ScriptedWorker, request: pb.GenerateRequest
) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(swapped=pb.Swapped(tier=pb.TIER_STORE))
    worker.die()
    await asyncio.Event().wait()


async def dies_within_the_second_image(
    worker: ScriptedWorker, request: pb.GenerateRequest
) -> AsyncIterator[pb.GenerateResponse]:
    for response in (*image_of(request, 0), image_of(request, 1)[0]):
        yield response
    worker.die()
    await asyncio.Event().wait()


async def blocks_the_second_image_and_dies_within_the_third(
    worker: ScriptedWorker, request: pb.GenerateRequest
) -> AsyncIterator[pb.GenerateResponse]:
    for response in (*image_of(request, 0), blocked(request, 1), image_of(request, 2)[0]):
        yield response
    worker.die()
    await asyncio.Event().wait()


async def breaks(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(swapped=pb.Swapped(tier=pb.TIER_STORE))
    raise Internal("device lost", reason="DEVICE_LOST")


async def refuses(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(swapped=pb.Swapped(tier=pb.TIER_STORE))
    raise InvalidField("prompt", "has 90 tokens, at most 77", reason="PROMPT_TOO_LONG")


async def is_full(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    raise WorkerFull(64, retry_after_s=2.5)
    yield  # type: ignore[unreachable]  # makes it a generator


@asynccontextmanager
async def worker_server(name: str, act: Act) -> AsyncIterator[tuple[ScriptedWorker, str]]:
    worker = ScriptedWorker(name, act)
    api = ServedApi(GENERATION, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(worker, server))
    names = {f"/{GENERATION}/Generate": "worker.generate"}
    async with worker.life:
        server = await worker.life.enter_async_context(grpc_server(WorkerSettings(), [api], span_names=names))
        yield worker, server.address


@asynccontextmanager
async def joined_worker(
    router: str, name: str, act: Act = paints, residency: dict[str, Tier] | None = None, **facts: Changes
) -> AsyncIterator[ScriptedWorker]:
    """A worker that has joined the router at that address when the block begins. ``facts`` are its registration's."""
    async with worker_server(name, act) as (worker, address):
        client = await worker.life.enter_async_context(FleetClient.connect(router))
        who = registration(name, incarnation=f"{name} of this test", address=address, **facts)
        session = await worker.life.enter_async_context(client.join(who))
        await anext(session)  # Welcome
        await session.send(Heartbeat(1, full=True, residency=residency or {}))
        await anext(session)  # Ack: what was said counts now
        beating = asyncio.create_task(_beat(session))
        worker.life.callback(beating.cancel)
        yield worker


async def _beat(session: FleetSession) -> None:
    for sequence in range(2, 1000):
        await asyncio.sleep(0.2)
        await session.send(Heartbeat(sequence, full=False))
        await anext(session)

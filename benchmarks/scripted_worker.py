"""A worker that has nothing to paint: it joins a router and answers at once, with as many bytes as it was told.

python -m benchmarks.scripted_worker --router HOST:PORT --registry HOST:PORT --image-bytes N prints where it listens.
Whoever asks it directly has the brand and its adapter looked up, as a real worker does; a router has done that. Knows
no queue and no engine, so that what a request takes beside it is the router's.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import grpc

from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.channel import open_channel
from services.chassis.painting import RecipeFacts
from services.chassis.process import run_until_signal
from services.chassis.server import ServedApi, grpc_server
from services.chassis.settings import ServiceSettings
from services.gpu_worker.generation import CHUNK_BYTES
from services.registry.client import RegistryClient
from services.router.client import FleetClient, FleetSession, Heartbeat, Registration

GENERATION = "looksmith.v1.ImageGenerationService"
LISTENING = "scripted worker on "
#: Rows that it says it has, as many as the studio's worker.
MAX_ROWS = 8
_BEATS_S = 0.5


class ScriptedWorker(rpc.ImageGenerationServiceServicer):
    """Paints the same bytes for everyone."""

    def __init__(self, registry: RegistryClient, image_bytes: int) -> None:
        self._registry = registry
        data = bytes(range(256)) * (image_bytes // 256)
        self._parts = [(at, data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]
        self._sha256, self._size = hashlib.sha256(data).hexdigest(), len(data)

    async def Generate(  # noqa: N802  # the stubs name it
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # of every servicer
    ) -> AsyncIterator[pb.GenerateResponse]:
        if not request.HasField("pinned"):
            brand = await self._registry.get_brand(request.brand)
            await asyncio.gather(*(self._registry.resolve(use.ref(brand.name)) for use in brand.default_adapters))
        yield pb.GenerateResponse(accepted=pb.Accepted(request_id=request.request_id))
        yield pb.GenerateResponse(placed=pb.Placed(worker="scripted", attempt=1))
        yield pb.GenerateResponse(swapped=pb.Swapped())
        done = set(request.images_done)
        for image in (image for image in range(max(request.count, 1)) if image not in done):
            for at, part in self._parts:
                yield pb.GenerateResponse(chunk=pb.ImageChunk(image=image, offset=at, data=part))
            yield pb.GenerateResponse(image_done=pb.ImageDone(image=image, sha256=self._sha256, size_bytes=self._size))
        yield pb.GenerateResponse(finished=pb.Finished(worker="scripted", engine="scripted", gpu_seconds=0.001))


class _Settings(ServiceSettings):
    env_prefix: ClassVar[str] = "SCRIPTED_"
    shutdown_grace_s: float = 0
    log_level: str = "warning"  # type: ignore[assignment]  # one of those that its base names


@asynccontextmanager
async def scripted_worker(router: str, registry: str, image_bytes: int) -> AsyncIterator[None]:
    """Has joined when it is entered."""
    recipe = RecipeFacts(
        name="studio",
        digest="5" * 64,
        family="studio",
        base_digest="b" * 64,
        sizes=((128, 128),),
        steps=(1, 4),
        default_steps=4,
    )
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(registry))
        worker = ScriptedWorker(RegistryClient(channel), image_bytes)
        api = ServedApi(GENERATION, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(worker, server))
        server = await stack.enter_async_context(grpc_server(_Settings(), [api]))
        fleet = await stack.enter_async_context(FleetClient.connect(router))
        who = Registration("scripted", "1", server.address, (recipe,), engine="scripted", max_rows=MAX_ROWS)
        session = await stack.enter_async_context(fleet.join(who))
        await anext(session)  # Welcome
        beating = asyncio.create_task(_beat(session))
        stack.callback(beating.cancel)
        print(LISTENING + server.address, flush=True)
        yield


async def _beat(session: FleetSession) -> None:
    sequence = 1
    while True:
        await session.send(Heartbeat(sequence, full=True))
        await anext(session)  # Ack
        await asyncio.sleep(_BEATS_S)
        sequence += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--router", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--image-bytes", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(run_until_signal(scripted_worker(arguments.router, arguments.registry, arguments.image_bytes)))


if __name__ == "__main__":
    main()

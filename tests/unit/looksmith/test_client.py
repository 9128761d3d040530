"""The client's promise to resume, against scripted routers on real ports."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from looksmith.client import Blocked, Looksmith
from looksmith.errors import DataLoss, DeadlineExceeded, NotFound, Unavailable
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

Script = Callable[[pb.GenerateRequest], AsyncIterator[pb.GenerateResponse]]


class Router(rpc.ImageGenerationServiceServicer):
    """Plays a script and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[pb.GenerateRequest] = []

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.asked.append(request)
        try:
            async for response in self._script(request):
                yield response
        except ConnectionError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        except KeyError:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such brand")


@asynccontextmanager
async def routers(*scripts: Script) -> AsyncIterator[tuple[Looksmith, list[Router]]]:
    async with AsyncExitStack() as stack:
        served, addresses = [], []
        for script in scripts:
            router, server = Router(script), grpc.aio.server()
            rpc.add_ImageGenerationServiceServicer_to_server(router, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, 0)
            served.append(router)
        yield await stack.enter_async_context(Looksmith(addresses)), served


def accepted() -> pb.GenerateResponse:
    pinned = adapter_pb2.PinnedAdapter(adapter="house-style", version=3, digest="0f" * 32, weight=0.8)
    return pb.GenerateResponse(
        accepted=pb.Accepted(
            request_id="r1",
            seed=99,
            adapters=[pinned],
            recipe="studio",
            recipe_digest="aa" * 32,
            width=768,
            height=512,
        )
    )


def image(index: int, data: bytes) -> list[pb.GenerateResponse]:
    done = pb.ImageDone(image=index, seed=99 + index, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return [
        pb.GenerateResponse(chunk=pb.ImageChunk(image=index, data=data)),
        pb.GenerateResponse(image_done=done),
    ]


def finished() -> pb.GenerateResponse:
    return pb.GenerateResponse(finished=pb.Finished(worker="w"))


async def paints_all(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    for i in range(request.count):
        if i not in request.images_done:
            for message in image(i, b"picture %d" % i):
                yield message
    yield finished()


async def dies_within_image_one(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    for message in image(0, b"picture 0"):
        yield message
    yield image(1, b"pict")[0]
    raise ConnectionError


async def knows_nobody(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    if request.brand != "somebody else":
        raise KeyError(request.brand)
    yield accepted()


async def damages(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    chunk, done = image(0, b"picture 0")
    chunk.chunk.data = b"picture X"
    yield chunk
    yield done


async def restarts(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    yield image(0, b"half of a pic")[0]
    yield pb.GenerateResponse(image_restarted=pb.ImageRestarted(image=0))
    for message in image(0, b"picture 0"):
        yield message
    yield finished()


ASKED = pb.GenerateRequest(brand="inkwell", prompt="a mug", count=3)


async def test_paints_every_image_once() -> None:
    async with routers(paints_all) as (client, _):
        painting = await client.paint(ASKED)
    assert [i.data for i in painting.images] == [b"picture 0", b"picture 1", b"picture 2"]
    assert painting.finished.worker == "w"


async def test_goes_on_at_another_router_with_seed_size_and_versions_pinned() -> None:
    async with routers(dies_within_image_one, paints_all) as (client, (first, second)):
        painting = await client.paint(ASKED)
    assert [i.data for i in painting.images] == [b"picture 0", b"picture 1", b"picture 2"]
    again = second.asked[0]
    assert (again.request_id, again.seed, list(again.images_done)) == (first.asked[0].request_id, 99, [0])
    assert (again.recipe, again.width, again.height) == ("studio", 768, 512)
    assert [(a.adapter, a.version, a.weight) for a in again.adapters] == [("house-style", 3, 0.8)]


async def test_resumes_at_the_only_router_once_it_had_accepted() -> None:
    calls = 0

    async def dies_once(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
        nonlocal calls
        calls += 1
        async for message in (dies_within_image_one if calls == 1 else paints_all)(request):
            yield message

    async with routers(dies_once) as (client, _):
        assert len((await client.paint(ASKED)).images) == 3


async def test_gives_up_after_a_bounded_number_of_resumes() -> None:
    async with routers(dies_within_image_one) as (client, (router,)):
        with pytest.raises(Unavailable):
            await client.paint(ASKED)
    assert len(router.asked) == 5


async def test_an_answer_that_is_final_is_not_asked_for_again() -> None:
    async with routers(knows_nobody, paints_all) as (client, (first, second)):
        with pytest.raises(NotFound):
            await client.paint(ASKED)
    assert (len(first.asked), len(second.asked)) == (1, 0)


async def test_a_damaged_image_is_never_handed_over() -> None:
    async with routers(damages) as (client, _):
        with pytest.raises(DataLoss):
            await client.paint(ASKED)


async def test_a_restarted_image_drops_what_came_before() -> None:
    async with routers(restarts) as (client, _):
        assert [i.data for i in (await client.paint(ASKED)).images] == [b"picture 0"]


def blocked(index: int) -> pb.GenerateResponse:
    told = pb.ImageBlocked(image=index, seed=99 + index, reason="SAFETY_CHECKER")
    return pb.GenerateResponse(image_blocked=told)


async def blocks_image_one(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    for i in (i for i in range(request.count) if i not in request.images_done):
        for message in [blocked(i)] if i == 1 else image(i, b"picture %d" % i):
            yield message
    yield finished()


async def blocks_image_one_and_dies(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    yield blocked(1)
    yield image(0, b"pict")[0]
    raise ConnectionError


async def blocks_all(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield accepted()
    for i in range(request.count):
        yield blocked(i)
    yield finished()


async def test_a_blocked_image_is_told_beside_those_that_came() -> None:
    async with routers(blocks_image_one) as (client, _):
        painting = await client.paint(ASKED)
    assert [i.index for i in painting.images] == [0, 2]
    assert painting.blocked == (Blocked(1, 100, "SAFETY_CHECKER"),)


async def test_a_blocked_image_is_not_asked_for_again_at_another_router() -> None:
    async with routers(blocks_image_one_and_dies, paints_all) as (client, (_, second)):
        painting = await client.paint(ASKED)
    assert list(second.asked[0].images_done) == [1]
    assert ([i.index for i in painting.images], [b.index for b in painting.blocked]) == ([0, 2], [1])


async def test_a_request_all_of_whose_images_are_blocked_ends_without_an_error() -> None:
    async with routers(blocks_all) as (client, _):
        painting = await client.paint(ASKED)
    assert (painting.images, [b.index for b in painting.blocked]) == ((), [0, 1, 2])
    assert painting.finished.worker == "w"


async def test_the_time_limit_covers_all_tries() -> None:
    async with routers(dies_within_image_one) as (client, _):
        with pytest.raises(DeadlineExceeded):
            await client.paint(ASKED, timeout_s=0.02)

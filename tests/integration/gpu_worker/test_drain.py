"""A worker's process is told to end in the middle of a stream: its router hears of it first, and the stream ends well.

The router is the test's own FleetService, so that what it hears, and when, can be held against the stream.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from looksmith.v1 import fleet_pb2 as fleet_pb
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.gpu_worker.engine.recipe_file import read_recipe

ROOT = Path(__file__).parents[3]
RECIPE = read_recipe(ROOT / "deploy/recipes/studio.toml").facts(base_digest="0" * 64, distill_digest="")

pytestmark = [pytest.mark.integration]


class Router:
    """Welcomes a worker, answers its heartbeats, and notes when things happened."""

    def __init__(self) -> None:
        self.joined: asyncio.Queue[fleet_pb.WorkerRegistration] = asyncio.Queue()
        self.draining_at: float | None = None
        self.left_at: float | None = None

    async def join(
        self, request_iterator: AsyncIterator[fleet_pb.JoinRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[fleet_pb.JoinResponse]:
        self.joined.put_nowait((await anext(request_iterator)).registration)
        welcome = fleet_pb.Welcome(router="r1")
        welcome.heartbeat_interval.FromSeconds(30)
        yield fleet_pb.JoinResponse(welcome=welcome)
        try:
            async for message in request_iterator:
                if message.heartbeat.draining and self.draining_at is None:
                    self.draining_at = time.monotonic()
                yield fleet_pb.JoinResponse(ack=fleet_pb.HeartbeatAck(sequence=message.heartbeat.sequence))
        finally:
            self.left_at = time.monotonic()


@asynccontextmanager
async def worker(folder: Path, router: Router, **environ: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process with the timed engine that has joined ``router``, and its address."""
    async with AsyncExitStack() as stack:
        server = grpc.aio.server()
        join = grpc.stream_stream_rpc_method_handler(
            router.join, fleet_pb.JoinRequest.FromString, fleet_pb.JoinResponse.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("looksmith.v1.FleetService", {"Join": join}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.gpu_worker",
            cwd=ROOT,
            stderr=asyncio.subprocess.DEVNULL,
            env={
                **os.environ,
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": "127.0.0.1:1",
                "WORKER_DISK_CACHE": str(folder / "cache"),
                "WORKER_ENGINE": "timed",
                "WORKER_TIMED_SCALE": "10",
                "WORKER_SHUTDOWN_GRACE_S": "0",  # so that only draining lets a stream finish
                "WORKER_ROUTERS": f"127.0.0.1:{port}",
                **environ,
            },
        )
        try:
            async with asyncio.timeout(30):
                yield process, (await router.joined.get()).address
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def read_on(call: Any) -> None:  # noqa: ANN401  # a call's type has no name at run time
    while await call.read():
        pass


def request(name: str) -> pb.GenerateRequest:
    """One that needs no registry: about a second with this engine."""
    pinned = pb.Pinned(recipe_digest=RECIPE.digest, final_prompt="a kite", attempt=1, router="r1")
    return pb.GenerateRequest(request_id=name, brand="acme", prompt="a kite", report_steps=True, pinned=pinned)


async def test_a_stream_ends_well_and_the_router_has_heard_before(tmp_path: Path) -> None:
    router = Router()
    async with worker(tmp_path, router) as (process, address), grpc.aio.insecure_channel(address) as channel:
        stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know no methods
        call = stub.Generate(request("first"))
        kinds = []
        async for response in call:
            kinds.append(response.WhichOneof("event"))
            if kinds.count("step") == 1 and kinds[-1] == "step":
                process.send_signal(signal.SIGTERM)
                while router.draining_at is None:  # noqa: ASYNC110  # a heartbeat is on its way
                    await asyncio.sleep(0.01)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Generate(request("second")).read()
                assert "takes no more" in str(refused.value.details())
                assert (await health.Check(health_pb2.HealthCheckRequest())).status == (
                    health_pb2.HealthCheckResponse.NOT_SERVING
                )
        ended = time.monotonic()
        assert kinds[-1] == "finished"
        assert kinds.count("step") == 4
        assert await call.code() is grpc.StatusCode.OK
        assert await process.wait() == 0
    assert router.draining_at is not None
    assert router.draining_at < ended - 0.2, "before three steps of 0.2 s were done"
    assert router.left_at is not None
    assert router.left_at > ended - 0.05, "the session outlives the jobs"


async def test_an_idle_worker_leaves_as_soon_as_it_has_said_so(tmp_path: Path) -> None:
    router = Router()
    async with worker(tmp_path, router) as (process, address):
        await asyncio.sleep(0.2)  # its first heartbeat has been answered
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert time.monotonic() - began < 3
    assert address
    assert router.draining_at is not None


async def test_jobs_that_take_longer_than_they_may_are_ended(tmp_path: Path) -> None:
    router = Router()
    async with (
        worker(tmp_path, router, WORKER_TIMED_SCALE="100", WORKER_DRAIN_S="0.5") as (process, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
        call = stub.Generate(request("long"))
        await call.read()
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await read_on(call)
        assert lost.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert 0.5 <= time.monotonic() - began < 3, "of the ten seconds that it would take"
        assert await process.wait() == 0

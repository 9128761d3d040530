import asyncio
from typing import ClassVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.chassis.server import grpc_server
from services.chassis.settings import ServiceSettings

WHAT_IS_SERVED = reflection_pb2.ServerReflectionRequest(list_services="")


class Settings(ServiceSettings):
    env_prefix: ClassVar[str] = "TEST_"


async def test_callers_are_asked_to_connect_anew_while_what_is_under_way_goes_on() -> None:
    settings = Settings(max_connection_age_s=0.3)
    async with grpc_server(settings, []) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # its stubs know no grpc.aio
        stream = stub.ServerReflectionInfo()  # type: ignore[operator]  # nor what this is
        await stream.write(WHAT_IS_SERVED)
        before = await stream.read()
        async with asyncio.timeout(5):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await stream.write(WHAT_IS_SERVED)
        assert await stream.read() == before
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its stubs leave it out
        answer = await check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

"""Run where there is no network: starts a registry and workers on loopback and has every recipe painted.

Takes the environment of each worker as JSON, says as JSON what became of them; the network is its caller's to take
away.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import structlog

from looksmith.client import Looksmith
from looksmith.nouns import Brand
from looksmith.v1 import generation_pb2 as pb
from services.registry.client import RegistryClient
from services.registry.compose import registry_on
from services.registry.object_store import InMemoryObjectStore
from services.registry.settings import RegistrySettings
from tests.integration.processes import service

#: Of a block that is nobody's (RFC 5737).
OUTSIDE = ("192.0.2.1", 443)


def outside() -> str:
    """What a connection out of here ends with, by its name in errno."""
    with socket.socket() as road:
        road.settimeout(2)
        code = road.connect_ex(OUTSIDE)
    return errno.errorcode.get(code, str(code))


def recipes_of(environ: dict[str, str]) -> list[dict[str, Any]]:
    return [tomllib.loads(Path(file).read_text()) for file in environ["WORKER_RECIPES"].split(",")]


async def pictures(registry: str, environ: dict[str, str]) -> dict[str, list[int]]:
    """By recipe: width, height and bytes of the picture that a worker with these settings paints."""
    painted = {}
    async with (
        service("gpu_worker", **environ, WORKER_REGISTRY=registry, WORKER_SHUTDOWN_GRACE_S="0") as address,
        Looksmith([address]) as client,
    ):
        for recipe in recipes_of(environ):
            name, steps = recipe["name"], recipe["steps"][0]
            request = pb.GenerateRequest(brand="acme", prompt="a red kite", recipe=name, steps=steps)
            (image,) = (await client.paint(request)).images
            painted[name] = [image.width, image.height, len(image.data)]
    return painted


async def main() -> None:
    settings = RegistrySettings.read(
        {
            "REGISTRY_STORE_ENDPOINT": "in memory",
            "REGISTRY_STORE_ACCESS_KEY": "",
            "REGISTRY_STORE_SECRET_KEY": "",
            "REGISTRY_SHUTDOWN_GRACE_S": "0",
        }
    )
    async with registry_on(InMemoryObjectStore(), settings, {}) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            await RegistryClient(channel).put_brand(Brand("acme"))
        painted = await asyncio.gather(*(pictures(server.address, environ) for environ in json.loads(sys.argv[1])))
    print(json.dumps({"outside": outside(), "painted": painted}))  # noqa: T201  # its caller reads it


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main())

"""Callers of a router, as a process of their own, so that they slow down nobody whom they measure.

python -m benchmarks.load takes a Load as JSON on its standard input, and tells every Outcome on its standard output.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc

from benchmarks.asking import Outcome, ask
from looksmith.cli.stack import CHECKOUT
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

#: Connections that callers share.
CHANNELS = 8


@dataclass(frozen=True)
class Load:
    """Either ``rate`` requests a second whatever becomes of them, or ``callers`` who each wait for their answer."""

    router: str
    seconds: float
    brands: Mapping[str, float]  # how often each is asked for, beside the others
    rate: float = 0.0
    callers: int = 0
    timeout_s: float = 180.0
    again_s: float = 0.0  # a caller that was refused comes back so much later
    seed: int = 0
    request: Mapping[str, int] = field(default_factory=dict)  # fields of GenerateRequest beside brand and prompt


async def run(load: Load) -> list[Outcome]:
    """Asks as told; returns once all has been answered."""
    draws = random.Random(load.seed)
    names, shares = list(load.brands), list(load.brands.values())
    numbers = itertools.count()
    outcomes: list[Outcome] = []
    async with AsyncExitStack() as open_channels:
        stubs = []
        for number in range(CHANNELS):
            own = (("grpc.use_local_subchannel_pool", 1), ("grpc.channel_id", number))  # else all share one connection
            channel = grpc.aio.insecure_channel(load.router, options=own)
            await open_channels.enter_async_context(channel)
            await channel.channel_ready()
            stubs.append(rpc.ImageGenerationServiceStub(channel))

        async def one() -> Outcome:
            (brand,) = draws.choices(names, shares)
            request = pb.GenerateRequest(brand=brand, prompt="a red kite", omit_image_bytes=True)
            for name, value in load.request.items():
                setattr(request, name, value)
            outcome = await ask(stubs[next(numbers) % CHANNELS], request, timeout_s=load.timeout_s)
            outcomes.append(outcome)
            return outcome

        async def caller(until: float) -> None:
            while time.monotonic() < until:
                if not (await one()).ok:
                    await asyncio.sleep(load.again_s)

        began = time.monotonic()
        if load.callers:
            await asyncio.gather(*(caller(began + load.seconds) for _ in range(load.callers)))
        else:
            asked = []
            for at in _arrivals(load, draws):
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                asked.append(asyncio.create_task(one()))
            await asyncio.gather(*asked)
    return outcomes


def _arrivals(load: Load, draws: random.Random) -> Iterator[float]:
    """Seconds from the start, at random: a Poisson process."""
    at = draws.expovariate(load.rate)
    while at < load.seconds:
        yield at
        at += draws.expovariate(load.rate)


async def elsewhere(load: Load) -> list[Outcome]:
    """As ``run``, in another process, which is killed if this is cancelled.

    Raises:
        RuntimeError: it failed.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", cwd=CHECKOUT, stdin=pipe, stdout=pipe
    )
    try:
        told, _ = await process.communicate(json.dumps(dataclasses.asdict(load)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"callers ended with code {process.returncode}")
    return [Outcome(**each) for each in json.loads(told)]


def main() -> None:
    outcomes = asyncio.run(run(Load(**json.load(sys.stdin))))
    json.dump([dataclasses.asdict(outcome) for outcome in outcomes], sys.stdout)


if __name__ == "__main__":
    main()

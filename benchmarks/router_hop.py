"""What the router costs a stream: milliseconds beside the worker asked directly, and memory under a stalled reader.

The worker is scripted: it answers at once, so that all that is seen is the way.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.load import Load, elsewhere
from benchmarks.router_stack import RouterStack, router_stack
from benchmarks.scripted_worker import LISTENING
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

BRAND = "acme"
IMAGE_BYTES = 1_536_000
WARM_UP, CALLS = 50, 400
#: The stalled reader's images, more than which nobody may hold; and how long it stalls.
STALLED_IMAGES, STALLED_READERS, STALLED_S = 16, 8, 30.0
_MIB = 1024 * 1024
_NO_LIMIT = (("grpc.max_receive_message_length", -1),)


@dataclass(frozen=True)
class _Ways:
    """Two ways to the same worker."""

    stack: RouterStack
    direct: rpc.ImageGenerationServiceAsyncStub
    through: rpc.ImageGenerationServiceAsyncStub


@asynccontextmanager
async def _ways(folder: Path) -> AsyncIterator[_Ways]:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(router_stack(folder, brands=[BRAND]))
        await running.start(
            "scripted",
            "benchmarks.scripted_worker",
            f"--router={running.router}",
            f"--registry={running.registry}",
            f"--image-bytes={IMAGE_BYTES}",
        )
        await running.until_joined("scripted")
        (said,) = (line for line in running.log("scripted").read_text().splitlines() if line.startswith(LISTENING))
        direct, through = [
            rpc.ImageGenerationServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_NO_LIMIT))
            )
            for address in (said.removeprefix(LISTENING), running.router)
        ]
        yield _Ways(running, direct, through)


async def hop(folder: Path) -> dict[str, float]:
    """Differences of medians: until the first byte of a picture has come, and until the whole picture has.

    Whoever is asked first, router or worker, looks brand and adapter up; ``lookup_ms`` is what that takes.
    """
    looked_up = pb.GenerateRequest(brand=BRAND, prompt="a red kite", pinned=pb.Pinned(router="nobody"))
    request = pb.GenerateRequest(brand=BRAND, prompt="a red kite")
    async with _ways(folder) as ways:
        contenders = {
            "direct": (ways.direct, request),
            "through": (ways.through, request),
            "looked_up": (ways.direct, looked_up),
        }
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in contenders}
        busy_before = _busy_s(ways.stack.pid("router"))
        for call in tqdm(range(WARM_UP + CALLS), desc="calls each way"):
            for way, (stub, asked) in contenders.items():
                times = await _one_picture(stub, asked)
                if call >= WARM_UP:
                    took[way].append(times)
        busy_s = _busy_s(ways.stack.pid("router")) - busy_before
    first, whole = ({way: statistics.median(t[i] for t in times) * 1e3 for way, times in took.items()} for i in (0, 1))
    return {
        "hop_first_byte_ms": first["through"] - first["direct"],
        "hop_image_ms": whole["through"] - whole["direct"],
        "first_byte_through_ms": first["through"],
        "first_byte_direct_ms": first["direct"],
        "lookup_ms": first["direct"] - first["looked_up"],
        "image_direct_ms": whole["direct"],
        "hop_router_cpu_ms": busy_s / (WARM_UP + CALLS) * 1e3,  # of a picture; says something on a busy machine too
    }


async def _one_picture(stub: rpc.ImageGenerationServiceAsyncStub, request: pb.GenerateRequest) -> tuple[float, float]:
    began, first, whole = time.perf_counter(), 0.0, 0.0
    async for response in stub.Generate(request, timeout=30):
        if response.HasField("chunk"):
            first = first or time.perf_counter()
        elif response.HasField("image_done"):
            whole = time.perf_counter()
    return first - began, whole - began


async def stalled_reader(folder: Path) -> dict[str, float]:
    """MiB by which router and worker grow while callers of many images take nothing, and what others notice of it."""
    async with _ways(folder) as ways, AsyncExitStack() as open_calls:
        load = Load(ways.stack.router, STALLED_S / 2, {BRAND: 1.0}, callers=2, timeout_s=STALLED_S)
        before_load = await elsewhere(load)
        before = {name: _resident(ways.stack.pid(name)) for name in ("router", "scripted")}
        for number in range(STALLED_READERS):
            # A connection of its own, as another caller's would be: else it would stop others on the same one
            own = (*_NO_LIMIT, ("grpc.use_local_subchannel_pool", 1), ("grpc.channel_id", number))
            channel = await open_calls.enter_async_context(grpc.aio.insecure_channel(ways.stack.router, options=own))
            request = pb.GenerateRequest(brand=BRAND, prompt="a red kite", count=STALLED_IMAGES)
            call = rpc.ImageGenerationServiceStub(channel).Generate(request, timeout=600)
            await anext(aiter(call))
        grown, during = dict.fromkeys(before, 0.0), asyncio.create_task(elsewhere(load))
        watched_until = time.monotonic() + STALLED_S
        while time.monotonic() < watched_until:
            await asyncio.sleep(0.5)
            for name, at_first in before.items():
                grown[name] = max(grown[name], _resident(ways.stack.pid(name)) - at_first)
        outcomes = await during
    slowed = statistics.median(o.seconds for o in outcomes) / statistics.median(o.seconds for o in before_load)
    return {
        "stalled_router_mib": grown["router"] / STALLED_READERS,
        "stalled_worker_mib": grown["scripted"] / STALLED_READERS,
        "stalled_asked_mib": STALLED_IMAGES * IMAGE_BYTES / _MIB,
        "stalled_others_failed": float(sum(not outcome.ok for outcome in outcomes)),
        "stalled_others_slowed": slowed,
    }


def _resident(pid: int) -> float:
    """MiB of memory that a process has, all at once."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in fields if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _busy_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

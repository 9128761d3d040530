"""Sixteen pictures for one caller, on one worker and on four idle ones; and a picture of another brand that comes then.

In real processes with the timed engine; how images are shared out is the router's decision.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.asking import Outcome, ask
from benchmarks.router_stack import RouterStack, router_stack
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

LARGE, SMALL = "brand-large", "brand-small"
IMAGES, WORKERS, BATCH, REPEATS = 16, 4, 8, 5
#: A picture alone takes half a second.
SCALE = 5.0
_CALM_S = 1.5  # heartbeats have told by then what the last pictures changed


async def sixteen(folder: Path) -> dict[str, float]:
    """The one worker is joined by three more in the midst; each way is warmed up first, and the cold time told too."""
    async with router_stack(folder, brands=[LARGE, SMALL]) as stack, _painting(stack.router) as stub:
        await _start(stack, 0)
        one = await _times(stub, "pictures on one worker")
        for number in range(1, WORKERS):
            await _start(stack, number)
        cold = await ask(stub, _request(LARGE, IMAGES))
        four = await _times(stub, "pictures on four workers")
    return {
        "sixteen_share": four["sixteen"] / one["sixteen"],
        "sixteen_cold_share": cold.seconds / one["sixteen"],
        "sixteen_delay_batches": max(0.0, four["late"] - four["single"]) / one["batch"],
        "sixteen_delay_batches_one_worker": max(0.0, one["late"] - one["single"]) / one["batch"],
        "sixteen_workers": four["workers"],
        "sixteen_s": four["sixteen"],
        "sixteen_one_worker_s": one["sixteen"],
        "sixteen_batch_s": one["batch"],
        "sixteen_single_s": four["single"],
    }


async def _times(stub: rpc.ImageGenerationServiceAsyncStub, what: str) -> dict[str, float]:
    """Medians in seconds, but of what the other brand's picture took in the midst of sixteen, which is the largest."""
    for brand, images in ((LARGE, IMAGES), (SMALL, 1), (LARGE, IMAGES)):
        await ask(stub, _request(brand, images))
    took: dict[str, list[float]] = {name: [] for name in ("sixteen", "batch", "single", "late", "workers")}
    for _ in tqdm(range(REPEATS), desc=what):
        alone = await _calmly(stub, _request(LARGE, IMAGES))
        took["sixteen"].append(alone.seconds)
        took["workers"].append(len(set(alone.placed)))
        took["batch"].append((await _calmly(stub, _request(LARGE, BATCH))).seconds)
        took["single"].append((await _calmly(stub, _request(SMALL, 1))).seconds)
        large = asyncio.create_task(_calmly(stub, _request(LARGE, IMAGES)))
        await asyncio.sleep(_CALM_S + alone.seconds / 3)
        took["late"].append((await ask(stub, _request(SMALL, 1))).seconds)
        await large
    return {name: max(took[name]) if name == "late" else statistics.median(took[name]) for name in took}


async def _calmly(stub: rpc.ImageGenerationServiceAsyncStub, request: pb.GenerateRequest) -> Outcome:
    """Asks when nothing else is going on."""
    await asyncio.sleep(_CALM_S)
    outcome = await ask(stub, request)
    if not outcome.ok:
        raise RuntimeError(f"a request failed: {outcome}")
    return outcome


def _request(brand: str, images: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(brand=brand, prompt="a red kite", count=images, omit_image_bytes=True)


async def _start(stack: RouterStack, number: int) -> None:
    await stack.start_worker(f"worker-{number}", WORKER_TIMED_SCALE=SCALE)


@asynccontextmanager
async def _painting(router: str) -> AsyncIterator[rpc.ImageGenerationServiceAsyncStub]:
    async with grpc.aio.insecure_channel(router) as channel:
        yield rpc.ImageGenerationServiceStub(channel)

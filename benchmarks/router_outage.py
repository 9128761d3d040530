"""Registry and store away for minutes: who is painted for meanwhile, what the others are told, and what is after.

Both are killed and started anew, on the same data.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.asking import Outcome, ask
from benchmarks.router_stack import RouterStack, publish_small_brands, router_stack
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

KNOWN, UNKNOWN, LATER = ("brand-0", "brand-1", "brand-2"), "brand-unresolved", "brand-later"
WORKERS = 2
EVERY_S = 0.5
WELL_WITHIN_S = 30.0


async def outage(folder: Path, *, seconds: float) -> dict[str, float]:
    """Asks for brands that the router has resolved, and for one that it has not, all the while."""
    async with router_stack(folder, brands=[*KNOWN, UNKNOWN]) as stack:
        for number in range(WORKERS):
            await stack.start_worker(f"worker-{number}")
        async with grpc.aio.insecure_channel(stack.router) as channel:
            stub = rpc.ImageGenerationServiceStub(channel)
            before = [await ask(stub, _request(brand), timeout_s=30) for brand in KNOWN]
            for name in ("registry", "store"):
                await stack.end(name, signal.SIGKILL)
            known, unknown = await _meanwhile(stub, seconds)
            await stack.start_records()
            well_again_s, after = await _until_well(stub)
            await _new_brand(stack, stub)
    if not all(outcome.ok and not outcome.stale for outcome in before):
        raise RuntimeError(f"it was not well before: {before}")
    told = [outcome for outcome in unknown if outcome.code == "UNAVAILABLE" and outcome.reason and _says_when(outcome)]
    return {
        "outage_failed": float(sum(not outcome.ok for outcome in known)),
        "outage_stale_unsaid": float(sum(not outcome.stale for outcome in known)),
        "outage_refusals_untold": float(len(unknown) - len(told)),
        "outage_well_again_s": well_again_s,
        "outage_after_failed": float(sum(not outcome.ok or outcome.stale for outcome in after)),
        "outage_s": seconds,
        "outage_painted": float(len(known)),
        "outage_refused": float(len(unknown)),
        "outage_slowest_s": max(outcome.seconds for outcome in known),
        "outage_refusal_slowest_s": max(outcome.seconds for outcome in unknown),
    }


async def _meanwhile(stub: rpc.ImageGenerationServiceAsyncStub, seconds: float) -> tuple[list[Outcome], list[Outcome]]:
    known: list[Outcome] = []
    unknown: list[Outcome] = []
    began = time.monotonic()
    with tqdm(total=round(seconds), desc="seconds without registry and store") as progress:
        for number in range(round(seconds / EVERY_S)):
            await asyncio.sleep(max(0.0, began + number * EVERY_S - time.monotonic()))
            known.append(await ask(stub, _request(KNOWN[number % len(KNOWN)]), timeout_s=30))
            if number % 4 == 0:
                unknown.append(await ask(stub, _request(UNKNOWN), timeout_s=30))
            progress.update(round(time.monotonic() - began) - progress.n)
    return known, unknown


async def _until_well(stub: rpc.ImageGenerationServiceAsyncStub) -> tuple[float, list[Outcome]]:
    """Seconds from the registry's health until every brand is painted with fresh records, and what came of more."""
    began = time.monotonic()
    while True:
        outcomes = [await ask(stub, _request(brand), timeout_s=30) for brand in (*KNOWN, UNKNOWN)]
        if all(outcome.ok and not outcome.stale for outcome in outcomes):
            break
        if time.monotonic() - began > WELL_WITHIN_S:
            raise RuntimeError(f"it is not well again: {outcomes}")
        await asyncio.sleep(0.1)
    well_again_s = time.monotonic() - began
    return well_again_s, [await ask(stub, _request(brand), timeout_s=30) for brand in (*KNOWN, UNKNOWN) * 5]


async def _new_brand(stack: RouterStack, stub: rpc.ImageGenerationServiceAsyncStub) -> None:
    """Raises RuntimeError: what is published after an outage is not painted."""
    await publish_small_brands(stack.registry, [LATER])
    outcome = await ask(stub, _request(LATER), timeout_s=30)
    if not outcome.ok:
        raise RuntimeError(f"a brand that is new is not painted: {outcome}")


def _request(brand: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(brand=brand, prompt="a red kite", omit_image_bytes=True)


def _says_when(outcome: Outcome) -> bool:
    return outcome.retry_after_s is not None

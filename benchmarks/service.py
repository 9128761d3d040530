"""Whole RPCs of a running stack beside the bare pipeline: prompt in, PNG out; and what many brands cost there.

One worker with all cores, real store, registry and router, on loopback. Whoever is not measured is idle.
"""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self

import grpc
from tqdm import tqdm

from benchmarks.batches import HOUSE_STYLES, STEPS, Peft, house_styles, new_prompts
from benchmarks.brands import FAMILY, publish_brands, write_brands
from benchmarks.measure import interleaved, timed
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, Ports, Stack, is_serving, local_stack
from looksmith.client import Looksmith, Painting
from looksmith.lora import packaged_table, read_modules
from looksmith.v1 import generation_pb2 as pb

CALLERS, PICTURES = 8, 32
SIXTEEN = 16
#: Brands of the budget runs, and the device slots that they share: one each, one for two, one for four.
WORKING_SET, SLOTS = 64, {"all": 64, "2x": 32, "4x": 16}
COLD_BRANDS = 24
LARGEST_RANK = 32  # of the studio's bank: what is larger goes another way


class Service:
    """A stack with one worker, and one more for each number of slots, called from outside of its event loop."""

    def __init__(self, folder: Path, brands: Sequence[Path]) -> None:
        """``brands``: files whose stems name them."""
        self._folder, self._files = folder, brands
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self._prompts = new_prompts()
        self._clients: dict[str, Looksmith] = {}

    def __enter__(self) -> Self:
        self._runner.run(self._enter())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._open.aclose())
        self._runner.close()

    async def _enter(self) -> None:
        ports = Ports.free(1 + len(SLOTS))
        stack = await self._open.enter_async_context(local_stack(self._folder, ports=ports, workers=1))
        registry = await self._open.enter_async_context(grpc.aio.insecure_channel(stack.registry))
        await publish_brands(registry, self._files)
        addresses = {"router": stack.router}
        for index, (name, slots) in enumerate(SLOTS.items(), start=1):
            addresses[name] = await self._start_worker(stack, f"slots-{name}", ports.first_worker + index, slots)
        for name, address in addresses.items():
            self._clients[name] = await self._open.enter_async_context(Looksmith([address]))

    async def _start_worker(self, stack: Stack, name: str, port: int, slots: int) -> str:
        await stack.processes.start(
            name,
            [sys.executable, "-m", "services.gpu_worker"],
            WORKER_NAME=name,
            WORKER_PORT=port,
            WORKER_REGISTRY=stack.registry,
            WORKER_RECIPES=CHECKOUT / "deploy/recipes/studio.toml",
            WORKER_DISK_CACHE=self._folder / name,
            WORKER_SLOTS=f"{LARGEST_RANK}:{slots}",
        )
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address) as channel:
            await stack.processes.until(name, partial(is_serving, channel), within_s=READY_WITHIN_S)
        return address

    def paint(self, brands: Sequence[str], *, callers: int, server: str = "router", images: int = 1) -> float:
        """Seconds until as many callers have had a request answered for each brand, in their order."""
        return timed(lambda: self._runner.run(self._paint(self._clients[server], list(brands), callers, images)))

    async def _paint(self, client: Looksmith, brands: list[str], callers: int, images: int) -> None:
        async def call() -> None:
            while brands:
                await self._one(client, brands.pop(0), images)

        await asyncio.gather(*(call() for _ in range(callers)))

    async def _one(self, client: Looksmith, brand: str, images: int) -> Painting:
        return await client.paint(
            pb.GenerateRequest(brand=brand, prompt=next(self._prompts), steps=STEPS, count=images)
        )


class Bare:
    """The pipeline with every house style loaded, as a script would use it."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        self._peft = Peft(house_styles(folder), threads=threads)
        self._prompts = new_prompts()

    def paint(self, brands: Sequence[str]) -> float:
        """Seconds for a picture of each, one after the other, each as a PNG."""

        def paint() -> None:
            for brand in brands:
                self._peft.pipe.set_adapters([brand])
                self._peft.generate([next(self._prompts)])[0].save(io.BytesIO(), "PNG")

        return timed(paint)

    def paint_at_once(self, brand: str, images: int) -> float:
        """Seconds for many pictures of one brand in one call."""

        def paint() -> None:
            self._peft.pipe.set_adapters([brand])
            for picture in self._peft.generate([next(self._prompts)], images=images):
                picture.save(io.BytesIO(), "PNG")

        return timed(paint)


def service(*, threads: int, repeats: int) -> dict[str, float]:
    """Everything that one running stack can be asked."""
    with tempfile.TemporaryDirectory(prefix="service-") as name:
        folder = Path(name)
        for part in ("styles", "brands", "stack"):
            (folder / part).mkdir()
        styles = [
            Path(shutil.copy(file, folder / "styles" / f"{brand}.safetensors"))
            for brand, file in house_styles(folder).items()
        ]
        brands = _that_the_bank_holds(WORKING_SET + COLD_BRANDS, folder / "brands")
        with Service(folder / "stack", [*styles, *brands]) as running:
            names = [file.stem for file in brands]
            return {
                **_beside_the_pipeline(running, Bare(folder, threads=threads), repeats=repeats),
                **_cold(running, names[WORKING_SET:]),
                **_budgets(running, names[:WORKING_SET], repeats=repeats),
            }


def _that_the_bank_holds(count: int, folder: Path) -> list[Path]:
    """Four of six ranks that brands have are small enough."""
    files = write_brands(count * 3 // 2 + 6, folder)
    table = packaged_table(FAMILY)
    held = [f for f in files if max(module.rank for module in read_modules(f, table)) <= LARGEST_RANK]
    return held[:count]


def _beside_the_pipeline(running: Service, bare: Bare, *, repeats: int) -> dict[str, float]:
    draw = random.Random(7)

    def some(count: int) -> list[str]:
        return draw.choices(HOUSE_STYLES, k=count)

    runs: dict[str, Callable[[int], float]] = {
        "pipeline": lambda _turn: bare.paint(some(PICTURES)) / PICTURES,
        "rpc_8": lambda _turn: running.paint(some(PICTURES), callers=CALLERS) / PICTURES,
        "rpc_1": lambda _turn: running.paint(some(CALLERS), callers=1) / CALLERS,
        "sixteen": lambda _turn: running.paint(some(1), callers=1, images=SIXTEEN) / SIXTEEN,
        "pipeline_sixteen": lambda _turn: bare.paint_at_once(some(1)[0], SIXTEEN) / SIXTEEN,
    }
    medians = interleaved(runs, repeats=repeats, what="whole calls")
    return {
        **{f"{run}_ms_per_picture": seconds * 1e3 for run, seconds in medians.items()},
        "rpc_vs_pipeline": medians["pipeline"] / medians["rpc_8"],
        "rpc_latency_vs_pipeline": medians["rpc_1"] / medians["pipeline"],
        "sixteen_vs_serial": medians["pipeline"] / medians["sixteen"],
        "sixteen_vs_one_call": medians["pipeline_sixteen"] / medians["sixteen"],
    }


def _cold(running: Service, brands: Sequence[str]) -> dict[str, float]:
    """The first picture of brands that the worker never saw, and the next one of each."""
    first, next_one = [], []
    for brand in tqdm(brands, desc="brands for the first time"):
        first.append(running.paint([brand], callers=1))
        time.sleep(0.3)  # until what was compiled has been written down
        next_one.append(running.paint([brand], callers=1))
    cold, warm = statistics.median(first) * 1e3, statistics.median(next_one) * 1e3
    return {"cold_brand_ms": cold, "warm_brand_ms": warm, "cold_brand_extra_ms": cold - warm}


def _budgets(running: Service, brands: Sequence[str], *, repeats: int) -> dict[str, float]:
    """Brands in random order on workers with room for all of them, for a half and for a quarter."""
    draw = random.Random(11)

    def on(server: str) -> Callable[[int], float]:
        return lambda _turn: running.paint(draw.choices(brands, k=WORKING_SET), callers=CALLERS, server=server)

    for server in tqdm(SLOTS, desc="workers that see every brand"):
        running.paint(brands, callers=CALLERS, server=server)
    medians = interleaved({server: on(server) for server in SLOTS}, repeats=repeats, what="working sets")
    return {
        **{f"images_per_s_{server}": WORKING_SET / seconds for server, seconds in medians.items()},
        "budget_2x": medians["all"] / medians["2x"],
        "budget_4x": medians["all"] / medians["4x"],
    }

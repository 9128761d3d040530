"""Uploads of large adapters: as fast as bytes go into the store without a registry, in little memory, cut and resumed.

One store and registries on it, processes of this machine; publishers reach them over gRPC on loopback.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import grpc
from minio import Minio
from tqdm import tqdm

from benchmarks.cutting_proxy import cutting_proxy
from benchmarks.large_files import write_large_lora
from benchmarks.measure import timed
from benchmarks.replicas import environ_of
from looksmith.cli.processes import Processes
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, free_run, is_serving
from looksmith.lora import packaged_table
from looksmith.nouns import Brand
from services.registry.blobs import PART_BYTES
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader
from services.registry.seaweedfs import RunningStore, seaweedfs

REPEATS = 5
#: 104 MiB and 1022 MiB: the registry's limit is 1 GiB.
RACED, LARGEST = ("sd15", 128, "F16"), ("sdxl", 99, "F32")
CUTS, BETWEEN_CUTS = 8, (3 << 20, 25 << 20)
REPLICAS, REGISTRY = 2, [sys.executable, "-m", "services.registry"]


@dataclass(frozen=True)
class Uploading:
    """What the parts need: a store, and registries on it that have just started."""

    store: RunningStore
    addresses: list[str]
    processes: Processes

    async def brands(self, count: int, prefix: str) -> list[str]:
        """Brands that have nothing: in none of them is a file there already."""
        names = [f"{prefix}-{number}" for number in range(count)]
        async with grpc.aio.insecure_channel(self.addresses[0]) as channel:
            for name in names:
                await RegistryClient(channel).put_brand(Brand(name))
        return names

    def calls(self, brand: str) -> list[tuple[int, int]]:
        """Where each publication of a brand went on, and up to where it was received, by what the registries log."""
        lines = [
            json.loads(line)
            for number in range(REPLICAS)
            for line in self.processes.log(_name(number)).read_text().splitlines()
            if line.startswith("{")
        ]
        calls = [line for line in lines if line.get("method") == "PublishAdapter" and line.get("brand") == brand]
        calls.sort(key=lambda line: str(line["timestamp"]))
        return [(call["offset"], call["offset"] + call["received_bytes"]) for call in calls]


def _name(number: int) -> str:
    return f"registry-{number}"


@asynccontextmanager
async def uploading(folder: Path) -> AsyncIterator[Uploading]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(seaweedfs(folder / "store"))
        processes = await stack.enter_async_context(
            Processes(folder / "logs", cwd=CHECKOUT, environ=environ_of(store), stop_within_s=20)
        )
        base = free_run(REPLICAS)
        addresses = [f"127.0.0.1:{base + number}" for number in range(REPLICAS)]
        for number in range(REPLICAS):
            name = _name(number)
            await processes.start(name, REGISTRY, REGISTRY_PORT=base + number, REGISTRY_NAME=name)
        for number, address in enumerate(addresses):
            async with grpc.aio.insecure_channel(address) as channel:
                await processes.until(_name(number), partial(is_serving, channel), within_s=READY_WITHIN_S)
        yield Uploading(store, addresses, processes)


async def uploads(folder: Path) -> dict[str, float]:
    """All figures, the one about memory from a registry that has done nothing yet."""
    files = {}
    for family, rank, dtype in (RACED, LARGEST):
        file = folder / f"{family}.safetensors"
        files[family] = await asyncio.to_thread(write_large_lora, packaged_table(family), file, rank=rank, dtype=dtype)
    async with uploading(folder) as running:
        return {
            **await memory(running, files[LARGEST[0]], LARGEST[0]),
            **await cuts(running, files[RACED[0]], RACED[0]),
            **await rates(running, files[RACED[0]], RACED[0]),
        }


async def memory(running: Uploading, file: Path, family: str) -> dict[str, float]:
    """How much a registry grows while a file as large as may be streams in, over what it is when nothing is asked."""
    (brand,) = await running.brands(1, "memory")
    pid = running.processes.pid(_name(0))
    before = _start_high_water_mark(pid)
    seconds = await _publish(running.addresses[0], file, family, brand)
    return {
        "upload_memory_mib": _mebibytes(pid, "VmHWM") - before,
        "upload_memory_file_mib": _size(file) / 2**20,
        "upload_memory_s": seconds,
    }


def _start_high_water_mark(pid: int) -> float:
    """Has the kernel note the most memory that a process takes from here on, proc(5); what it takes now, in MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _mebibytes(pid, "VmRSS")


def _size(file: Path) -> int:
    return file.stat().st_size


def _mebibytes(pid: int, mark: str) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(mark))
    return int(line.split()[1]) / 1024


async def cuts(running: Uploading, file: Path, family: str) -> dict[str, float]:
    """Bytes that registries got more than once of a file whose way to them is cut again and again, at random bytes."""
    (brand,) = await running.brands(1, "cut")
    draw, cut = Random(3), 0

    def count() -> None:
        nonlocal cut
        cut += 1

    places: Iterator[int | None] = iter([draw.randrange(*BETWEEN_CUTS) for _ in range(CUTS)])
    async with cutting_proxy(running.addresses, places, on_cut=count) as address:
        await _publish(address, file, family, brand)
    await asyncio.sleep(0.5)  # calls that were cut have ended and been logged
    calls = await asyncio.to_thread(running.calls, brand)
    resent = [end - start for (_, end), (start, _) in pairwise(calls)]
    return {
        "upload_cuts": float(cut),
        "upload_resent_parts": max(resent) / PART_BYTES,
        "upload_resent_mib_a_cut": statistics.mean(resent) / 2**20,
    }


async def rates(running: Uploading, file: Path, family: str) -> dict[str, float]:
    """The same file into the same store, by the SDK as it comes and through a registry that checks it."""
    names = await running.brands(REPEATS + 1, "rate")
    store = running.store
    client = Minio(
        store.endpoint, access_key=store.access_key, secret_key=store.secret_key, secure=False, region="us-east-1"
    )

    raw, ours = [], []
    for name in tqdm(names, desc="uploads beside raw ones"):
        put = partial(client.fput_object, running.store.bucket, f"raw-{name}", str(file))
        raw.append(await asyncio.to_thread(timed, put))
        ours.append(await _publish(running.addresses[0], file, family, name))
    raw_s, ours_s = statistics.median(raw[1:]), statistics.median(ours[1:])  # the first of each warmed up
    size = _size(file) / 2**20
    return {
        "upload_vs_raw": raw_s / ours_s,
        "upload_mib_per_s": size / ours_s,
        "upload_raw_mib_per_s": size / raw_s,
    }


async def _publish(address: str, file: Path, family: str, brand: str) -> float:
    """Seconds of a publication; its digest is taken before."""
    digest, size = await asyncio.to_thread(measured, file)
    header = PublishHeader(brand, "large", family, digest, size)
    async with grpc.aio.insecure_channel(address) as channel:
        with tqdm(total=size, unit="B", unit_scale=True, desc=brand, leave=False) as bar:
            began = time.perf_counter()
            await RegistryClient(channel).publish(header, file, on_progress=lambda sent: _show(bar, sent))
            return time.perf_counter() - began


def _show(bar: tqdm, sent: int) -> None:  # type: ignore[type-arg]  # generic in its stubs only
    bar.update(sent - bar.n)

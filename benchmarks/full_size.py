"""SDXL at full size on this machine: 64 brands in a real registry, a worker, and one picture of 1024 pixels.

python -m benchmarks.full_size --json FILE [--dtype float32] [--reduced]

Weights are random; the recipe is sdxl-hyper, its distillation a LoRA of rank 64. Store, registry and worker are
processes on loopback. Takes some 12 GB under the folder for temporary files. In bfloat16, which the recipe says, a CPU
without instructions for it takes five times as long as in float32.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from tqdm import tqdm

from benchmarks.bases import new_model
from benchmarks.lora_files import DIALECTS, random_lora_file
from benchmarks.random_bases import COMPONENTS, Served, write_served
from benchmarks.readiness import peak_mib, processes_in, started_worker
from benchmarks.reduced_bases import RANK, random_lora, write_diffusers, write_kohya
from benchmarks.report import report
from benchmarks.single_files import Pipeline, reduced_pipeline
from looksmith.bases.settings import LOCAL_ACCESS_KEY, LOCAL_SECRET_KEY
from looksmith.cli.processes import Processes
from looksmith.cli.stack import READY_WITHIN_S, STORE_READY, free_run, is_serving
from looksmith.client import Looksmith, Painting
from looksmith.lora import Dialect, table_to_json
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.engine.clip_tokenizer import PADS, clip_tokenizer
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

FAMILY, RECIPE, ADAPTER = "sdxl", "sdxl-hyper", "look"
BRANDS = 64
#: Of the files that lora_files writes; the others have reduced_bases'.
LARGER_RANK = 8
#: On a CPU a picture of 1024 pixels takes minutes.
PATIENCE_S = 3600.0
#: Reads text encoders from a file, too; one is painted, and the dialects take turns.
PAINTED = DIALECTS.index(Dialect.KOHYA)


def outline(*, reduced: bool) -> Pipeline:
    """SDXL's models with names and shapes, and without memory where they are large."""
    if reduced:
        return reduced_pipeline(FAMILY, seed=0, dtype=torch.bfloat16)
    parts: dict[str, Any] = {name: new_model(FAMILY, name, device="meta") for name in COMPONENTS[FAMILY]}
    tokenizers = {name: clip_tokenizer(pad_token=pad) for name, pad in PADS.items()}
    return StableDiffusionXLPipeline(**parts, **tokenizers, scheduler=EulerDiscreteScheduler(), add_watermarker=False)


def write_brands(served: Served, folder: Path, *, reduced: bool) -> list[Path]:
    """A LoRA for each brand, unlike any other: dialects in turn, those of diffusers and kohya with text encoders."""
    folder.mkdir()
    pipe = outline(reduced=reduced)
    files = []
    for number in tqdm(range(BRANDS), desc="brands written", disable=None):
        dialect, file = DIALECTS[number % len(DIALECTS)], folder / f"brand-{number:02d}.safetensors"
        files.append(file)
        if dialect in {Dialect.PEFT, Dialect.DIFFUSERS_OLD}:
            random_lora_file(served.table, rank=LARGER_RANK, seed=number, dialect=dialect, file=file)
            continue
        lora = random_lora(served.table, seed=number, convolutions=False, rank=RANK)
        halves = {layer: (down.half(), up.half()) for layer, (down, up) in lora.items()}
        if dialect is Dialect.DIFFUSERS:
            write_diffusers(halves, file, pipe)
        else:
            write_kohya(halves, file, served.table, original_names=True)
    return files


async def started_registry(processes: Processes, folder: Path, served: Served) -> str:
    """The address of a registry on a store of its own, which knows the base's layers."""
    store = free_run(2)
    port = store + 1
    keys = {"ACCESS_KEY": LOCAL_ACCESS_KEY, "SECRET_KEY": LOCAL_SECRET_KEY}
    tables = folder / "tables"
    tables.mkdir()
    (tables / f"{FAMILY}.json").write_text(table_to_json(served.table))
    await processes.start(
        "store",
        [sys.executable, "-m", "services.registry.seaweedfs", f"--folder={folder / 'store'}", f"--port={store}"]
        + [f"--{key.lower().replace('_', '-')}={value}" for key, value in keys.items()],
    )

    async def store_is_ready() -> bool:
        return STORE_READY in await asyncio.to_thread(processes.log("store").read_text, errors="replace")

    await processes.until("store", store_is_ready, within_s=READY_WITHIN_S)
    await processes.start(
        "registry",
        [sys.executable, "-m", "services.registry"],
        REGISTRY_PORT=port,
        REGISTRY_BASES=tables,
        REGISTRY_STORE_ENDPOINT=f"127.0.0.1:{store}",
        **{f"REGISTRY_STORE_{key}": value for key, value in keys.items()},
    )
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        await processes.until("registry", partial(is_serving, channel), within_s=READY_WITHIN_S)
    return address


async def publish(address: str, files: Sequence[Path]) -> None:
    """Each file for a brand of its name."""
    async with grpc.aio.insecure_channel(address) as channel:
        registry = RegistryClient(channel)
        for file in tqdm(files, desc="brands published", disable=None):
            await registry.put_brand(Brand(file.stem, default_adapters=(AdapterUse(ADAPTER),)))
            digest, size = await asyncio.to_thread(measured, file)
            await registry.publish(PublishHeader(file.stem, ADAPTER, FAMILY, digest, size), file)


async def full_size(folder: Path, *, dtype: str, reduced: bool) -> dict[str, float]:
    began = time.perf_counter()
    served = await asyncio.to_thread(write_served, RECIPE, folder, reduced=reduced)
    served.recipe.write_text(served.recipe.read_text().replace('dtype = "bfloat16"', f'dtype = "{dtype}"'))
    files = await asyncio.to_thread(write_brands, served, folder / "brands", reduced=reduced)
    written_s = time.perf_counter() - began
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(processes_in(folder))
        registry = await started_registry(processes, folder, served)
        began = time.perf_counter()
        await publish(registry, files)
        published_s = time.perf_counter() - began
        print("the worker starts")
        worker, ready_s = await started_worker(processes, folder, served.recipe, WORKER_REGISTRY=registry)
        print(f"the worker is ready after {ready_s:.1f} s and paints")
        ready_mib = peak_mib(processes.pid("worker"))
        client = await stack.enter_async_context(Looksmith([worker]))
        width, height = served.size
        request = pb.GenerateRequest(
            brand=files[PAINTED].stem, prompt="a red kite over the sea", seed=7, steps=1, width=width, height=height
        )
        painting = await client.paint(request, timeout_s=PATIENCE_S)
        peak = peak_mib(processes.pid("worker"))
    (image,) = painting.images
    if (image.width, image.height) != (width, height) or len(painting.finished.adapters) != 1:
        raise RuntimeError(f"asked for {width}x{height} with one adapter, and got {painting.finished}")
    return {
        "brands": float(len(files)),
        "brand_files_mib": sum(file.stat().st_size for file in files) / 2**20,
        "written_s": written_s,
        "published_s": published_s,
        "worker_ready_s": ready_s,
        "worker_ready_peak_mib": ready_mib,
        "picture_pixels": float(width * height),
        **stages(painting),
        "gpu_seconds": painting.finished.gpu_seconds,
        "worker_peak_mib": peak,
    }


def stages(painting: Painting) -> dict[str, float]:
    """Seconds of each, as the reply tells them."""
    return {
        **{f"swap_{name}_s": took for name, took in durations(painting.swapped)},
        **{f"{name}_s": took for name, took in durations(painting.finished.timings)},
    }


def durations(message: Message) -> list[tuple[str, float]]:
    fields = [(field.name, getattr(message, field.name)) for field in message.DESCRIPTOR.fields]
    return [(name, value.ToNanoseconds() / 1e9) for name, value in fields if isinstance(value, Duration)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the recipe")
    parser.add_argument("--reduced", action="store_true", help="narrow models, to try the benchmark itself")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
        figures = asyncio.run(full_size(Path(folder), dtype=arguments.dtype, reduced=arguments.reduced))
    sys.exit(not report(figures, {}, file=arguments.json, dtype=arguments.dtype, reduced=arguments.reduced))


if __name__ == "__main__":
    main()

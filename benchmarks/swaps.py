"""How long it takes until a brand's adapter can act: the bank beside diffusers' load and hotswap, at full width.

Adapters are truly different files; weights of the base are random, and shared by the contenders.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch

from benchmarks.bases import new_model
from benchmarks.lora_files import random_lora_file
from benchmarks.measure import interleaved
from looksmith.lora import Dialect, packaged_table
from services.gpu_worker.engine.bank import SlotBank
from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import AdapterPlan, BlockLayout, CompiledAdapter

DTYPE = torch.bfloat16
_GB = 1e9


class Bank:
    """A slot bank of one rank class, and the pool that compiles for it, as the worker's engine has them."""

    def __init__(self, family: str, *, rank: int, slots: int, device: str, pool: CompilePool) -> None:
        layout = BlockLayout.of(packaged_table(family), rank=rank, dtype=DTYPE)
        self._device = torch.device(device)
        self.slots = SlotBank({rank: layout}, slots={rank: slots}, rows=1, device=self._device, dtype=DTYPE)
        self._pool = pool
        self._held: list[str] = []
        self._limit = slots

    def compiled(self, file: Path, digest: str) -> CompiledAdapter:
        plan = self._pool.plan(file)
        if not isinstance(plan, AdapterPlan):
            raise TypeError(plan)
        return self._pool.compile(file, digest, plan)

    def swap(self, digest: str, adapter: CompiledAdapter) -> float:
        """Seconds until the slot of another brand holds this adapter; what it holds is then compared."""
        began = time.perf_counter()
        if len(self._held) == self._limit:
            self.slots.evict(self._held.pop(0))
        self.slots.place(digest, adapter)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        self._held.append(digest)
        if not torch.equal(self.slots.read(digest).cpu(), adapter.block):
            raise RuntimeError("the slot does not hold what was placed there")
        return took

    def cold(self, file: Path) -> float:
        """Seconds from a file that was never seen to a slot: its digest, validation, compiling, placing."""
        began = time.perf_counter()
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        adapter = self.compiled(file, digest)
        read = time.perf_counter() - began
        return read + self.swap(digest, adapter)


class Diffusers:
    """What a user has without Looksmith: a pipeline that loads LoRAs."""

    def __init__(self, family: str, *, device: str) -> None:
        unet = new_model(family, "unet", device=device, dtype=DTYPE)
        nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
        scheduler = diffusers.EulerDiscreteScheduler()
        self.pipe: Any = (
            diffusers.StableDiffusionXLPipeline(
                unet=unet, scheduler=scheduler, text_encoder_2=None, tokenizer_2=None, **nothing
            )
            if family == "sdxl"
            else diffusers.StableDiffusionPipeline(
                unet=unet,
                scheduler=scheduler,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                **nothing,
            )
        )

    def load(self, file: Path) -> float:
        began = time.perf_counter()
        self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="brand")
        self.pipe.set_adapters(["brand"])
        took = time.perf_counter() - began
        self.pipe.delete_adapters(["brand"])
        return took

    def hotswap(self, file: Path) -> float:
        began = time.perf_counter()
        self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="hot", hotswap=True)
        return time.perf_counter() - began

    def prepare_hotswap(self, file: Path) -> None:
        self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="hot")


@contextmanager
def pool_for(family: str, rank: int, folder: Path) -> Iterator[CompilePool]:
    table = packaged_table(family)
    layouts = {rank: BlockLayout.of(table, rank=rank, dtype=DTYPE)}
    with CompilePool(table=table, layouts=layouts, dtype=DTYPE, folder=folder, limit_bytes=64 << 30) as pool:
        yield pool


def swaps(family: str, *, device: str = "cpu", rank: int = 16, repeats: int = 5) -> dict[str, float]:
    """Swap, hotswap, load and cold file of all linear layers in the UNet's transformers."""
    table = packaged_table(family)
    with tempfile.TemporaryDirectory(prefix="swaps-") as name, pool_for(family, rank, Path(name) / "c") as pool:
        folder = Path(name)
        files = [
            random_lora_file(
                table,
                rank=rank,
                seed=seed,
                dialect=Dialect.DIFFUSERS,
                file=folder / f"{seed}.safetensors",
                dtype=DTYPE,
            )
            for seed in range(4 + repeats + 1)
        ]
        warm, never_seen = files[:4], files[4:]
        bank = Bank(family, rank=rank, slots=1, device=device, pool=pool)
        host = [bank.compiled(file, str(i)) for i, file in enumerate(warm)]
        bank.swap("0", host[0])
        theirs = Diffusers(family, device=device)
        hot = Diffusers(family, device="meta")  # its own wrappers, on the other's weights
        hot.pipe.unet.load_state_dict(theirs.pipe.unet.state_dict(), assign=True)
        hot.prepare_hotswap(warm[0])
        medians = interleaved(
            {
                "swap": lambda turn: bank.swap(str((turn + 1) % 4), host[(turn + 1) % 4]),
                "cold_file": lambda turn: bank.cold(never_seen[turn]),
                "hotswap": lambda turn: hot.hotswap(warm[(turn + 1) % 4]),
                "load": lambda turn: theirs.load(warm[(turn + 1) % 4]),
            },
            repeats=repeats,
            what=f"{family} swaps",
        )
    size = host[0].block.nbytes
    return {
        **{f"{name}_ms": seconds * 1e3 for name, seconds in medians.items()},
        "swap_vs_load": medians["load"] / medians["swap"],
        "swap_vs_hotswap": medians["hotswap"] / medians["swap"],
        "cold_file_vs_load": medians["load"] / medians["cold_file"],
        "swap_bytes": size,
        "swap_gb_per_s": size / medians["swap"] / _GB,
    }

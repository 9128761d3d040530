"""How long it takes until a brand's adapter can act: the bank beside diffusers' load and hotswap, at full width.

Adapters are truly different files; weights of the base are random, and shared by the contenders.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import diffusers

from benchmarks.bases import new_model
from benchmarks.lora_files import random_lora_file
from benchmarks.measure import interleaved, timed
from benchmarks.tiers_alone import DTYPE, SlotsOnly, TiersAlone
from looksmith.lora import Dialect, packaged_table
from services.gpu_worker.engine.compiler import BlockLayout

_WARM = 4  # adapters that take turns
_GB = 1e9


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
        """Seconds to load an adapter and switch to it; it is then deleted."""

        def load() -> None:
            self.add(file, "brand")
            self.switch("brand")

        took = timed(load)
        self.pipe.delete_adapters(["brand"])
        return took

    def add(self, file: Path, name: str) -> None:
        self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)

    def switch(self, name: str) -> None:
        self.pipe.set_adapters([name])

    def hotswap(self, file: Path) -> float:
        """Seconds to replace the one adapter that there is."""
        return timed(
            lambda: self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="hot", hotswap=True)
        )


class DiffusersPair:
    """One pipeline that loads and one that hotswaps, whose layers' wrappers are their own, on the same base weights."""

    def __init__(self, family: str, first: Path, *, device: str) -> None:
        """``first``: what the hotswapping one begins with."""
        self.loading = Diffusers(family, device=device)
        self.hotswapping = Diffusers(family, device="meta")
        self.hotswapping.pipe.unet.load_state_dict(self.loading.pipe.unet.state_dict(), assign=True)
        self.hotswapping.add(first, "hot")


def swaps(family: str, *, device: str = "cpu", rank: int = 16, repeats: int = 5) -> dict[str, float]:
    """Swap, hotswap, load and cold file of all linear layers in the UNet's transformers."""
    table = packaged_table(family)
    with tempfile.TemporaryDirectory(prefix="swaps-") as name:
        folder = Path(name)

        def files(kind: str, count: int) -> list[Path]:
            (folder / kind).mkdir()
            return [
                random_lora_file(
                    table,
                    rank=rank,
                    seed=sum(kind.encode()) + seed,
                    dialect=Dialect.DIFFUSERS,
                    file=folder / kind / f"{seed}.safetensors",
                    dtype=DTYPE,
                )
                for seed in range(count)
            ]

        theirs_files = files("theirs", _WARM)
        warm, never_seen = files("warm", _WARM), files("never-seen", repeats + 1)
        size = BlockLayout.of(table, rank=rank, dtype=DTYPE).elements * DTYPE.itemsize
        theirs = DiffusersPair(family, theirs_files[0], device=device)
        engine = SlotsOnly(family, rank=rank, slots=1, device=device, compiled=folder / "compiled")
        with TiersAlone(
            engine, [*warm, *never_seen], folder=folder / "disk", host_adapters=_WARM + repeats + 1
        ) as ours:
            known, unknown = ours.digests[:_WARM], ours.digests[_WARM:]
            for digest in known:
                ours.to_host(digest)
            medians = interleaved(
                {
                    "swap": lambda turn: ours.to_slot(known[turn % _WARM]),
                    "cold_file": lambda turn: ours.to_slot(unknown[turn], then_settle=True),
                    "hotswap": lambda turn: theirs.hotswapping.hotswap(theirs_files[(turn + 1) % _WARM]),
                    "load": lambda turn: theirs.loading.load(theirs_files[(turn + 1) % _WARM]),
                },
                repeats=repeats,
                what=f"{family} swaps",
            )
    return {
        **{f"{name}_ms": seconds * 1e3 for name, seconds in medians.items()},
        "swap_vs_load": medians["load"] / medians["swap"],
        "swap_vs_hotswap": medians["hotswap"] / medians["swap"],
        "cold_file_vs_load": medians["load"] / medians["cold_file"],
        "swap_bytes": size,
        "swap_gb_per_s": size / medians["swap"] / _GB,
    }

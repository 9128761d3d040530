"""What a batch of different brands costs: the bank beside diffusers brand by brand, and beside peft's mixed batches.

All paint the studio model's whole pictures, from prompts that were not asked before to pixels. Every contender works on
base weights of its own, loaded from the same recipe.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from PIL.Image import Image

from benchmarks.brands import write_brands
from benchmarks.measure import interleaved, timed
from looksmith.lora import pack
from models.studio.files import STUDIO
from models.studio.scenes import BACKGROUNDS, COLOURS, OBJECTS
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import (
    Engine,
    EngineJob,
    HostAdapter,
    ImageReady,
    ImageTask,
    JobDone,
    JobFailed,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.reference import ReferenceEngine

RECIPE = Path("deploy/recipes/studio.toml")
STEPS, SIDE = 4, 128
HOUSE_STYLES = ("harbour", "inkwell", "marigold", "voltage")
MANY, SLOTS, JOBS, BATCH = 100, 32, 64, 4
FILES = 160  # of which two thirds have a rank that the bank holds


def house_styles(folder: Path) -> dict[str, Path]:
    """The four brands' own files; a peft folder is packed, as the registry keeps it."""
    brands = STUDIO / "brands"
    pack(brands / "inkwell" / "house-style").write(folder / "inkwell.safetensors")
    return {
        name: folder / "inkwell.safetensors" if name == "inkwell" else brands / name / "house-style.safetensors"
        for name in HOUSE_STYLES
    }


def new_prompts() -> Iterator[str]:
    """Prompts in random order, none twice before all were."""
    every = [f"a {c} {o} on a {b} background" for c, o, b in itertools.product(COLOURS, OBJECTS, BACKGROUNDS)]
    while True:
        yield from random.Random(5).sample(every, len(every))


@contextmanager
def bank_engine(folder: Path, *, threads: int, slots: int = SLOTS) -> Iterator[BankEngine]:
    engine = BankEngine(
        reference_engine(threads=threads),
        slots={32: slots},
        batch_sizes=(1, 2, BATCH),
        compiled=folder / "compiled",
        compiled_bytes=8 << 30,
    )
    try:
        engine.load()
        yield engine
    finally:
        engine.close()


def reference_engine(*, threads: int) -> ReferenceEngine:
    return ReferenceEngine([read_recipe(RECIPE)], device="cpu", threads=threads, slots=8, clock=steady_clock())


def job(name: str, prompt: str, *brands: str) -> EngineJob:
    return EngineJob(
        id=name,
        brand=brands[0] if brands else "base",
        recipe="studio",
        prompt=prompt,
        negative_prompt="",
        adapters=tuple(WeightedAdapter(brand, 1.0) for brand in brands),
        images=(ImageTask(0, 7),),
        width=SIDE,
        height=SIDE,
        steps=STEPS,
        guidance=0.0,
    )


def run(engine: Engine, jobs: Sequence[EngineJob]) -> int:
    """Paints jobs together; the number of pictures."""
    for one in jobs:
        engine.start(one)
    pictures = 0
    while events := engine.tick():
        for event in events:
            if isinstance(event, JobFailed):
                raise event.error
            pictures += isinstance(event, ImageReady)
    return pictures


class Peft:
    """Bare diffusers with all four adapters loaded: one brand after the other, or peft's mixed batch."""

    def __init__(self, files: dict[str, Path], *, threads: int) -> None:
        engine = reference_engine(threads=threads)
        engine.load()
        for name, file in files.items():
            engine.place(engine.read(file, name))  # as load_lora_weights would, in every dialect
        self.pipe: Any = engine.pipe
        self._names = list(files)
        self._layers = [
            layer
            for part in (self.pipe.unet, self.pipe.text_encoder)
            for layer in part.modules()
            if isinstance(layer, LoraLayer)
        ]

    def serial(self, prompts: Sequence[str]) -> None:
        for name, prompt in zip(self._names, prompts, strict=True):
            self.pipe.set_adapters([name])
            self.generate([prompt])

    def fused(self, prompts: Sequence[str]) -> None:
        """One after the other, each adapter merged into the weights before its picture and taken out after it."""
        for name, prompt in zip(self._names, prompts, strict=True):
            self.pipe.fuse_lora(adapter_names=[name])
            self.generate([prompt])
            self.pipe.unfuse_lora()

    def mixed(self, prompts: Sequence[str]) -> None:
        self.pipe.set_adapters(self._names)
        names = self._names

        def with_names(_layer: object, arguments: Any, options: Any) -> Any:  # noqa: ANN401  # as torch calls a hook
            return arguments, {**options, "adapter_names": names}

        hooks = [layer.register_forward_pre_hook(with_names, with_kwargs=True) for layer in self._layers]  # type: ignore[attr-defined]  # layers are modules
        try:
            self.generate(list(prompts))
        finally:
            for hook in hooks:
                hook.remove()

    def generate(self, prompts: list[str], *, images: int = 1) -> list[Image]:
        """Pictures, so many of each prompt, of whatever adapters are set."""
        generators = [torch.Generator().manual_seed(7 + i) for _ in prompts for i in range(images)]
        made = self.pipe(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=0.0,
            generator=generators,
            num_images_per_prompt=images,
        )
        pictures: list[Image] = made.images
        return pictures


def batches(*, threads: int, repeats: int) -> dict[str, float]:
    """Four pictures a run: four brands, one brand, none."""
    prompts = new_prompts()
    with tempfile.TemporaryDirectory(prefix="batches-") as name, bank_engine(Path(name), threads=threads) as engine:
        files = house_styles(Path(name))
        for brand, file in files.items():
            engine.place(engine.read(file, brand))
        peft = Peft(files, threads=threads)

        def four() -> list[str]:
            return [next(prompts) for _ in range(BATCH)]

        def in_bank(brands: Sequence[Sequence[str]]) -> Callable[[int], float]:
            def once(_turn: int) -> float:
                jobs = [job(str(i), p, *b) for i, (p, b) in enumerate(zip(four(), brands, strict=True))]
                return timed(lambda: run(engine, jobs))

            return once

        def by_diffusers(paint: Callable[[Sequence[str]], None]) -> Callable[[int], float]:
            def once(_turn: int) -> float:
                asked = four()
                return timed(lambda: paint(asked))

            return once

        medians = interleaved(
            {
                "mixed": in_bank([[brand] for brand in HOUSE_STYLES]),
                "one_brand": in_bank([["voltage"]] * BATCH),
                "base": in_bank([[]] * BATCH),
                "serial": by_diffusers(peft.serial),
                "fused": by_diffusers(peft.fused),
                "peft_mixed": by_diffusers(peft.mixed),
            },
            repeats=repeats,
            what="batches of 4",
        )
    return {
        **{f"batch_{contender}_ms": seconds * 1e3 for contender, seconds in medians.items()},
        "mixed_vs_serial": medians["serial"] / medians["mixed"],
        "mixed_vs_fused": medians["fused"] / medians["mixed"],
        "mixed_vs_peft_mixed": medians["peft_mixed"] / medians["mixed"],
        "mixed_vs_one_brand": medians["one_brand"] / medians["mixed"],
        "bank_vs_base": medians["mixed"] / medians["base"],
    }


def many_brands(*, threads: int, repeats: int) -> dict[str, float]:
    """100 brands in random order over 32 slots, beside one brand: images a second, four jobs under way at any time."""
    prompts = new_prompts()
    draw = random.Random(3)
    with tempfile.TemporaryDirectory(prefix="many-") as name, bank_engine(Path(name), threads=threads) as engine:
        paths = write_brands(FILES, Path(name) / "files")
        host = {str(i): engine.read(file, str(i)) for i, file in enumerate(paths)}
        in_bank = [brand for brand, adapter in host.items() if adapter.kind == "rank-32"][:MANY]
        resident: OrderedDict[str, None] = OrderedDict()

        def paint(brands: Sequence[str]) -> None:
            waiting, running, names = list(brands), dict[str, str](), itertools.count()
            while waiting or running:
                while waiting and len(running) < BATCH:
                    brand = waiting.pop(0)
                    _make_resident(engine, resident, host[brand], held=set(running.values()))
                    one = job(str(next(names)), next(prompts), brand)
                    engine.start(one)
                    running[one.id] = brand
                for event in engine.tick():
                    if isinstance(event, JobFailed):
                        raise event.error
                    if isinstance(event, JobDone):
                        del running[event.job]

        def in_random_order(_turn: int) -> float:
            brands = draw.choices(in_bank, k=JOBS)
            return timed(lambda: paint(brands))

        medians = interleaved(
            {
                "interleaved": in_random_order,
                "single": lambda _turn: timed(lambda: paint([in_bank[0]] * JOBS)),
            },
            repeats=repeats,
            what=f"{len(in_bank)} brands in {SLOTS} slots",
        )
    return {
        "interleaved_brands": len(in_bank),
        "interleaved_images_per_s": JOBS / medians["interleaved"],
        "single_images_per_s": JOBS / medians["single"],
        "interleaved_vs_single": medians["single"] / medians["interleaved"],
    }


def _make_resident(
    engine: BankEngine, resident: OrderedDict[str, None], adapter: HostAdapter, *, held: set[str]
) -> None:
    """As the worker's tiers do it: least recently used out, none that runs."""
    if adapter.digest not in resident and len(resident) == SLOTS:
        victim = next(digest for digest in resident if digest not in held)
        del resident[victim]
        engine.evict(victim)
    engine.place(adapter)
    resident[adapter.digest] = None
    resident.move_to_end(adapter.digest)

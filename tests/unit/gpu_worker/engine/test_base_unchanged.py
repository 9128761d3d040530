"""The base that ships, under as many swaps as a busy worker does in days: not a bit of it changes, nothing piles up."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from looksmith.lora import pack
from models.studio.files import STUDIO
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import (
    EngineJob,
    HostAdapter,
    ImageReady,
    ImageTask,
    JobFailed,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny

pytestmark = pytest.mark.slow

SWAPS, SETTLED_AFTER = 10_000, 1_000
SLOTS = 4
#: A multiple of the slots and not of the brands: one slot is painted from, with each of the five brands in it.
PICTURE_EVERY = 1_996
#: A quarter of a kilobyte a swap is more; an adapter takes 4 MB. Without a leak it is some 10 kB.
GROWTH_BYTES = 2 << 20


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[BankEngine]:
    recipe = read_recipe(tiny.STUDIO_RECIPE)
    reference = ReferenceEngine([recipe], device="cpu", threads=1, slots=8, clock=steady_clock())
    compiled = tmp_path / "compiled"
    engine = BankEngine(reference, slots={32: SLOTS}, batch_sizes=(1, 2), compiled=compiled, compiled_bytes=1 << 30)
    engine.load()
    yield engine
    engine.close()


def brands(engine: BankEngine, folder: Path) -> list[HostAdapter]:
    """The adapters that ship, as a worker holds them in memory."""
    pack(STUDIO / "brands" / "inkwell" / "house-style").write(folder / "inkwell.safetensors")
    files = [folder / "inkwell.safetensors", *sorted((STUDIO / "brands").glob("*/*.safetensors"))]
    return [engine.read(file, f"brand-{index}") for index, file in enumerate(files)]


def picture(engine: BankEngine, *digests: str) -> bytes:
    uses = tuple(WeightedAdapter(digest, 1.0) for digest in digests)
    engine.start(EngineJob("j1", "acme", "studio", "a red car", "", uses, (ImageTask(0, 7),), 128, 128, 1, 0.0))
    pixels = b""
    while events := engine.tick():
        for event in events:
            if isinstance(event, JobFailed):
                raise event.error
            if isinstance(event, ImageReady):
                pixels = event.pixels.rgb
    return pixels


def fingerprint(engine: BankEngine) -> str:
    """Of every weight and buffer of the base, distillation fused in."""
    pipe, sha256 = engine._reference.pipe, hashlib.sha256()
    for model in (pipe.unet, pipe.text_encoder, pipe.vae):
        for name, tensor in sorted(model.state_dict().items()):
            sha256.update(name.encode() + tensor.numpy().tobytes())
    return sha256.hexdigest()


def resident_bytes() -> int:
    """Memory of this process once what it has freed is given back: loading leaves room in which a leak would hide."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_swaps_change_no_bit_of_the_shipped_base_and_take_no_memory(
    engine: BankEngine, tmp_path: Path
) -> None:
    adapters = brands(engine, tmp_path)
    bare, looks = picture(engine), []
    for adapter in adapters:
        engine.place(adapter)
        looks.append(picture(engine, adapter.digest))
        engine.evict(adapter.digest)
    assert len({bare, *looks}) == len(adapters) + 1
    before, settled, painted = fingerprint(engine), 0, 0
    for swap in range(1, SWAPS + 1):
        index = swap % len(adapters)
        engine.evict(adapters[index - SLOTS].digest)
        engine.place(adapters[index])
        if swap % PICTURE_EVERY == 0:
            assert picture(engine, adapters[index].digest) == looks[index]
            painted += 1
        if swap == SETTLED_AFTER:
            settled = resident_bytes()
    assert resident_bytes() - settled <= GROWTH_BYTES
    assert painted == len(adapters)
    assert fingerprint(engine) == before
    assert picture(engine) == bare

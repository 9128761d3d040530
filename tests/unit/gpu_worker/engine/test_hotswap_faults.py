"""What swapping an adapter in place does to others in diffusers 0.42.1 with peft 0.21.2, and must not do here.

There, a file of mixed ranks without alphas ends the brand that is live; a slot keeps the scale of what it held first;
and another weight is another tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.studio.dialects import Lora
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import EngineJob, ImageReady, ImageTask, WeightedAdapter
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny
from tests.unit.gpu_worker.engine.test_exactness import difference, latents_kept, run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own

TOLERANCE = 1e-9  # of float64, as in test_exactness
NOTICEABLE = 1000 * TOLERANCE
ONE_SLOT, WIDE = 16, 32  # rank classes
MIXED = (2, 8, 32)


@dataclass(frozen=True)
class Both:
    """The bank engine, and the one that says what each picture must be."""

    bank: BankEngine
    reference: ReferenceEngine

    def place(self, digest: str, file: Path) -> None:
        """Reads a file and places it, as a worker does when it arrives."""
        for engine in (self.bank, self.reference):
            engine.place(engine.read(file, digest))

    def evict(self, *digests: str) -> None:
        for engine in (self.bank, self.reference):
            for digest in digests:
                engine.evict(digest)

    def off_by(self, job: EngineJob) -> float:
        return difference(latents(self.bank, job), latents(self.reference, job))


@pytest.fixture(scope="module")
def engines(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    def reference() -> ReferenceEngine:
        recipe = replace(tiny.tiny_recipe(base), dtype="float64")
        return ReferenceEngine([recipe], device="cpu", threads=1, slots=8, clock=steady_clock())

    bank = BankEngine(
        reference(),
        slots={ONE_SLOT: 1, WIDE: 4},
        batch_sizes=(1, 2, 4),
        compiled=tmp_path_factory.mktemp("hotswap") / "compiled",
        compiled_bytes=1 << 30,
    )
    both = Both(bank, reference())
    bank.load()
    both.reference.load()
    yield both
    bank.close()


@pytest.fixture
def both(engines: Both) -> Iterator[Both]:
    """With nothing on either's device, before and after."""
    yield engines
    engines.evict(*engines.bank._placed)


def job(*uses: tuple[str, float]) -> EngineJob:
    return EngineJob(
        id="j1",
        brand="acme",
        recipe="studio",
        prompt="a red mug",
        negative_prompt="",
        adapters=tuple(WeightedAdapter(digest, weight) for digest, weight in uses),
        images=(ImageTask(0, 7),),
        width=128,
        height=128,
        steps=2,
        guidance=0.0,
    )


def latents(engine: BankEngine | ReferenceEngine, job: EngineJob) -> Tensor:
    return run(engine, [job], [0])[job.id, 0][0]


def written(base: Path, folder: Path, *, rank: int, alpha: float, text_encoder: bool = False) -> Path:
    folder.mkdir()
    lora = tiny.random_lora(base, seed=rank, rank=rank, alpha=alpha, strength=1.0, text_encoder=text_encoder)
    return tiny.write_lora("kohya", lora, folder)


def without_alphas(base: Path, folder: Path, dialect: str) -> Path:
    """A file whose layers have several ranks, and which says no alpha: each layer's is its rank."""
    folder.mkdir()
    loras = [tiny.random_lora(base, seed=rank, rank=rank, alpha=rank, strength=1.0) for rank in MIXED]
    layers = {path: loras[index % len(MIXED)].unet[path] for index, path in enumerate(loras[0].unet)}
    file = tiny.write_lora(dialect, Lora(max(MIXED), max(MIXED), layers, {}), folder)
    save_file({name: t for name, t in load_file(file).items() if not name.endswith(".alpha")}, file)
    assert {min(tensor.shape) for tensor in load_file(file).values()} == set(MIXED)
    return file


@pytest.mark.parametrize("dialect", ["kohya", "diffusers-old"])
def test_file_of_mixed_ranks_without_alphas_arrives_while_a_brand_is_painted_and_changes_nothing_of_it(
    both: Both, base: Path, tmp_path: Path, dialect: str
) -> None:
    both.place("live", written(base, tmp_path / "live", rank=24, alpha=12.0))
    live = job(("live", 1.0))
    before = run(both.bank, [live], [0])["j1", 0]
    with latents_kept(both.bank) as during:
        both.bank.start(live)
        events = list(both.bank.tick())
        both.place("new", without_alphas(base, tmp_path / "new", dialect))
        while more := both.bank.tick():
            events += more
    (image,) = [event for event in events if isinstance(event, ImageReady)]
    assert both.off_by(job(("new", 1.0))) <= TOLERANCE
    after = run(both.bank, [live], [0])["j1", 0]
    assert before[0].equal(during[0])
    assert before[0].equal(after[0])
    assert (before[1] == after[1]).all()
    assert bytes(before[1].astype("uint8")) == image.pixels.rgb
    assert both.off_by(live) <= TOLERANCE
    assert difference(latents(both.bank, job(("new", 1.0))), before[0]) >= NOTICEABLE


def test_weight_of_one_is_the_files_own_strength_in_a_slot_that_held_another_rank_and_alpha(
    both: Both, base: Path, tmp_path: Path
) -> None:
    both.place("first", written(base, tmp_path / "first", rank=16, alpha=16.0))
    assert both.off_by(job(("first", 1.0))) <= TOLERANCE
    both.evict("first")  # its class has this slot only
    both.place("second", written(base, tmp_path / "second", rank=8, alpha=4.0))
    assert both.bank._bank._rank_of == {"second": ONE_SLOT}
    for weight in (1.0, 0.5, 1.0):
        assert both.off_by(job(("second", weight))) <= TOLERANCE, f"at weight {weight}"
    twice = difference(latents(both.bank, job(("second", 2.0))), latents(both.bank, job(("second", 1.0))))
    assert twice >= NOTICEABLE, "twice the strength would be seen"


def tensors_of(bank: BankEngine) -> dict[str, Tensor]:
    """All that a forward pass reads: the models' parameters and buffers, slots, and what the rows are bound to."""
    lane, pipe = bank._bank_lane, bank._reference.pipe
    models = {
        "unet": lane._batcher._unet,
        "text_encoder": lane._prompts._pipe.text_encoder,
        "vae": lane._pipe.vae,
        "reference.unet": pipe.unet,
        "reference.text_encoder": pipe.text_encoder,
    }
    found: dict[str, Tensor] = {}
    for name, model in models.items():
        assert isinstance(model, nn.Module)
        named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        found |= {f"{name}.{path}": tensor for path, tensor in named}
    for rank, kind in bank._bank._classes.items():
        found[f"arena.{rank}"] = kind.arena
        for use, bound in enumerate(kind.bound):
            found |= {f"blocks.{rank}.{use}": bound.blocks, f"weights.{rank}.{use}": bound.weights}
    return found


def test_another_weight_writes_one_small_tensor_in_place_and_nothing_else(
    both: Both, base: Path, tmp_path: Path
) -> None:
    both.place("look", written(base, tmp_path / "look", rank=32, alpha=8.0, text_encoder=True))
    latents(both.bank, job(("look", 1.0)))
    before = tensors_of(both.bank)
    values = {name: tensor.clone() for name, tensor in before.items()}
    for weight in (0.3, -0.7, 0.0):
        painted = latents(both.bank, job(("look", weight)))
        after = tensors_of(both.bank)
        assert after.keys() == before.keys()
        assert [name for name in after if after[name].data_ptr() != before[name].data_ptr()] == []
        assert [name for name in after if not torch.equal(after[name], values[name])] == [f"weights.{WIDE}.0"]
        assert difference(painted, latents(both.reference, job(("look", weight)))) <= TOLERANCE, f"at weight {weight}"


def test_weight_of_zero_is_the_plain_base_to_the_bit(both: Both, base: Path, tmp_path: Path) -> None:
    both.place("look", written(base, tmp_path / "look", rank=32, alpha=8.0, text_encoder=True))
    plain, full = run(both.bank, [job()], [0])["j1", 0], latents(both.bank, job(("look", 1.0)))
    assert difference(full, plain[0]) >= NOTICEABLE
    none = run(both.bank, [job(("look", 0.0))], [0])["j1", 0]
    assert none[0].equal(plain[0])
    assert (none[1] == plain[1]).all()

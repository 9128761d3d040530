"""One job's trouble, whole engine: what fails, what neighbours in its batch get to see of it, and what comes after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.studio.dialects import Lora
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.bank_lane import BankLane
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageReady,
    ImageTask,
    JobDone,
    JobFailed,
    Pixels,
    StepDone,
    WeightedAdapter,
)
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny
from tests.unit.gpu_worker.engine.passes import PADDING, Pass, passes_of
from tests.unit.gpu_worker.engine.test_exactness import SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own

STEPS = 4


@pytest.fixture(scope="module")
def loaded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankEngine]:
    plain = tiny.tiny_recipe(base)
    noisy = replace(plain, name="noisy", sampler=SAMPLERS["tcd"])  # draws noise in every step but the last
    reference = ReferenceEngine([noisy, plain], device="cpu", threads=1, slots=8, clock=steady_clock())
    folder = tmp_path_factory.mktemp("faults") / "compiled"
    engine = BankEngine(reference, slots={8: 4}, batch_sizes=(1, 2, 4), compiled=folder, compiled_bytes=1 << 30)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: BankEngine) -> Iterator[BankEngine]:
    """Idle before and after, with nothing placed."""
    yield loaded
    for job in list(loaded._bank_lane._jobs):
        loaded.stop(job)
    for digest in list(loaded._placed):
        loaded.evict(digest)


def job(name: str, *digests: str, **changes: Any) -> EngineJob:  # noqa: ANN401  # values of any field
    """A job, a brand and a prompt of one name, painted in the largest batch so that its bytes can be compared."""
    fields: dict[str, Any] = {
        "id": name,
        "brand": name,
        "recipe": "noisy",
        "prompt": name,
        "negative_prompt": "",
        "adapters": tuple(WeightedAdapter(digest, 0.7) for digest in digests),
        "images": (ImageTask(0, 7),),
        "width": 128,
        "height": 128,
        "steps": STEPS,
        "guidance": 0.0,
        "reproducible": True,
    }
    return EngineJob(**fields | changes)


def place(engine: BankEngine, digest: str, lora: Lora, folder: Path) -> None:
    folder.mkdir()
    engine.place(engine.read(tiny.write_lora("kohya", lora, folder), digest))


@dataclass
class Told:
    """What an engine has said."""

    events: list[Event] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, Exception]:
        return {event.job: event.error for event in self.events if isinstance(event, JobFailed)}

    @property
    def done(self) -> set[str]:
        return {event.job for event in self.events if isinstance(event, JobDone)}

    @property
    def pictures(self) -> dict[str, bytes]:
        return {event.job: event.pixels.rgb for event in self.events if isinstance(event, ImageReady)}

    def steps(self, name: str) -> list[int]:
        return [event.step for event in self.events if isinstance(event, StepDone) and event.job == name]


def run(engine: BankEngine, *jobs: EngineJob) -> Told:
    for each in jobs:
        engine.start(each)
    told = Told()
    while events := engine.tick():
        told.events += events
    return told


def alone(engine: BankEngine, jobs: Sequence[EngineJob]) -> dict[str, bytes]:
    return {name: picture for each in jobs for name, picture in run(engine, each).pictures.items()}


def poison(base: Path, component: str) -> Lora:
    """Weights that are finite in the base's dtype, and whose products are not: even times zero they leave NaN."""
    lora = tiny.random_lora(base, seed=9, text_encoder=True)
    huge = {
        path: (down / down.abs().max() * 1e38, up / up.abs().max() * 1e38)
        for path, (down, up) in lora.parts()[component].items()
    }
    parts = {"unet": {}, "text_encoder": {}, component: huge}
    return Lora(lora.rank, lora.alpha, parts["unet"], parts["text_encoder"], torch.float32)


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_adapter_that_makes_numbers_overflow_fails_its_own_job_and_no_neighbour_loses_a_bit(
    engine: BankEngine, base: Path, tmp_path: Path, component: str
) -> None:
    place(engine, "good", tiny.random_lora(base, seed=1, text_encoder=True), tmp_path / "good")
    place(engine, "poison", poison(base, component), tmp_path / "poison")
    neighbours = [job("plain"), job("styled", "good"), job("other", "good", images=(ImageTask(0, 8),))]
    undisturbed = run(engine, *neighbours).pictures
    told = run(engine, neighbours[0], job("poisoned", "poison"), *neighbours[1:])
    assert {name: type(error) for name, error in told.failed.items()} == {"poisoned": ArithmeticError}
    assert told.done == {"plain", "styled", "other"}
    assert told.pictures == undisturbed
    # Whoever sits in its row next and uses no adapter gets nothing of it.
    after = run(engine, neighbours[0], job("next"), *neighbours[1:])
    assert after.pictures == undisturbed | alone(engine, [job("next")])


def test_error_of_the_device_over_some_rows_ends_their_jobs_only_and_steps_the_others_once(engine: BankEngine) -> None:
    good, cursed = [job("plain", recipe="studio"), job("noisy")], [job("cursed"), job("hexed")]
    undisturbed = alone(engine, [*good, *cursed])

    def lose(rows: Pass) -> None:
        if len(passes) > 2 and {"cursed", "hexed"} & {*rows}:  # two steps went well
            raise RuntimeError("device lost")

    with passes_of(engine, lose) as passes:
        told = run(engine, good[0], cursed[0], good[1], cursed[1])
    assert {name: str(error) for name, error in told.failed.items()} == {
        "cursed": "device lost",
        "hexed": "device lost",
    }
    assert told.pictures == {name: undisturbed[name] for name in ("plain", "noisy")}
    assert [told.steps(name) for name in ("plain", "noisy")] == 2 * [[1, 2, 3, 4]]
    assert [told.steps(name) for name in ("cursed", "hexed")] == 2 * [[1, 2]]
    assert run(engine, *good, *cursed).pictures == undisturbed, "and then it paints as before"


def test_error_of_the_device_that_passes_costs_no_job_a_bit(engine: BankEngine) -> None:
    jobs = [job("plain", recipe="studio"), job("noisy"), job("guided", guidance=2.5)]
    undisturbed = alone(engine, jobs)

    def lose(_: Pass) -> None:
        if len(passes) == 2:
            raise RuntimeError("device lost")

    with passes_of(engine, lose) as passes:
        told = run(engine, *jobs)
    assert len(passes) > STEPS + 1, "the batch that failed was painted picture by picture"
    assert not told.failed
    assert told.pictures == undisturbed


def test_device_that_is_lost_for_a_step_fails_the_jobs_of_that_batch_and_paints_the_next_ones(
    engine: BankEngine,
) -> None:
    seated, later = [job(name) for name in ("one", "two", "three", "four")], job("later")
    undisturbed = alone(engine, [*seated, later])
    lost = False

    def lose(_: Pass) -> None:
        if lost:
            raise RuntimeError("device lost")

    with passes_of(engine, lose):
        for each in (*seated, later):
            engine.start(each)
        engine.tick()
        lost = True
        during = Told(list(engine.tick()))
        lost = False
        after = run(engine)
    assert during.failed.keys() == {each.id for each in seated}
    assert (after.failed, after.pictures) == ({}, {"later": undisturbed["later"]})
    assert run(engine, *seated).pictures == {each.id: undisturbed[each.id] for each in seated}


def test_stopped_job_is_in_no_later_pass_and_who_waited_has_its_rows_in_the_next(engine: BankEngine) -> None:
    with passes_of(engine) as passes:
        many = tuple(ImageTask(image, image) for image in range(9))
        for each in (job("stays"), job("leaves", images=many), job("guided", guidance=2.5)):
            engine.start(each)
        engine.tick()
        engine.start(job("waits"))
        engine.tick()
        assert [sorted(rows) for rows in passes] == 2 * [["guided", "guided", "leaves", "stays"]]
        engine.stop("leaves")
        told = Told(list(engine.tick()))
        assert sorted(passes[-1]) == ["guided", "guided", "stays", "waits"]
        told.events += run(engine).events
    assert not [rows for rows in passes[2:] if "leaves" in rows]
    assert not [event for event in told.events if event.job == "leaves"]
    assert told.done == {"stays", "guided", "waits"}


def test_batch_is_smaller_in_the_step_after_jobs_were_stopped(engine: BankEngine) -> None:
    with passes_of(engine) as passes:
        for name in ("stays", "leaves", "goes"):
            engine.start(job(name, reproducible=False))
        engine.tick()
        assert sorted(passes[-1]) == [PADDING, "goes", "leaves", "stays"]
        engine.stop("leaves")
        engine.tick()
        assert sorted(passes[-1]) == ["goes", "stays"]
        engine.stop("goes")
        engine.tick()
        assert passes[-1] == ["stays"]


def test_preview_that_can_t_be_decoded_fails_its_own_job_alone(
    engine: BankEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = BankLane._drawn

    def lost(lane: BankLane, latents: Sequence[tuple[Any, Tensor]]) -> list[Pixels | None]:
        if any(one is picture.foreseen for picture in lane._batcher.pictures for _, one in latents):
            raise RuntimeError("device lost")
        return draw(lane, latents)

    undisturbed = run(engine, job("plain")).pictures
    monkeypatch.setattr(BankLane, "_drawn", lost)
    told = run(engine, job("plain"), job("looked at", preview_every=2))
    assert {name: str(error) for name, error in told.failed.items()} == {"looked at": "device lost"}
    assert told.pictures == undisturbed
    assert told.done == {"plain"}

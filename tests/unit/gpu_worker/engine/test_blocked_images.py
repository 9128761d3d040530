"""What every engine with a safety checker keeps about pictures that it blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import (
    Engine,
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)
from services.gpu_worker.engine.reference import ReferenceEngine
from services.gpu_worker.engine.safety import SafetyChecker
from tests.unit.gpu_worker.engine import tiny
from tests.unit.gpu_worker.worker_parts import engine_job, facts

Checker = Callable[[EngineJob, int], bool]
#: An engine whose checker blocks as one of these says.
Making = Callable[[Checker], Engine]

THREE = engine_job(images=(ImageTask(0, 7), ImageTask(1, 8), ImageTask(2, 9)), width=128, height=128)


def faked(blocks: Checker) -> Engine:
    return FakeEngine([facts()], blocks=blocks)


class Strict:
    """Stable Diffusion's safety checker, taught to find something in those of three pictures that it shall block."""

    def __init__(self, engine: Engine, checker: SafetyChecker) -> None:
        self._engine, self._model = engine, checker._model
        self._teach(torch.zeros(self._model.concept_embeds.shape[1]), least=1.0)
        seen: list[torch.Tensor] = []
        hook = self._model.visual_projection.register_forward_hook(lambda _layer, _given, made: seen.append(made))
        pictures = [event.pixels for event in run(engine, THREE) if isinstance(event, ImageReady)]
        seen.clear()
        checker.blocks(pictures)
        hook.remove()
        self._looks = torch.nn.functional.normalize(seen[0].float())

    def making(self, blocks: Checker) -> Engine:
        blocked = torch.tensor([blocks(THREE, image.image) for image in THREE.images])
        if blocked.all() or not blocked.any():
            self._teach(self._looks[0], least=-1.1 if blocked.all() else 1.1)
            return self._engine
        concept = torch.nn.functional.normalize(self._looks[blocked].mean(0) - self._looks[~blocked].mean(0), dim=0)
        likeness = self._looks @ concept
        assert likeness[blocked].min() > likeness[~blocked].max() + 0.01
        self._teach(concept, least=float(likeness[blocked].min() + likeness[~blocked].max()) / 2)
        return self._engine

    def _teach(self, concept: torch.Tensor, *, least: float) -> None:
        """From which likeness on a picture shows the concept; there is no other one."""
        weights: Any = self._model
        weights.concept_embeds.data[:] = concept
        weights.concept_embeds_weights.data.fill_(least)
        weights.special_care_embeds_weights.data.fill_(1.1)


def run(engine: Engine, job: EngineJob) -> list[Event]:
    engine.start(job)
    events: list[Event] = []
    while more := engine.tick():
        events += more
    return events


def ends(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, ImageReady | ImageBlocked)]


@pytest.fixture(scope="module")
def checked(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ReferenceEngine]:
    """Makes engines, not loaded yet, whose pictures a checker of random weights looks at."""
    folder = tmp_path_factory.mktemp("safety_checker")
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    eye = CLIPConfig(text_config=narrow, vision_config={**narrow, "image_size": 32, "patch_size": 8}, projection_dim=8)
    StableDiffusionSafetyChecker(eye).save_pretrained(folder)
    recipe = tiny.tiny_recipe(base, safety=True)
    recipe = replace(recipe, base=replace(recipe.base, safety_checker=folder))
    return lambda: ReferenceEngine([recipe], device="cpu", threads=1, slots=8, clock=steady_clock())


@pytest.fixture(scope="module")
def strict_reference(checked: Callable[[], ReferenceEngine]) -> Making:
    engine = checked()
    engine.load()
    return Strict(engine, engine.safety["studio"]).making


@pytest.fixture(scope="module")
def strict_bank(checked: Callable[[], ReferenceEngine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Making]:
    reference = checked()
    engine = BankEngine(
        reference,
        slots={8: 6},
        batch_sizes=(1, 2, 4),
        compiled=tmp_path_factory.mktemp("compiled"),
        compiled_bytes=1 << 30,
    )
    engine.load()
    yield Strict(engine, reference.safety["studio"]).making
    engine.close()


@pytest.fixture(params=["fake", "reference", "bank"])
def making(request: pytest.FixtureRequest) -> Making:
    if request.param == "fake":
        return faked
    making: Making = request.getfixturevalue(f"strict_{request.param}")
    return making


def test_blocked_picture_takes_the_place_of_its_image_and_the_others_are_as_ever(
    making: Making,
) -> None:
    first, second, third = ends(run(making(lambda _job, _image: False), THREE))
    events = run(making(lambda _job, image: image == 2), THREE)
    assert ends(events) == [first, second, ImageBlocked("j1", 2, 9)]
    assert isinstance(third, ImageReady) and third.seed == 9
    assert isinstance(events[-1], JobDone)


def test_blocked_picture_is_stepped_and_decoded_as_any_other_and_charged_for(
    making: Making,
) -> None:
    events = run(making(lambda _job, _image: True), THREE)
    assert [e.step for e in events if isinstance(e, StepDone) and e.image == 1] == [1, 2, 3, 4]
    stages = [event.stage for event in events if isinstance(event, StageDone)]
    assert (stages.count(Stage.DENOISE), stages.count(Stage.VAE_DECODE)) == (3, 3)
    assert isinstance(events[-1], JobDone)
    assert events[-1].gpu_seconds > 0


@pytest.mark.parametrize("engine", ["reference", "bank"])
def test_previews_are_looked_at_too(request: pytest.FixtureRequest, engine: str) -> None:
    making: Making = request.getfixturevalue(f"strict_{engine}")
    job = replace(THREE, preview_every=1)

    def previews(*, blocked: bool) -> int:
        return sum(isinstance(event, PreviewReady) for event in run(making(lambda _job, _image: blocked), job))

    assert (previews(blocked=False), previews(blocked=True)) == (9, 0)


def test_checker_is_asked_about_the_job_and_the_picture_s_index_in_the_request() -> None:
    asked: list[tuple[str, int]] = []

    def notes(job: EngineJob, image: int) -> bool:
        asked.append((job.id, image))
        return False

    run(faked(notes), engine_job("portion", images=(ImageTask(3, 10), ImageTask(5, 12))))
    assert asked == [("portion", 3), ("portion", 5)]

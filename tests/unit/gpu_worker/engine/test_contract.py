"""What every engine keeps: run against those without weights and against the real ones."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.compiler import CompiledAdapter
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import (
    AdapterNotPlaced,
    Engine,
    EngineJob,
    Event,
    HostAdapter,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe import Distillation
from services.gpu_worker.engine.reference import ReferenceEngine
from services.gpu_worker.engine.several_bases import SeveralBases
from services.gpu_worker.engine.timed import TimedEngine
from services.gpu_worker.engine.timed_costs import TimedCosts
from tests.unit.gpu_worker.engine import tiny

A, B = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def two_banks(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One as "bank" and one whose base has another distillation; they share a bank, as those of one family do."""
    folder = tmp_path_factory.mktemp("banks")
    distillation = Distillation(tiny.write_lora("kohya", tiny.random_lora(base, seed=9), folder))
    plain = tiny.tiny_recipe(base)
    banks: list[BankEngine] = []
    for recipe in (plain, replace(plain, name="studio-distilled", distill=distillation)):
        bank = BankEngine(
            ReferenceEngine([recipe], device="cpu", threads=1, slots=8, clock=steady_clock()),
            slots={8: 8},
            batch_sizes=(1, 2, 4),
            compiled=folder / "compiled",
            compiled_bytes=1 << 30,
            beside=banks[0] if banks else None,
        )
        banks.append(bank)
    engine = SeveralBases(banks)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(params=["fake", "timed", "reference", "bank", "two_banks"])
def engine(request: pytest.FixtureRequest, base: Path) -> Iterator[Engine]:
    if request.param == "fake":
        yield FakeEngine([tiny.tiny_recipe(base).weighed()])
        return
    if request.param == "timed":
        costs = TimedCosts.measured(scale=0.01)
        recipes = [tiny.tiny_recipe(base).weighed()]
        yield TimedEngine(recipes, costs=costs, batch_sizes=(1, 2, 4), slots=8, clock=steady_clock())
        return
    engine: Engine = request.getfixturevalue(request.param)
    yield engine
    for digest in (A, B):  # one is loaded once, for all tests
        engine.evict(digest)


def job(*adapters: str, **changes: Any) -> EngineJob:  # noqa: ANN401  # values of any field
    fields: dict[str, Any] = {
        "id": "j1",
        "brand": "acme",
        "recipe": "studio",
        "prompt": "a red apple",
        "negative_prompt": "",
        "adapters": tuple(WeightedAdapter(digest, 1.0) for digest in adapters),
        "images": (ImageTask(0, 7),),
        "width": 128,
        "height": 128,
        "steps": 2,
        "guidance": 0.0,
    }
    return EngineJob(**fields | changes)


def run(engine: Engine, job: EngineJob) -> list[Event]:
    engine.start(job)
    return rest(engine)


def rest(engine: Engine) -> list[Event]:
    """What it does until it rests."""
    events: list[Event] = []
    for _ in range(1000):
        more = engine.tick()
        if not more:
            return events
        events += more
    raise AssertionError("the engine never rests")


def picture(engine: Engine, job: EngineJob) -> bytes:
    (image,) = [event for event in run(engine, job) if isinstance(event, ImageReady)]
    return image.pixels.rgb


@pytest.fixture
def files(base: Path, tmp_path: Path) -> dict[str, Path]:
    made = {}
    for seed, digest in enumerate((A, B), start=1):
        (tmp_path / digest).mkdir()
        lora = tiny.random_lora(base, seed=seed, text_encoder=True)
        made[digest] = tiny.write_lora("kohya", lora, tmp_path / digest)
    return made


def placed(engine: Engine, files: dict[str, Path], *digests: str) -> list[HostAdapter]:
    adapters = [engine.read(files[digest], digest) for digest in digests]
    for adapter in adapters:
        engine.place(adapter)
    return adapters


def test_rests_while_nothing_runs(engine: Engine) -> None:
    assert list(engine.tick()) == []


def test_says_what_it_serves(engine: Engine) -> None:
    facts = engine.recipes[0]
    assert (facts.name, facts.steps, facts.sizes) == ("studio", (1, 2, 4, 8), ((128, 128),))
    assert engine.max_jobs >= 1
    assert engine.max_rows >= 1
    assert engine.name
    assert engine.device == "cpu"


def test_reports_binding_prompt_steps_stages_images_and_the_end_in_order(engine: Engine) -> None:
    events = run(engine, job(images=(ImageTask(0, 7), ImageTask(3, 10))))
    told = [event.stage if isinstance(event, StageDone) else type(event) for event in events]
    assert told[:2] == [Stage.BIND, Stage.PROMPT_ENCODE]
    assert told[-1] is JobDone
    assert sorted(map(str, told[2:-1])) == sorted(
        map(str, 2 * [StepDone, StepDone, Stage.DENOISE, Stage.VAE_DECODE, ImageReady])
    )
    for image, seed in ((0, 7), (3, 10)):  # one after the other or together
        own = [e for e in events if isinstance(e, StepDone | ImageReady) and e.image == image]
        assert [(e.step, e.steps) if isinstance(e, StepDone) else e.seed for e in own] == [(1, 2), (2, 2), seed]
    assert all(event.job == "j1" for event in events)


def test_stages_follow_each_other_and_what_is_charged_covers_them(engine: Engine) -> None:
    events = run(engine, job())
    stages = [event for event in events if isinstance(event, StageDone)]
    assert all(s.start_ns <= s.end_ns for s in stages)
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(stages))
    (denoise,) = [stage for stage in stages if stage.stage is Stage.DENOISE]
    assert (denoise.steps, denoise.batch) == (2, 1)
    steps = [event.seconds for event in events if isinstance(event, StepDone)]
    assert min(steps) > 0
    assert sum(steps) <= (denoise.end_ns - denoise.start_ns) / 1e9
    assert isinstance(events[-1], JobDone)
    assert events[-1].gpu_seconds >= (denoise.end_ns - denoise.start_ns) / 1e9


def test_pictures_have_the_size_asked_for(engine: Engine) -> None:
    (image,) = [event for event in run(engine, job()) if isinstance(event, ImageReady)]
    assert (image.pixels.width, image.pixels.height, len(image.pixels.rgb)) == (128, 128, 128 * 128 * 3)


def test_the_same_job_gives_the_same_picture_and_another_seed_another(engine: Engine) -> None:
    assert picture(engine, job()) == picture(engine, job())
    assert picture(engine, job()) != picture(engine, job(images=(ImageTask(0, 8),)))


def test_previews_come_as_often_as_asked_but_not_of_the_finished_image(engine: Engine) -> None:
    previews = [e for e in run(engine, job(steps=4, preview_every=2)) if isinstance(e, PreviewReady)]
    assert [(preview.image, preview.step) for preview in previews] == [(0, 2)]
    assert previews[0].pixels.width == 128


def test_previews_change_no_picture(engine: Engine) -> None:
    with_previews = [e for e in run(engine, job(steps=4, preview_every=1)) if isinstance(e, ImageReady)]
    assert with_previews[0].pixels.rgb == picture(engine, job(steps=4))


def test_stopped_job_does_nothing_more_and_the_next_one_is_painted(engine: Engine) -> None:
    expected = picture(engine, job())
    engine.start(job(steps=8))
    engine.tick()
    engine.tick()
    engine.stop("j1")
    assert list(engine.tick()) == []
    engine.stop("j1")
    assert picture(engine, job()) == expected


def test_job_that_lacks_no_picture_ends(engine: Engine) -> None:
    """As of a caller who holds them all, and lost the connection before the end was told."""
    events = run(engine, job(images=()))
    assert [event.stage for event in events if isinstance(event, StageDone)] == [Stage.BIND, Stage.PROMPT_ENCODE]
    assert isinstance(events[-1], JobDone)
    assert picture(engine, job())


def painted(events: list[Event]) -> list[int]:
    return [event.image for event in events if isinstance(event, ImageReady)]


def test_curtailed_job_finishes_what_has_begun_and_nothing_else(engine: Engine) -> None:
    expected = picture(engine, job(reproducible=True))
    engine.start(job(images=tuple(ImageTask(i, 7) for i in range(9)), steps=2, reproducible=True))
    events: list[Event] = []
    while not any(isinstance(event, StepDone) for event in events):
        events += engine.tick()
    assert engine.curtail("j1")
    begun = {event.image for event in events if isinstance(event, StepDone)}
    assert len(begun) < 9
    events += rest(engine)
    assert set(painted(events)) == begun
    assert isinstance(events[-1], JobDone)
    assert {e.pixels.rgb for e in events if isinstance(e, ImageReady)} == {expected}
    assert picture(engine, job(reproducible=True)) == expected, "and the next job is painted"


def test_curtailed_job_of_which_nothing_has_begun_waits_for_nothing(engine: Engine) -> None:
    assert not engine.curtail("j1"), "it was never here"
    engine.start(job())
    assert not engine.curtail("j1")
    engine.stop("j1")
    assert rest(engine) == []
    assert painted(run(engine, job())) == [0]
    assert not engine.curtail("j1"), "it has ended"


def test_curtailed_job_between_two_pictures_waits_for_nothing(engine: Engine) -> None:
    engine.start(job(images=tuple(ImageTask(i, i) for i in range(9)), steps=1))
    events: list[Event] = []
    while not painted(events):
        events += engine.tick()
    assert not engine.curtail("j1")
    engine.stop("j1")
    assert rest(engine) == []


def test_job_whose_adapter_is_not_placed_is_refused(engine: Engine, files: dict[str, Path]) -> None:
    with pytest.raises(AdapterNotPlaced):
        engine.start(job(A))
    placed(engine, files, A)
    engine.evict(A)
    with pytest.raises(AdapterNotPlaced):
        engine.start(job(A))


def test_host_form_takes_as_many_bytes_as_were_foretold(engine: Engine, files: dict[str, Path]) -> None:
    adapter = engine.read(files[A], A)
    assert adapter.digest == A
    assert 0 < adapter.size_bytes <= engine.host_size(files[A], A)
    assert adapter.kind in engine.places


def test_nothing_that_was_kept_of_an_adapter_outlives_it(
    engine: Engine, files: dict[str, Path], tmp_path: Path
) -> None:
    engine.keep(engine.read(files[A], A))
    if isinstance(engine, BankEngine):
        eventually(lambda: any((tmp_path / "compiled").glob("*.compiled")))
    files[A].unlink()
    engine.forget(A)

    def unknown() -> bool:
        try:
            engine.host_size(files[A], A)
        except FileNotFoundError:
            return True
        return False

    eventually(unknown)


def eventually(condition: Callable[[], bool]) -> None:
    """Waits, at most 30 seconds, until a condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("engine", ["bank", "two_banks"], indirect=True)
def test_neither_slots_nor_remembered_prompts_keep_an_adapter_s_host_memory(
    engine: Engine, files: dict[str, Path]
) -> None:
    (adapter,) = placed(engine, files, A)
    assert picture(engine, job(A)) != picture(engine, job()), "its prompt is remembered, and went through the adapter"
    form = adapter.payload
    while not isinstance(form, CompiledAdapter):
        form = form.adapter.payload  # type: ignore[attr-defined]  # of one family among several
    memory = weakref.ref(form.buffer)
    del adapter, form
    gc.collect()
    assert memory() is None


def test_each_adapter_weight_and_mix_paints_its_own_picture(engine: Engine, files: dict[str, Path]) -> None:
    placed(engine, files, A, B)
    half = job(adapters=(WeightedAdapter(A, 0.5),))
    pictures = [picture(engine, each) for each in (job(), job(A), job(B), job(A, B), half)]
    assert len(set(pictures)) == 5


@pytest.mark.parametrize("engine", ["two_banks"], indirect=True)
def test_each_recipe_paints_its_own_picture_with_the_same_adapter(engine: Engine, files: dict[str, Path]) -> None:
    placed(engine, files, A)
    plain, distilled = (picture(engine, job(A, recipe=facts.name)) for facts in engine.recipes)
    assert plain != distilled


def test_what_else_is_on_the_device_changes_no_picture(engine: Engine, files: dict[str, Path]) -> None:
    placed(engine, files, A)
    alone, bare = picture(engine, job(A)), picture(engine, job())
    (other,) = placed(engine, files, B)
    assert picture(engine, job(A)) == alone
    assert picture(engine, job()) == bare
    engine.place(other)
    engine.evict(B)
    engine.evict(B)
    assert picture(engine, job(A)) == alone
    assert picture(engine, job()) == bare


def test_adapters_that_come_and_go_between_steps_change_no_picture(engine: Engine, files: dict[str, Path]) -> None:
    placed(engine, files, A)
    alone = picture(engine, job(A, steps=4))
    engine.start(job(A, steps=4))
    engine.tick()
    engine.tick()
    placed(engine, files, B)
    engine.tick()
    engine.evict(B)
    (image,) = [event for event in rest(engine) if isinstance(event, ImageReady)]
    assert image.pixels.rgb == alone


def test_tells_what_the_text_encoder_would_not_see(engine: Engine) -> None:
    assert engine.dropped_words(engine.recipes[0].name, "a red apple") == ""
    beyond = engine.dropped_words(engine.recipes[0].name, "apple " * 60 + "zebra")
    assert beyond.endswith("zebra")
    assert beyond.count("apple") < 60

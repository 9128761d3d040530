"""The timed engine in time: a clock that only its waits move says how long everything took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.pretence import Pretence
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)
from services.gpu_worker.engine.timed import TimedEngine
from services.gpu_worker.engine.timed_costs import Curve, TimedCosts
from tests.unit.gpu_worker.worker_parts import engine_job, facts

FIGURES = Path(__file__).parents[4] / "docs" / "figures"
COSTS = TimedCosts(
    prompt=0.5,
    step=Curve(((1, 1.0), (4, 4.0), (8, 6.0))),
    decode=Curve(((1, 10.0), (4, 16.0))),
    place=Curve(((100, 1.0), (300, 2.0))),
    read=Curve(((100, 3.0), (300, 4.0))),
)


class Timer:
    """A clock that stands still but for waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def engine(timer: Timer) -> TimedEngine:
    return TimedEngine([facts()], costs=COSTS, batch_sizes=(1, 2, 4, 8), slots=6, clock=timer.clock, sleep=timer.sleep)


def images(count: int) -> tuple[ImageTask, ...]:
    return tuple(ImageTask(i, 7 + i) for i in range(count))


def rest(engine: TimedEngine) -> list[Event]:
    events: list[Event] = []
    while more := engine.tick():
        events += more
    return events


def charged(events: Iterable[Event]) -> dict[str, float]:
    return {event.job: event.gpu_seconds for event in events if isinstance(event, JobDone)}


def rows_by_brand(engine: TimedEngine, events: Iterable[Event]) -> dict[str, int]:
    names = [event.job for event in events if isinstance(event, StepDone)]
    return {name: names.count(name) for name in names}


def test_a_picture_alone_takes_its_prompt_its_steps_and_its_decoding(engine: TimedEngine, timer: Timer) -> None:
    engine.start(engine_job(steps=4))
    events = rest(engine)
    assert timer.now_s == pytest.approx(0.5 + 4 * 1.0 + 10.0)
    assert charged(events) == pytest.approx({"j1": 14.5})


def test_a_step_of_a_batch_is_one_wait_and_shared_by_rows(engine: TimedEngine, timer: Timer) -> None:
    for name, count in (("j1", 1), ("j2", 3)):
        engine.start(engine_job(name, steps=2, images=images(count)))
    events = rest(engine)
    assert timer.now_s == pytest.approx(2 * 0.5 + 2 * 4.0 + 16.0)
    assert charged(events) == pytest.approx({"j1": 0.5 + (8.0 + 16.0) / 4, "j2": 0.5 + (8.0 + 16.0) * 3 / 4})
    assert {event.batch_rows for event in events if isinstance(event, StepDone)} == {4}
    assert {event.batch for event in events if isinstance(event, StageDone) and event.stage is Stage.DENOISE} == {4}


def test_a_batch_is_padded_to_the_next_size_and_a_size_between_two_measured_ones_lies_on_a_line(
    timer: Timer, engine: TimedEngine
) -> None:
    engine.start(engine_job(steps=1, images=images(2)))
    engine.tick()
    assert timer.now_s == pytest.approx(0.5 + 2.0 + 12.0), "two rows lie between one and four"
    engine.start(engine_job(steps=1, images=images(3)))
    timer.now_s = 0.0
    engine.tick()
    assert timer.now_s == pytest.approx(0.5 + 4.0 + 14.0), "three rows are stepped as four, and three are decoded"


def test_a_guided_picture_is_two_rows_and_waits_until_both_are_free(engine: TimedEngine) -> None:
    engine.start(engine_job("plain", steps=2, images=images(7)))
    engine.tick()
    engine.start(engine_job("guided", steps=2, guidance=5.0))
    second = engine.tick()
    assert rows_by_brand(engine, second) == {"plain": 7}, "one row is free"
    events = engine.tick()
    assert [(e.job, e.batch_rows) for e in events if isinstance(e, StepDone)] == [("guided", 2)]


def test_brands_get_rows_in_equal_numbers_whoever_came_first(engine: TimedEngine) -> None:
    engine.start(engine_job("many", brand="big", steps=1, images=images(32)))
    engine.start(engine_job("few", brand="small", steps=1, images=images(8)))
    events = engine.tick()
    assert rows_by_brand(engine, events) == {"many": 4, "few": 4}


def test_pictures_join_a_batch_that_is_under_way_and_leave_it_when_they_are_done(engine: TimedEngine) -> None:
    engine.start(engine_job("long", steps=4))
    engine.tick()
    engine.start(engine_job("short", steps=1))
    batches = []
    while events := engine.tick():
        batches.append({e.job: e.batch_rows for e in events if isinstance(e, StepDone)})
    assert batches == [{"long": 2, "short": 2}, {"long": 1}, {"long": 1}]


def test_sizes_take_turns(engine: TimedEngine) -> None:
    for side in (16, 32):
        engine.start(engine_job(f"j{side}", steps=2, width=side, height=side))
    steps = [event.job for event in rest(engine) if isinstance(event, StepDone)]
    assert steps == ["j16", "j32", "j16", "j32"]


def test_a_reproducible_picture_is_stepped_in_the_largest_batch_and_decoded_alone(
    engine: TimedEngine, timer: Timer
) -> None:
    engine.start(engine_job("pinned", steps=1, reproducible=True))
    engine.start(engine_job("beside", steps=1))
    engine.tick()
    assert timer.now_s == pytest.approx(2 * 0.5 + 6.0 + 2 * 10.0)


def test_a_job_that_is_stopped_in_mid_batch_leaves_its_rows_to_others(engine: TimedEngine) -> None:
    engine.start(engine_job("gone", steps=4, images=images(8)))
    engine.start(engine_job("stays", brand="other", steps=4, images=images(8)))
    engine.tick()
    engine.stop("gone")
    events = engine.tick()
    assert rows_by_brand(engine, events) == {"stays": 8}
    assert charged(rest(engine)).keys() == {"stays"}


def test_previews_take_the_time_of_decoding_one(engine: TimedEngine, timer: Timer) -> None:
    engine.start(engine_job(steps=2, preview_every=1))
    events = engine.tick()
    assert [event.step for event in events if isinstance(event, PreviewReady)] == [1]
    assert timer.now_s == pytest.approx(0.5 + 1.0 + 10.0)


def test_adapters_take_time_by_their_size_and_only_when_they_are_not_there(
    engine: TimedEngine, timer: Timer, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"." * 200)
    adapter = engine.read(file, "a" * 64)
    assert timer.now_s == pytest.approx(3.5)
    engine.place(adapter)
    engine.place(adapter)
    assert timer.now_s == pytest.approx(3.5 + 1.5)


def test_paints_what_the_fake_engine_paints(engine: TimedEngine) -> None:
    def painted(one: TimedEngine | FakeEngine, job: EngineJob) -> list[bytes]:
        one.start(job)
        return [e.pixels.rgb for e in iter_events(one) if isinstance(e, ImageReady)]

    assert painted(engine, engine_job()) == painted(FakeEngine([facts()]), engine_job())
    assert isinstance(engine, Pretence)


def iter_events(engine: TimedEngine | FakeEngine) -> Iterable[Event]:
    while more := engine.tick():
        yield from more


def test_a_curve_goes_on_beyond_its_last_point_and_stops_at_its_first() -> None:
    curve = Curve(((10, 1.0), (20, 2.0), (40, 3.0)))
    assert [curve.at(x) for x in (0, 10, 15, 20, 30, 60)] == pytest.approx([1.0, 1.0, 1.5, 2.0, 2.5, 4.0])


def test_the_table_holds_what_the_benchmark_has_measured() -> None:
    figures = json.loads((FIGURES / "steps-cpu.json").read_text())
    costs = TimedCosts.measured()
    for rows in (1, 2, 4, 8):
        assert costs.step.at(rows) == pytest.approx(figures[f"step_{rows}_ms"] / 1e3, rel=1e-3)
        assert costs.decode.at(rows) == pytest.approx(figures[f"decode_{rows}_ms"] / 1e3, rel=1e-3)
    assert costs.prompt == pytest.approx(figures["prompt_ms"] / 1e3, rel=1e-2)
    whole = json.loads((FIGURES / "engine-cpu.json").read_text())
    size = whole["swap_bytes"]
    assert costs.place.at(size) == pytest.approx(whole["swap_ms"] / 1e3, rel=1e-3)
    assert costs.place.at(size) + costs.read.at(size) == pytest.approx(whole["cold_file_ms"] / 1e3, rel=1e-3)


def test_four_pictures_take_as_long_as_the_bank_took_for_them(timer: Timer) -> None:
    """The parts were measured one by one; together they must make the whole, which another benchmark measured."""
    engine = TimedEngine(
        [facts()], costs=TimedCosts.measured(), batch_sizes=(1, 2, 4), slots=6, clock=timer.clock, sleep=timer.sleep
    )
    for brand in "abcd":
        engine.start(engine_job(brand, brand=brand, steps=4))
    rest(engine)
    measured = json.loads((FIGURES / "engine-cpu.json").read_text())["batch_mixed_ms"] / 1e3
    assert timer.now_s == pytest.approx(measured, rel=0.05)


def test_all_costs_are_scaled_alike() -> None:
    once, twice = TimedCosts.measured(), TimedCosts.measured(2.0)
    assert twice.prompt == pytest.approx(2 * once.prompt)
    for name in ("step", "decode", "place", "read"):
        assert getattr(twice, name).at(8) == pytest.approx(2 * getattr(once, name).at(8))

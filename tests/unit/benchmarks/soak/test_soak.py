from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fuzzing.adapter_files import STUDIO, small_file
from benchmarks.soak.chart import memory
from benchmarks.soak.ledger import Rest
from benchmarks.soak.load import noted
from benchmarks.soak.verdict import BARS, KEPT, figures
from looksmith.lora import Inspector

REST = Rest(memory=100 << 20, descriptors=20, threads=8, tasks=30, spans=0, uploads=0, leases=0)


def judged(after: Rest) -> dict[str, float]:
    """Of two processes, one of which stays as it is."""
    return figures([{"router": REST, "worker": REST}, {"router": REST, "worker": after}], [0, 0])


def falls_short(told: dict[str, float]) -> set[str]:
    return {name for name, (_, bar) in BARS.items() if name in told and told[name] > bar}


def test_processes_that_stay_as_they_are_hold_every_bar() -> None:
    assert falls_short(judged(REST)) == set()
    assert falls_short(judged(replace(REST, memory=REST.memory + (16 << 20), descriptors=19))) == set()


@pytest.mark.parametrize("kept", KEPT)
def test_whatever_one_process_keeps_falls_short_by_its_name(kept: str) -> None:
    assert falls_short(judged(replace(REST, **{kept: getattr(REST, kept) + 1}))) == {f"{kept}_more"}


def test_memory_of_one_process_falls_short_though_another_gave_some_back() -> None:
    grown, less = replace(REST, memory=REST.memory + (17 << 20)), replace(REST, memory=0)
    told = figures([{"router": REST, "worker": REST}, {"router": less, "worker": grown}], [0, 0])
    assert falls_short(told) == {"memory_mib"}
    assert told["worker_memory_mib"] == 17


def test_uploads_that_stay_in_the_store_fall_short() -> None:
    assert falls_short(figures([{"worker": REST}] * 2, [0, 1])) == {"store_uploads_more"}


def test_a_note_makes_another_file_of_the_same_adapter() -> None:
    def inspected(file: bytes) -> tuple[str, object]:
        inspector = Inspector(len(file), STUDIO)
        inspector.feed(file)
        found = inspector.finish()
        return found.sha256, (found.dialect, found.modules)

    file = small_file({})
    (one, adapter), (other, same) = inspected(noted(file, "1")), inspected(noted(file, "2"))
    assert one != other
    assert adapter == same


def test_a_soak_is_drawn_with_a_line_for_each_process() -> None:
    figure = memory({"requests": 8, "memory": {"router": [(0, 1 << 20), (8, 2 << 20)], "store": [(0, 0), (8, 9)]}})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.get_lines()][:2] == ["router", "store"]
    assert np.asarray(axes.get_lines()[0].get_ydata()).tolist() == [1.0, 2.0]

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from benchmarks.fuzzing import trial
from benchmarks.fuzzing.target import Target
from benchmarks.fuzzing.trial import Finding, Trials


def tried(parse: Callable[[bytes], object], data: bytes = b"x") -> Finding | None:
    return Trials(Target("a/parser", parse, (ValueError,))).run(data)


def reads(data: bytes) -> bytes:
    return data


def refuses(data: bytes) -> object:
    raise ValueError(data)


def breaks(data: bytes) -> object:
    return data[1]


def nests(data: bytes) -> object:
    return nests(data)


def works(seconds: float) -> Callable[[bytes], object]:
    def work(_: bytes) -> None:
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass

    return work


def grows(data: bytes) -> int:
    return len(b"-" * (80 << 20))


@pytest.mark.parametrize("parse", [reads, refuses])
def test_a_result_and_a_refusal_are_no_findings(parse: Callable[[bytes], object]) -> None:
    assert tried(parse) is None


@pytest.mark.parametrize(
    ("parse", "what"),
    [(breaks, "IndexError"), (nests, "RecursionError"), (works(0.25), "it is slow"), (grows, "it takes much memory")],
)
def test_whatever_else_an_input_does_is_one(parse: Callable[[bytes], object], what: str) -> None:
    found = tried(parse)
    assert found is not None
    assert found.what.startswith(what)
    assert (found.data, found.given_up) == (b"x", False)


def test_an_input_that_would_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "GIVEN_UP_S", 0.1)
    found = tried(works(60))
    assert found is not None
    assert (found.what.partition(" at ")[0], found.given_up) == ("it does not end", True)


def test_findings_of_one_cause_have_one_id_whatever_their_input() -> None:
    one, other = tried(breaks, b"x"), tried(breaks, b"y")
    assert one and other and one.id == other.id
    slow = tried(nests)
    assert slow and slow.id != one.id

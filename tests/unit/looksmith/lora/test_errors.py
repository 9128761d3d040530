"""A refusal says what, why and what to do, in safe words."""

import pickle

import pytest

from looksmith.lora.errors import Code, LoraError, Problem, refusal, shown


def test_each_code_has_its_own_reason_and_remedy() -> None:
    for texts in ([code.why for code in Code], [code.fix for code in Code]):
        assert all(text.endswith(".") and len(text) > 20 for text in texts)
    assert len({(code.why, code.fix) for code in Code}) == len(Code.__members__)


def test_message_says_what_why_and_what_to_do() -> None:
    error = refusal(Code.E_NONFINITE, "tensor a.b holds NaN", "a.b")
    assert str(error).startswith("E_NONFINITE: tensor a.b holds NaN")
    assert Code.E_NONFINITE.why in str(error)
    assert Code.E_NONFINITE.fix in str(error)


def test_several_problems_are_reported_and_the_first_gives_the_code() -> None:
    error = LoraError(Problem(Code.E_SHAPE, "one"), Problem(Code.E_MODULE, "two"))
    assert error.code is Code.E_SHAPE
    assert "E_SHAPE: one" in str(error)
    assert "E_MODULE: two" in str(error)


def test_error_survives_the_way_back_from_a_helper_process() -> None:
    error = refusal(Code.E_PAIR, "alone", "a.b")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert copy.problems == error.problems


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "é" * 50, "\ud800", "x" * 100_000])
def test_hostile_text_is_shown_short_and_plain(hostile: str) -> None:
    text = shown(hostile)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 120

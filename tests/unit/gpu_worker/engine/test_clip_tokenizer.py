"""The token ids were compared with those of OpenAI's own tokenizer, as open-clip-torch carries it."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from services.gpu_worker.engine.clip_tokenizer import PADS, clip_tokenizer

START, END = 49406, 49407


@pytest.fixture(scope="module")
def first() -> CLIPTokenizer:
    return clip_tokenizer(pad_token=PADS["tokenizer"])


@pytest.fixture(scope="module")
def second() -> CLIPTokenizer:
    return clip_tokenizer(pad_token=PADS["tokenizer_2"])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        (" A  Photo\nof\ta CAT ", [320, 1125, 539, 320, 2368]),
        ("it's we'll you'd", [585, 568, 649, 1342, 592, 1896]),
        ("2024", [273, 271, 273, 275]),
        ("café", [15304]),
        ("cafe\N{COMBINING ACUTE ACCENT}", [15304]),
        ("☕ 東京", [26561, 48338, 21078, 361]),
    ],
)
def test_words_have_the_ids_that_clip_was_trained_with(first: CLIPTokenizer, text: str, ids: list[int]) -> None:
    assert first(text).input_ids == [START, *ids, END]


def test_the_vocabulary_is_clips(first: CLIPTokenizer) -> None:
    assert (len(first), first.bos_token_id, first.eos_token_id) == (49408, START, END)


def test_each_tokenizer_fills_up_a_prompt_in_its_own_way(first: CLIPTokenizer, second: CLIPTokenizer) -> None:
    def filled(tokenizer: CLIPTokenizer) -> list[int]:
        ids: list[int] = tokenizer("cat", padding="max_length").input_ids
        return ids

    assert filled(first) == [START, 2368, *[END] * 75]
    assert filled(second) == [START, 2368, END, *[0] * 74]


def test_a_long_prompt_is_cut_at_77_tokens_and_still_ends(first: CLIPTokenizer) -> None:
    ids = first("cat " * 100, truncation=True).input_ids
    assert ids == [START, *[2368] * 75, END]


def test_an_exclamation_mark_is_a_sign_to_the_first_and_padding_to_the_second_as_in_sdxls_own_folder(
    first: CLIPTokenizer, second: CLIPTokenizer
) -> None:
    assert first("cat!").input_ids == [START, 2368, 256, END]
    assert second("cat!").input_ids == [START, 2368, 0, END]

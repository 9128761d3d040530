"""Of what a file says about itself a few known things are kept, and only where they can be meant."""

import json

import pytest

from looksmith.lora.lineage import read_lineage
from looksmith.lora.validate import Inspector
from looksmith.nouns import Lineage
from tests.unit.looksmith.lora.lora_files import TO_Q, diffusers, safetensors, tiny_table

TABLE = tiny_table()
OF_SD_SCRIPTS = {
    "ss_base_model_version": "sd_v2_v",
    "ss_clip_skip": "2",
    "ss_dataset_dirs": '{"/home/ann/secret client": {"n_repeats": 10}}',
    "ss_network_dim": "16",
    "ss_sd_model_name": "v2-1_768-nonema-pruned.safetensors",
    "ss_tag_frequency": '{"/home/ann/secret client": {"1girl": 12}}',
    "modelspec.thumbnail": "data:image/png;base64,AAAA",
    "modelspec.trigger_phrase": "acme style, flat ink ,acme style,",
}


def test_the_known_keys_are_read_and_nothing_else() -> None:
    lineage = read_lineage(OF_SD_SCRIPTS)
    assert lineage == Lineage(("acme style", "flat ink"), 1, "v_prediction", "v2-1_768-nonema-pruned.safetensors")
    assert "ann" not in repr(lineage)


def test_an_inspection_tells_what_the_file_says() -> None:
    file = safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}), OF_SD_SCRIPTS)
    inspector = Inspector(len(file), TABLE)
    inspector.feed(file)
    assert inspector.finish().lineage == read_lineage(OF_SD_SCRIPTS)


def test_a_file_that_says_nothing_has_no_lineage() -> None:
    assert read_lineage({}) == read_lineage({"format": "pt", "ss_network_dim": "4"}) == Lineage()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0.safetensors"),
        ("/home/ann/models/base.ckpt", "base.ckpt"),
        (r"C:\Users\ann\base.safetensors", "base.safetensors"),
        ("/home/ann/a base/", "a base"),
        ("stabilityai/stable-diffusion-2-1", "stable-diffusion-2-1"),
        ("https://example.com/ann/base.safetensors?token=abc", "base.safetensors"),
        ("雪.safetensors", "雪.safetensors"),
        ("x" * 256, "x" * 256),
        ("x" * 257, ""),
        ("/", ""),
        ("base\x1b[31m", ""),
        ("base\nof two lines", ""),
        ("right\u202eto left", ""),
    ],
)
def test_of_a_path_the_name_is_kept(said: str, name: str) -> None:
    assert read_lineage({"ss_sd_model_name": said}).trained_from == name


NO_LAYERS = ("0", "14", "None", "", "-2", "2.0", "1e1", "٢", "9" * 5000)


@pytest.mark.parametrize(
    ("said", "layers"), [("1", 0), ("2", 1), ("13", 12), *((said, 0) for said in NO_LAYERS)]
)  # fmt: skip
def test_clip_skip_is_counted_as_diffusers_does(said: str, layers: int) -> None:
    assert read_lineage({"ss_clip_skip": said}).clip_skip == layers


@pytest.mark.parametrize(
    ("metadata", "prediction"),
    [
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"ss_v_parameterization": "True"}, "v_prediction"),
        ({"ss_v_parameterization": "False"}, "epsilon"),
        ({"ss_base_model_version": "sd_v1"}, "epsilon"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, ""),
        ({"modelspec.prediction_type": "velocity", "ss_base_model_version": "sd_v2_v"}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon", "ss_base_model_version": "sd_v2_v"}, "epsilon"),
        ({"modelspec.prediction_type": "v\x00"}, ""),
    ],
)
def test_the_most_explicit_word_on_prediction_counts(metadata: dict[str, str], prediction: str) -> None:
    assert read_lineage(metadata).prediction_type == prediction


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("one", ("one",)),
        (" , ,,", ()),
        (f"{'x' * 129}, kept", ("kept",)),
        ("bell\x07, kept", ("kept",)),
        (", ".join(map(str, range(40))), tuple(map(str, range(32)))),
        ("a," * 500_000, ()),
    ],
)
def test_trigger_words_are_bounded_in_length_and_number(phrase: str, words: tuple[str, ...]) -> None:
    assert read_lineage({"modelspec.trigger_phrase": phrase}).trigger_words == words


def test_whatever_a_megabyte_of_metadata_says_little_is_kept() -> None:
    huge = {key: json.dumps({"1girl": 12}) * 8000 for key in OF_SD_SCRIPTS}
    file = safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}), huge)
    inspector = Inspector(len(file), TABLE)
    inspector.feed(file)
    assert inspector.finish().lineage == Lineage()

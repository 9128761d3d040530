"""What a LoraConfig means, and what it must not ask for."""

import json
import math

import pytest

from looksmith.lora.errors import Code, LoraError
from looksmith.lora.peft_config import peft_config

PLAIN: dict[str, object] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def refused(**changes: object) -> Code:
    with pytest.raises(LoraError) as caught:
        peft_config(PLAIN | changes, "adapter_config.json")
    return caught.value.code


def test_rank_and_alpha_hold_for_every_module() -> None:
    config = peft_config(PLAIN, "here")
    assert config.rank_of("a.to_q") == 4
    assert config.alpha_of("a.to_q", 4) == 8


def test_rslora_records_the_alpha_that_gives_its_scale() -> None:
    config = peft_config(PLAIN | {"use_rslora": True}, "here")
    assert config.alpha_of("a.to_q", 16) / 16 == pytest.approx(8 / math.sqrt(16))


@pytest.mark.parametrize(
    ("pattern", "path", "alpha"),
    [
        ({"to_q": 1}, "attn1.to_q", 1),
        ({"to_q": 1}, "to_q", 1),
        ({"to_q": 1}, "attn1.not_to_q", 8),
        ({"to_q": 1}, "to_q.0", 8),
        ({"^to_q": 1}, "attn1.to_q", 8),
        ({"^attn1.to_q": 1}, "attn1.to_q", 1),
        ({r"attn1\.to_q$": 1}, "a.attn1.to_q", 1),
        ({"attn1.to_q": 1, "to_q": 2}, "attn1.to_q", 1),
        ({"to_q": 2, "attn1.to_q": 1}, "attn1.to_q", 2),
        ({"to_q": 2, "attn1.to_q": 1}, "attn2.to_q", 2),
    ],
)
def test_patterns_match_as_in_peft(pattern: dict[str, float], path: str, alpha: float) -> None:
    config = peft_config(PLAIN | {"alpha_pattern": pattern, "rank_pattern": pattern}, "here")
    assert config.alpha_of(path, 4) == alpha
    assert config.rank_of(path) == (4 if alpha == 8 else alpha)


def test_patterns_keep_their_order_in_json() -> None:
    config = peft_config(PLAIN | {"alpha_pattern": {"to_q": 2, "attn1.to_q": 1}}, "here")
    copy = peft_config(json.loads(config.to_json()), "there")
    assert copy == config
    assert copy.alpha_of("attn1.to_q", 4) == 2


def test_settings_of_training_are_ignored() -> None:
    peft_config(
        PLAIN
        | {
            "target_modules": ["to_q"],
            "lora_dropout": 0.1,
            "base_model_name_or_path": "x",
            "loftq_config": {"a": 1},
            "bias": "none",
            "use_dora": False,
            "megatron_config": None,
            "init_lora_weights": "gaussian",
            "something_new": False,
        },
        "here",
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"peft_type": "LOHA"}, Code.E_UNSUPPORTED),
        ({"use_dora": True}, Code.E_UNSUPPORTED),
        ({"lora_bias": True}, Code.E_UNSUPPORTED),
        ({"bias": "all"}, Code.E_UNSUPPORTED),
        ({"modules_to_save": ["conv_out"]}, Code.E_UNSUPPORTED),
        ({"layer_replication": [[0, 4]]}, Code.E_UNSUPPORTED),
        ({"init_lora_weights": "pissa_niter_4"}, Code.E_UNSUPPORTED),
        ({"something_new": True}, Code.E_UNSUPPORTED),
        ({"alpha_pattern": {"(a+)+": 1}}, Code.E_UNSUPPORTED),
        ({"rank_pattern": {".*to_q": 1}}, Code.E_UNSUPPORTED),
        ({"rank_pattern": [1]}, Code.E_FORMAT),
        ({"use_rslora": "yes"}, Code.E_FORMAT),
        ({"lora_alpha": None}, Code.E_ALPHA_MISSING),
        ({"lora_alpha": True}, Code.E_ALPHA),
        ({"lora_alpha": "8"}, Code.E_ALPHA),
        ({"lora_alpha": 0}, Code.E_ALPHA),
        ({"lora_alpha": -1}, Code.E_ALPHA),
        ({"lora_alpha": 1e999}, Code.E_ALPHA),
        ({"lora_alpha": 10**400}, Code.E_ALPHA),
        ({"alpha_pattern": {"to_q": 0}}, Code.E_ALPHA),
        ({"r": None}, Code.E_RANK),
        ({"r": True}, Code.E_RANK),
        ({"r": 0}, Code.E_RANK),
        ({"rank_pattern": {"to_q": 2.0}}, Code.E_RANK),
    ],
)
def test_refuses_what_would_change_the_meaning_of_the_weights(changes: dict[str, object], code: Code) -> None:
    assert refused(**changes) is code


def test_refuses_a_config_that_is_no_object() -> None:
    with pytest.raises(LoraError) as caught:
        peft_config([], "here")
    assert caught.value.code is Code.E_FORMAT


def test_thousands_of_patterns_take_no_time() -> None:
    pattern = {f"^blocks.{i}.to_q": i + 1 for i in range(10_000)}
    config = peft_config(PLAIN | {"alpha_pattern": pattern}, "here")
    assert [config.alpha_of(f"blocks.{i}.to_q", 4) for i in range(10_000)] == list(range(1, 10_001))

"""Names are read in every dialect, and other methods are refused by name."""

import pytest

from looksmith.lora.dialects import DIFFUSERS_CONFIG_KEY, PEFT_CONFIG_KEY, Dialect, Key, parse_key, recognise
from looksmith.lora.errors import Code, LoraError
from looksmith.lora.header import Header, parse_header
from tests.unit.looksmith.lora.lora_files import safetensors, tensor

A = "a.attn1"


def header_of(*names: str, metadata: dict[str, str] | None = None) -> Header:
    file = safetensors({name: tensor([[1.0]]) for name in names}, metadata or {})
    return parse_header(file[8 : 8 + int.from_bytes(file[:8], "little")], len(file))


def refused(*names: str, metadata: dict[str, str] | None = None) -> LoraError:
    with pytest.raises(LoraError) as caught:
        recognise(header_of(*names, metadata=metadata))
    return caught.value


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"base_model.model.{A}.to_q.lora_A.weight", Key(Dialect.PEFT, None, f"{A}.to_q", "down")),
        (f"unet.{A}.to_q.lora_B.weight", Key(Dialect.DIFFUSERS, "unet", f"{A}.to_q", "up")),
        ("text_encoder_2.x.fc1.lora_A.weight", Key(Dialect.DIFFUSERS, "text_encoder_2", "x.fc1", "down")),
        (f"unet.{A}.processor.to_q_lora.down.weight", Key(Dialect.DIFFUSERS_OLD, "unet", f"{A}.to_q", "down")),
        (f"unet.{A}.processor.to_out_lora.up.weight", Key(Dialect.DIFFUSERS_OLD, "unet", f"{A}.to_out.0", "up")),
        (f"unet.{A}.processor.to_k.lora.up.weight", Key(Dialect.DIFFUSERS_OLD, "unet", f"{A}.to_k", "up")),
        (f"unet.{A}.to_out.0.lora.down.weight", Key(Dialect.DIFFUSERS_OLD, "unet", f"{A}.to_out.0", "down")),
        (
            "text_encoder.x.self_attn.q_proj.lora_linear_layer.up.weight",
            Key(Dialect.DIFFUSERS_OLD, "text_encoder", "x.self_attn.q_proj", "up"),
        ),
        (
            "text_encoder.x.self_attn.to_out_lora.down.weight",
            Key(Dialect.DIFFUSERS_OLD, "text_encoder", "x.self_attn.out_proj", "down"),
        ),
        ("lora_unet_a_attn1_to_q.lora_down.weight", Key(Dialect.KOHYA, "unet", "a_attn1_to_q", "down")),
        ("lora_te_x_fc1.lora_up.weight", Key(Dialect.KOHYA, "text_encoder", "x_fc1", "up")),
        ("lora_te1_x_fc1.alpha", Key(Dialect.KOHYA, "text_encoder", "x_fc1", "alpha")),
        ("lora_te2_x_fc1.alpha", Key(Dialect.KOHYA, "text_encoder_2", "x_fc1", "alpha")),
        (f"{A}.to_q.lora_A.weight", None),
        (f"unet.{A}.to_q.lora_A.default.weight", None),
        ("lora_te4_x.alpha", None),
        ("lora_unet_a.b.alpha", None),
        ("conv_in.weight", None),
    ],
)
def test_reads_a_key(name: str, key: Key | None) -> None:
    assert parse_key(name) == key


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("lora_unet_a.hada_w1_a", "LoHa"),
        ("lora_unet_a.lokr_w1", "LoKr"),
        ("unet.a.lokr_w2_a", "LoKr"),
        ("lora_unet_a.dora_scale", "DoRA"),
        ("unet.a.lora_magnitude_vector", "DoRA"),
        ("lora_unet_a.lora_mid.weight", "Tucker"),
        ("lora_unet_a.diff", "full differences"),
        ("lora_unet_a.diff_b", "full differences"),
        ("lora_unet_a.oft_blocks", "OFT"),
        ("lora_unet_a.on_input", "IA3"),
        ("unet.a.lora_B.bias", "biases"),
        ("lora_unet_a.lora_up.bias", "biases"),
        ("base_model.model.a.lora_embedding_A", "embedding"),
        ("base_model.model.a.modules_to_save.weight", "in full"),
        ("emb_params", "textual inversion"),
        ("clip_l", "textual inversion"),
        ("lora_controlnet", "Control-LoRA"),
    ],
)
def test_names_the_method_that_is_not_supported(name: str, method: str) -> None:
    error = refused("unet.a.lora_A.weight", "unet.a.lora_B.weight", name)
    assert error.code is Code.E_UNSUPPORTED
    assert method in str(error)
    assert name in str(error)


@pytest.mark.parametrize(
    "name",
    ["transformer.a.lora_A.weight", "lora_unet_double_blocks_0_img_attn_proj.alpha", "diffusion_model.a.lora_A.weight"],
)
def test_recognises_a_lora_for_a_transformer(name: str) -> None:
    assert refused(name).code is Code.E_BASE


def test_refuses_an_unknown_tensor() -> None:
    error = refused("unet.a.lora_A.weight", "unet.a.lora_B.weight", "unet.a.weight")
    assert error.code is Code.E_FORMAT
    assert "unet.a.weight" in str(error)


def test_refuses_mixed_dialects() -> None:
    error = refused("unet.a.lora_A.weight", "lora_unet_a.lora_up.weight")
    assert error.code is Code.E_FORMAT
    assert "diffusers, kohya" in str(error)


def test_old_and_new_diffusers_names_may_meet() -> None:
    reading = recognise(
        header_of("unet.a.lora_A.weight", "unet.a.lora_B.weight", "unet.b.lora.up.weight", "unet.b.lora.down.weight")
    )
    assert reading.dialect is Dialect.DIFFUSERS_OLD
    assert [(pair.module, pair.up.name) for pair in reading.pairs] == [
        ("a", "unet.a.lora_B.weight"),
        ("b", "unet.b.lora.up.weight"),
    ]


@pytest.mark.parametrize("half", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_a_half_alone_is_a_problem(half: str) -> None:
    reading = recognise(header_of(f"lora_unet_a.{half}"))
    assert not reading.pairs
    assert [problem.code for problem in reading.problems] == [Code.E_PAIR]


def test_the_same_half_twice_is_a_problem() -> None:
    reading = recognise(
        header_of("unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight", "unet.a.processor.to_q_lora.up.weight")
    )
    assert [problem.code for problem in reading.problems] == [Code.E_PAIR]


def test_peft_weights_without_their_config_are_refused() -> None:
    assert refused("base_model.model.a.lora_A.weight").code is Code.E_ALPHA_MISSING


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("unet.a.lora_A.weight", PEFT_CONFIG_KEY),
        ("lora_unet_a.alpha", PEFT_CONFIG_KEY),
        ("lora_unet_a.alpha", DIFFUSERS_CONFIG_KEY),
    ],
)
def test_a_second_place_for_alpha_is_refused(name: str, key: str) -> None:
    assert refused(name, metadata={key: "{}"}).code is Code.E_FORMAT

"""Every dialect comes out as the same modules, and what does not fit the base is refused."""

import json
import math

import pytest

from looksmith.lora.canonical import LoraModule, Plan, canonicalise
from looksmith.lora.dialects import PEFT_CONFIG_KEY, Dialect
from looksmith.lora.errors import Code, LoraError
from looksmith.lora.header import parse_header
from looksmith.lora.limits import Limits
from looksmith.lora.tables import ModuleTable
from tests.unit.looksmith.lora.lora_files import (
    CONV,
    Q_PROJ,
    TO_K,
    TO_OUT,
    TO_Q,
    Tensor,
    diffusers,
    kohya,
    peft,
    safetensors,
    tensor,
    tiny_table,
)

TABLE = tiny_table()
SDXL_LIKE = tiny_table(second_encoder=True)


def plan(
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    table: ModuleTable = TABLE,
    limits: Limits | None = None,
) -> Plan:
    file = safetensors(tensors, metadata or {})
    header = parse_header(file[8 : 8 + int.from_bytes(file[:8], "little")], len(file))
    return canonicalise(header, table, limits or Limits())


def refused(
    tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, table: ModuleTable = TABLE
) -> LoraError:
    with pytest.raises(LoraError) as caught:
        plan(tensors, metadata, table)
    return caught.value


def config(**fields: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(fields)}


def peft_config(**fields: object) -> dict[str, str]:
    return {PEFT_CONFIG_KEY: json.dumps({"r": 2, "lora_alpha": 2} | fields)}


def alphas(plan: Plan, scalars: dict[str, float] | None = None) -> dict[str, float]:
    return {module.name: module.alpha for module in plan.settle(scalars or {}, Limits())}


def test_a_linear_module_is_described_in_full() -> None:
    made = plan(diffusers(TABLE, {f"unet.{TO_K}": 4}), config(**{"unet.r": 4, "unet.lora_alpha": 2}))
    assert made.dialect is Dialect.DIFFUSERS
    assert made.modules == (
        LoraModule(
            component="unet",
            path=TO_K,
            kind="linear",
            rank=4,
            alpha=2.0,
            in_features=12,
            out_features=8,
            kernel=(1, 1),
            down=f"unet.{TO_K}.lora_A.weight",
            up=f"unet.{TO_K}.lora_B.weight",
        ),
    )
    assert made.modules[0].scale == 0.5
    assert made.modules[0].parameters == 4 * (12 + 8)


def test_a_convolution_is_described_in_full() -> None:
    (module,) = plan(diffusers(TABLE, {f"unet.{CONV}": 4})).modules
    assert (module.kind, module.kernel, module.in_features, module.out_features) == ("conv", (3, 3), 8, 8)
    assert module.parameters == 4 * (8 * 9 + 8)


def test_modules_come_sorted_whatever_the_file_s_order() -> None:
    names = [f"text_encoder.{Q_PROJ}", f"unet.{TO_Q}", f"unet.{CONV}"]
    made = plan(diffusers(TABLE, dict.fromkeys(names, 2)))
    assert [module.name for module in made.modules] == [f"unet.{CONV}", f"unet.{TO_Q}", f"text_encoder.{Q_PROJ}"]


def test_diffusers_without_a_config_has_alpha_at_each_module_s_rank() -> None:
    ranks = {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 4, f"text_encoder.{Q_PROJ}": 3}
    made = plan(diffusers(TABLE, ranks))
    assert {module.name: module.rank for module in made.modules} == ranks
    assert {module.scale for module in made.modules} == {1.0}


def test_diffusers_config_gives_ranks_and_alphas_by_component_and_module() -> None:
    made = plan(
        diffusers(TABLE, {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 4, f"unet.{TO_OUT}": 2, f"text_encoder.{Q_PROJ}": 3}),
        config(
            **{
                "unet.r": 2,
                "unet.lora_alpha": 1,
                "unet.rank_pattern": {"attn2.to_k": 4},
                "unet.alpha_pattern": {f"^{TO_OUT}": 5},
                "text_encoder.r": 3,
                "text_encoder.lora_alpha": 6,
                "text_encoder.use_rslora": True,
            }
        ),
    )
    assert alphas(made) == {
        f"unet.{TO_Q}": 1,
        f"unet.{TO_K}": 1,
        f"unet.{TO_OUT}": 5,
        f"text_encoder.{Q_PROJ}": pytest.approx(6 * math.sqrt(3)),
    }


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        (config(**{"unet.r": 2}), Code.E_ALPHA_MISSING),
        (config(**{"text_encoder.r": 2, "text_encoder.lora_alpha": 2}), Code.E_ALPHA_MISSING),
        (config(), Code.E_ALPHA_MISSING),
        (config(**{"unet.r": 4, "unet.lora_alpha": 2}), Code.E_RANK),
        (config(**{"unet.r": 2, "unet.lora_alpha": 2, "unet.use_dora": True}), Code.E_UNSUPPORTED),
        (config(**{"unet.r": 2, "unet.lora_alpha": 2, "transformer.r": 2}), Code.E_FORMAT),
        ({"lora_adapter_metadata": "[]"}, Code.E_FORMAT),
        ({"lora_adapter_metadata": "{"}, Code.E_JSON),
        ({"lora_adapter_metadata": '{"unet.r": 2, "unet.r": 4, "unet.lora_alpha": 4}'}, Code.E_JSON),
    ],
)
def test_refuses_a_diffusers_config_that_does_not_fit(metadata: dict[str, str], code: Code) -> None:
    assert refused(diffusers(TABLE, {f"unet.{TO_Q}": 2}), metadata).code is code


def test_old_diffusers_names_reach_their_modules() -> None:
    stem = TO_Q.removesuffix(".to_q")
    names = {
        f"unet.{TO_Q}": f"unet.{stem}.processor.to_q_lora",
        f"unet.{TO_OUT}": f"unet.{stem}.processor.to_out_lora",
        f"text_encoder.{Q_PROJ}": f"text_encoder.{Q_PROJ}.lora_linear_layer",
    }
    tensors = {}
    for name, one in diffusers(TABLE, dict.fromkeys(names, 2)).items():
        module, half = name.rsplit(".", 2)[:2]
        tensors[f"{names[module]}.{'down' if half == 'lora_A' else 'up'}.weight"] = one
    made = plan(tensors)
    assert made.dialect is Dialect.DIFFUSERS_OLD
    assert alphas(made) == dict.fromkeys(names, 2.0)


KOHYA = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0": ("unet", TO_OUT),
    "lora_unet_down_blocks_0_resnets_0_conv1": ("unet", CONV),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": ("text_encoder", Q_PROJ),
}


def test_kohya_names_reach_their_modules() -> None:
    made = plan(kohya(TABLE, KOHYA, alpha=tensor(1.0)))
    assert made.dialect is Dialect.KOHYA
    assert {(module.component, module.path) for module in made.modules} == set(KOHYA.values())
    assert made.alpha_tensors[f"unet.{TO_OUT}"] == f"{next(iter(KOHYA))}.alpha"


def test_kohya_s_original_block_names_reach_their_modules() -> None:
    names = {
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0": ("unet", TO_OUT),
        "lora_unet_input_blocks_1_0_in_layers_2": ("unet", CONV),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": ("text_encoder", Q_PROJ),
        "lora_te2_text_model_encoder_layers_2_mlp_fc1": ("text_encoder_2", "text_model.encoder.layers.2.mlp.fc1"),
        "lora_te2_text_projection": ("text_encoder_2", "text_projection"),
    }
    made = plan(kohya(SDXL_LIKE, names), table=SDXL_LIKE)
    assert {(module.component, module.path) for module in made.modules} == set(names.values())


def test_kohya_s_alpha_comes_from_its_tensor() -> None:
    made = plan(kohya(TABLE, KOHYA, alpha=tensor(1.0)))
    scalars = {f"{name}.alpha": float(i) for i, name in enumerate(KOHYA, start=1)}
    assert alphas(made, scalars) == {f"unet.{TO_OUT}": 1.0, f"unet.{CONV}": 2.0, f"text_encoder.{Q_PROJ}": 3.0}


def test_kohya_s_alpha_is_the_rank_when_absent_or_zero() -> None:
    absent = plan(kohya(TABLE, KOHYA, rank=4))
    assert set(alphas(absent).values()) == {4.0}
    zero = plan(kohya(TABLE, KOHYA, rank=4, alpha=tensor(0.0)))
    assert set(alphas(zero, {f"{name}.alpha": 0.0 for name in KOHYA}).values()) == {4.0}


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_refuses_an_alpha_that_is_no_scale(alpha: float) -> None:
    made = plan(kohya(TABLE, KOHYA, alpha=tensor(1.0)))
    with pytest.raises(LoraError) as caught:
        made.settle({f"{name}.alpha": alpha for name in KOHYA}, Limits())
    assert caught.value.code is Code.E_ALPHA


@pytest.mark.parametrize("alpha", [tensor(1, "I64"), tensor([1.0], "F64"), tensor(1.0, "BF16"), tensor([[1.0]], "F32")])
def test_alpha_may_be_any_number(alpha: Tensor) -> None:
    plan(kohya(TABLE, KOHYA, alpha=alpha))


@pytest.mark.parametrize(("alpha", "code"), [(tensor([1.0, 1.0]), Code.E_ALPHA), (tensor(1, "U8"), Code.E_DTYPE)])
def test_refuses_an_alpha_that_is_no_number(alpha: Tensor, code: Code) -> None:
    assert refused(kohya(TABLE, KOHYA, alpha=alpha)).code is code


def test_refuses_a_scale_above_the_limit() -> None:
    made = plan(diffusers(TABLE, {f"unet.{TO_Q}": 2}), config(**{"unet.r": 2, "unet.lora_alpha": 2 * 64}))
    made.settle({}, Limits())
    made = plan(diffusers(TABLE, {f"unet.{TO_Q}": 2}), config(**{"unet.r": 2, "unet.lora_alpha": 2 * 64 + 1}))
    with pytest.raises(LoraError) as caught:
        made.settle({}, Limits())
    assert caught.value.code is Code.E_ALPHA


def test_a_packed_peft_folder_is_for_the_component_it_fits() -> None:
    unet = plan(peft(SDXL_LIKE, "unet", {TO_Q: 2, CONV: 2}), peft_config(), SDXL_LIKE)
    assert unet.dialect is Dialect.PEFT
    assert {module.component for module in unet.modules} == {"unet"}
    for component in ("text_encoder", "text_encoder_2"):
        made = plan(peft(SDXL_LIKE, component, {Q_PROJ: 2}), peft_config(), SDXL_LIKE)
        assert [module.name for module in made.modules] == [f"{component}.{Q_PROJ}"]


def test_a_peft_folder_that_fits_two_components_alike_is_refused() -> None:
    encoder = TABLE.components["text_encoder"]
    twins = ModuleTable("twins", "", {"text_encoder": encoder, "text_encoder_2": encoder})
    assert refused(peft(twins, "text_encoder", {Q_PROJ: 2}), peft_config(), twins).code is Code.E_FORMAT


def test_a_peft_config_speaks_of_the_names_in_its_own_file() -> None:
    short = Q_PROJ.removeprefix("text_model.")
    fields = peft_config(rank_pattern={f"^{short}": 4}, alpha_pattern={f"^{short}": 1})
    made = plan(peft(TABLE, "text_encoder", {short: 4}), fields)
    assert alphas(made) == {f"text_encoder.{Q_PROJ}": 1.0}


def test_refuses_modules_that_the_base_lacks_several_at_once() -> None:
    tensors = diffusers(TABLE, {f"unet.{TO_Q}": 2, f"unet.{TO_OUT}": 2})
    renamed = {name.replace("attentions.0", "attentions.7"): one for name, one in tensors.items()}
    error = refused(renamed)
    assert [problem.code for problem in error.problems] == [Code.E_MODULE] * 2
    assert "attentions.7" in str(error)


def test_reports_no_more_problems_than_the_limit() -> None:
    tensors = diffusers(TABLE, {f"unet.{TO_Q}": 2})
    many = {f"unet.x{i}.{half}.weight": next(iter(tensors.values())) for i in range(9) for half in ("lora_A", "lora_B")}
    with pytest.raises(LoraError) as caught:
        plan(many, limits=Limits(problems=3))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("down", "up", "code"),
    [
        ((2, 9), (8, 2), Code.E_SHAPE),
        ((2, 8), (9, 2), Code.E_SHAPE),
        ((2, 8, 1, 1), (8, 2, 1, 1), Code.E_SHAPE),
        ((16,), (8, 2), Code.E_SHAPE),
        ((), (8, 2), Code.E_SHAPE),
        ((2, 8), (16,), Code.E_SHAPE),
        ((2, 8), (8, 3), Code.E_PAIR),
        ((129, 8), (8, 129), Code.E_RANK),
    ],
)
def test_refuses_shapes_that_do_not_fit(down: tuple[int, ...], up: tuple[int, ...], code: Code) -> None:
    def zeros(shape: tuple[int, ...]) -> Tensor:
        return Tensor("F16", shape, bytes(2 * math.prod(shape)))

    tensors = {f"unet.{TO_Q}.lora_A.weight": zeros(down), f"unet.{TO_Q}.lora_B.weight": zeros(up)}
    assert refused(tensors).code is code


def test_refuses_a_convolution_s_halves_of_another_kernel() -> None:
    tensors = diffusers(TABLE, {f"unet.{CONV}": 2})
    down = tensors[f"unet.{CONV}.lora_A.weight"]
    flat = Tensor(down.dtype, (2, 8 * 9), down.raw)
    assert refused(tensors | {f"unet.{CONV}.lora_A.weight": flat}).code is Code.E_SHAPE


@pytest.mark.parametrize("dtype", ["F64", "I64", "U8"])
def test_refuses_weights_of_another_type(dtype: str) -> None:
    if dtype == "F64":
        assert refused(diffusers(TABLE, {f"unet.{TO_Q}": 2}, dtype)).code is Code.E_DTYPE
    halves = {"lora_A": tensor([[1] * 8], dtype), "lora_B": tensor([[1]] * 8, dtype)}
    assert refused({f"unet.{TO_Q}.{half}.weight": one for half, one in halves.items()}).code is Code.E_DTYPE


def test_refuses_two_names_for_one_module() -> None:
    twice = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": ("unet", TO_Q),
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": ("unet", TO_Q),
    }
    assert refused(kohya(TABLE, twice)).code is Code.E_PAIR


@pytest.mark.parametrize(
    ("width", "words"), [(768, "a Stable Diffusion 1 LoRA"), (2048, "an SDXL LoRA"), (99, "another model")]
)
def test_says_which_model_a_lora_of_another_family_is_for(width: int, words: str) -> None:
    tensors = {
        f"unet.{TO_K}.lora_A.weight": tensor([[1.0] * width]),
        f"unet.{TO_K}.lora_B.weight": tensor([[1.0]] * 320),
    }
    error = refused(tensors)
    assert error.code is Code.E_BASE
    assert words in str(error)
    assert "base tiny takes 12" in str(error)


def test_a_component_that_the_base_lacks_shows_another_family() -> None:
    assert refused(diffusers(SDXL_LIKE, {f"text_encoder_2.{Q_PROJ}": 2})).code is Code.E_BASE


def test_the_family_is_named_before_the_component_that_only_it_has() -> None:
    tensors = {
        "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.lora_down.weight": tensor([[1.0] * 2048]),
        "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.lora_up.weight": tensor([[1.0]] * 1280),
        **kohya(SDXL_LIKE, {"lora_te2_text_projection": ("text_encoder_2", "text_projection")}),
    }
    assert "an SDXL LoRA" in str(refused(tensors))

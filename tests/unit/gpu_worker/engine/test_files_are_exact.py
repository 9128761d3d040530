"""Every file that passes validation is applied whole, as alpha / rank x B x A on top of the base.

So the bank's blocks hold it, so the reference lane adds it, and so do diffusers and peft wherever they load it. Files
are drawn in all dialects for the real layers of all bases; the oracle is file_oracle.py. What diffusers gets wrong is
named, one case each, and the oracle says who is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft import PeftModel

from looksmith.lora import inspect
from services.gpu_worker.engine.adapters import add_lora, read_lora
from services.gpu_worker.engine.compiler import BlockLayout, CompiledAdapter, compile_adapter, plan_adapter
from tests.unit.gpu_worker.engine import weightless
from tests.unit.gpu_worker.engine.file_oracle import Change, Floats, changes_of
from tests.unit.looksmith.lora.drawn_files import FAMILIES, KINDS, TABLES, Written, in_file
from tests.unit.looksmith.lora.lora_files import Tensor, safetensors, tensor

#: Derandomised, so that it takes as long each time; and not shrunk, which with models of full width takes for ever.
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
FEWER = settings(FEW, max_examples=5)  # each puts an adapter on models of full width
RANKS = {"studio": (8, 128), "sd15": (8, 32), "sd2": (8, 32), "sdxl": (8, 16)}  # of the bank, as memory allows
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
ADAPTER = "brand"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The layers are asked so little at a time that threads would wait for each other most of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def probe(change: Change) -> Floats:
    """Inputs [in, 1] for which no two changes give the same."""
    return np.random.default_rng(7).standard_normal((change.down.shape[1], 1))


# In the bank


@cache
def layouts_of(family: str, dtype: torch.dtype) -> Mapping[int, BlockLayout]:
    return {rank: BlockLayout.of(TABLES[family], rank=rank, dtype=dtype) for rank in RANKS[family]}


def compiled(file: Path, family: str, dtype: torch.dtype) -> CompiledAdapter | str:
    """What a worker's helper makes of a file, or why the bank can't hold it."""
    plan = plan_adapter(file, TABLES[family], layouts_of(family, dtype), dtype)
    if isinstance(plan, str):
        return plan
    with file.open("rb", buffering=0) as opened:
        return compile_adapter(opened, plan, torch.zeros(plan.form.elements, dtype=dtype))


def belongs_in_the_bank(family: str, changes: Mapping[str, Change]) -> bool:
    """Whether a file adapts only what a bank has places for: the UNet's transformers, and the text encoders."""
    for name, change in changes.items():
        component, _, path = name.partition(".")
        size = (change.up.shape[0], *TABLES[family].components[component][path].kernel)
        if component == "unet" and (".attentions." not in path or len(change.down) > max(RANKS[family])):
            return False
        if size[1:] != (1, 1):
            return False
    return True


def assert_holds(adapter: CompiledAdapter, changes: Mapping[str, Change]) -> None:
    halves = {**{f"unet.{path}": half for path, half in adapter.unet.items()}, **adapter.text}
    numbers = 0
    for name, change in changes.items():
        down, up = (half.double().numpy() for half in halves[name])
        inputs = probe(change)
        wrong = abs(up @ (down @ inputs) - change.of(inputs))
        assert (wrong <= 3 * ROUNDING[adapter.buffer.dtype] * change.bound(inputs)).all(), name
        numbers += int(np.count_nonzero(change.down) + np.count_nonzero(change.up))
    assert int(adapter.buffer.count_nonzero()) == numbers, "the block holds something that is not in the file"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@FEW
def test_a_block_holds_every_module_of_a_file_and_nothing_else(
    tmp_path: Path, family: str, kind: str, data: st.DataObject
) -> None:
    written = data.draw(KINDS[kind](family))
    dtype = data.draw(st.sampled_from(sorted(ROUNDING, key=str)))
    file = in_file(written, tmp_path)
    changes = changes_of(file, family)
    found = inspect(file, TABLES[family])
    assert {module.name for module in found.modules} == set(changes)
    adapter = compiled(file, family, dtype)
    assert isinstance(adapter, CompiledAdapter) == belongs_in_the_bank(family, changes)
    if isinstance(adapter, CompiledAdapter):
        assert_holds(adapter, changes)


# On the models


def effects(pipe: weightless.Pipeline, changes: Mapping[str, Change]) -> dict[str, bool]:
    """Whether each layer that is adapted gives what the base and the file say, and what no change says is wrong.

    A layer that was left without its adapter's weights is wrong too: it gives whatever the memory held.
    """
    found = {}
    for name, layer in weightless.adapted(pipe, ADAPTER).items():
        if name not in changes or any(parameter.is_meta for parameter in layer.parameters()):
            found[name] = False
            continue
        inputs = probe(changes[name])
        wrong = abs(weightless.asked(layer, inputs) - weightless.base_alone(layer, inputs) - changes[name].of(inputs))
        terms = changes[name].bound(inputs) + weightless.WEIGHT * abs(inputs).sum()  # what is added up in float32
        found[name] = bool((wrong <= 1e-6 * terms).all())
    return found


def assert_painted(file: Path, family: str, changes: Mapping[str, Change]) -> None:
    """By the reference lane, which paints with all that a file can adapt."""
    lora = read_lora(file, TABLES[family])
    assert len(lora.tensors) == 2 * len(changes)
    with weightless.for_a_while(family) as pipe:
        add_lora(pipe, ADAPTER, lora)
        assert effects(pipe, changes) == dict.fromkeys(changes, True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@FEWER
def test_the_reference_lane_adds_every_module_of_a_file_to_its_layer(
    tmp_path: Path, family: str, kind: str, data: st.DataObject
) -> None:
    file = in_file(data.draw(KINDS[kind](family)), tmp_path)
    assert_painted(file, family, changes_of(file, family))


def load_as_published(pipe: weightless.Pipeline, file: Path, written: Written) -> None:
    """By the library that the file was written for; diffusers can't read a peft folder."""
    if written.config is None:
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=ADAPTER)
        return
    component = written.modules[0].component
    PeftModel.from_pretrained(weightless.models(pipe)[component], file.parent, adapter_name=ADAPTER)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@FEWER
def test_diffusers_and_peft_do_the_same_with_files_as_they_are_usually_written(
    tmp_path: Path, family: str, kind: str, data: st.DataObject
) -> None:
    written = data.draw(KINDS[kind](family, usual=True))
    file = in_file(written, tmp_path)
    changes = changes_of(file, family)
    assert_painted(file, family, changes)
    with weightless.for_a_while(family) as pipe:
        load_as_published(pipe, file, written)
        assert effects(pipe, changes) == dict.fromkeys(changes, True)


# What diffusers makes of the others


def halves(
    family: str, name: str, stem: str, *, ends: tuple[str, str] = (".lora_A", ".lora_B"), rank: int = 4
) -> dict[str, Tensor]:
    """A and B for a layer, named ``stem`` in the file."""
    component, _, path = name.partition(".")
    layer = TABLES[family].components[component][path]
    random = np.random.default_rng(len(name))
    shapes = layer.down_shape(rank), layer.up_shape(rank)
    return {
        f"{stem}{end}.weight": tensor(random.integers(-8, 8, shape) / 4)
        for end, shape in zip(ends, shapes, strict=True)
    }


def flat(family: str, name: str, alpha: float | None, stem: str = "", rank: int = 4) -> dict[str, Tensor]:
    """The same in kohya's dialect."""
    component, _, path = name.partition(".")
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[component]
    stem = f"{prefix}_{stem or path.replace('.', '_')}"
    tensors = halves(family, name, stem, ends=(".lora_down", ".lora_up"), rank=rank)
    return tensors if alpha is None else tensors | {f"{stem}.alpha": tensor(alpha)}


ATTENTION = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
PROJECTIONS = ("unet.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_out")
ENCODER = "text_model.encoder.layers.0"
OUT_PROJ = f"text_encoder.{ENCODER}.self_attn.out_proj"
SECOND_OUT_PROJ = f"text_encoder_2.{ENCODER}.self_attn.out_proj"
Q_PROJ = f"text_encoder.{ENCODER}.self_attn.q_proj"
MLP = f"text_encoder.{ENCODER}.mlp.fc1"
BY_STABILITY = "middle_block_1_transformer_blocks_0_attn1_to_k"


@dataclass(frozen=True)
class Misread:
    """A good file, and what diffusers 0.42 makes of it."""

    family: str
    tensors: Mapping[str, Tensor]
    wrong: tuple[str, ...] = ()  # layers that it changes wrongly, or not at all
    error: str = ""  # or what it raises
    metadata: Mapping[str, str] | None = None


CONFIG = {"r": 4, "lora_alpha": 2, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}


def config_of(**fields: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(fields)}


def lora_config(component: str, target: str, **more: object) -> dict[str, object]:
    return {f"{component}.{name}": value for name, value in {**CONFIG, "target_modules": [target], **more}.items()}


MISREAD = {
    "an alpha of 0, which to sd-scripts is the rank": Misread(
        "sd15", flat("sd15", ATTENTION, 0.0), wrong=(ATTENTION,)
    ),
    "alphas that differ between layers": Misread(
        "sd15",
        flat("sd15", ATTENTION, 8.0) | flat("sd15", PROJECTIONS[0], 4.0) | flat("sd15", PROJECTIONS[1], 4.0),
        wrong=(ATTENTION,),
    ),
    "an alpha for some layers only": Misread(
        "sd15", flat("sd15", PROJECTIONS[0], 2.0) | flat("sd15", PROJECTIONS[1], None), wrong=(PROJECTIONS[1],)
    ),
    "the block names of Stability for another base than SDXL": Misread(
        "sd15", flat("sd15", ATTENTION, 2.0, BY_STABILITY), error="mid_block.1"
    ),
    "the same beside other names": Misread(
        "sd15",
        flat("sd15", ATTENTION, 2.0, BY_STABILITY) | flat("sd15", QUERY, 2.0),
        wrong=(ATTENTION,),
    ),
    "both block namings for SDXL": Misread(
        "sdxl", flat("sdxl", ATTENTION, 2.0, BY_STABILITY) | flat("sdxl", QUERY, 2.0), wrong=(ATTENTION,)
    ),
    "a text encoder whose attention is left alone": Misread(
        "sd15", halves("sd15", MLP, MLP.replace("text_model.", "")), error="infer state dict type"
    ),
    "a text encoder's layers under older names, beside a config": Misread(
        "sd15",
        halves("sd15", OUT_PROJ, OUT_PROJ),
        error="not found in the base model",
        metadata=config_of(**lora_config("text_encoder", OUT_PROJ.removeprefix("text_encoder."))),
    ),
    "the second text encoder's layers under the first one's names": Misread(
        "sdxl",
        halves("sdxl", SECOND_OUT_PROJ, SECOND_OUT_PROJ.replace("text_model.", "")),
        error="list index out of range",
    ),
    "the oldest names in a text encoder, without its out_proj": Misread(
        "sd15",
        halves("sd15", Q_PROJ, Q_PROJ.replace("q_proj", "to_q_lora"), ends=(".down", ".up")),
        error="infer state dict type",
    ),
    "the text encoders' old names in a UNet": Misread(
        "sd15",
        halves("sd15", ATTENTION, ATTENTION, ends=(".lora_linear_layer.down", ".lora_linear_layer.up")),
        error="list index out of range",
    ),
    "the same beside other old names": Misread(
        "sd15",
        halves("sd15", ATTENTION, ATTENTION, ends=(".lora_linear_layer.down", ".lora_linear_layer.up"))
        | halves("sd15", QUERY, QUERY, ends=(".lora.down", ".lora.up")),
        wrong=(ATTENTION,),
    ),
    "a packed peft folder": Misread(
        "sd15",
        halves("sd15", ATTENTION, ATTENTION.replace("unet.", "base_model.model.")),
        wrong=(ATTENTION,),
        metadata={"looksmith.peft_config": json.dumps(CONFIG)},
    ),
    "a config with dropout, which goes on while painting": Misread(
        "sd15",
        halves("sd15", ATTENTION, ATTENTION),
        wrong=(ATTENTION,),
        metadata=config_of(**lora_config("unet", ATTENTION.removeprefix("unet."), lora_dropout=0.5)),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match")  # all that diffusers says of it
@pytest.mark.parametrize("case", MISREAD.values(), ids=MISREAD.keys())
def test_what_diffusers_misreads_is_applied_as_the_file_means_it(tmp_path: Path, case: Misread) -> None:
    file = tmp_path / "look.safetensors"
    file.write_bytes(safetensors(case.tensors, case.metadata or {}))
    changes = changes_of(file, case.family)
    inspect(file, TABLES[case.family])
    assert_painted(file, case.family, changes)
    adapter = compiled(file, case.family, torch.float32)
    if isinstance(adapter, CompiledAdapter):
        assert_holds(adapter, changes)
    else:
        assert not belongs_in_the_bank(case.family, changes)
    with weightless.for_a_while(case.family) as pipe:
        if case.error:
            with pytest.raises(Exception, match=case.error):
                pipe.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=ADAPTER)
        else:
            pipe.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=ADAPTER)
            right = {name for name, is_right in effects(pipe, changes).items() if is_right}
            assert set(changes) - right == {*case.wrong}

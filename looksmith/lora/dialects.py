"""Recognises the dialect that a LoRA file is written in, and pairs its tensors by module.

Works on names alone: which layers of a base they mean, and whether the shapes fit, is decided in canonical.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Literal

from looksmith.lora.errors import Code, Problem, refusal
from looksmith.lora.header import Header, TensorInfo

PEFT_CONFIG_KEY = "looksmith.peft_config"
"""Header key of a packed peft folder; the value is PeftConfig.to_json()."""

DIFFUSERS_CONFIG_KEY = "lora_adapter_metadata"
"""Header key where diffusers keeps its LoraConfigs (diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY)."""


class Dialect(Enum):
    """Who wrote the file. The values are stable and go into manifests."""

    PEFT = "peft"
    """`base_model.model.<path>.lora_A.weight`: a peft folder; packing has put its config into the header."""

    DIFFUSERS = "diffusers"
    """`unet.<path>.lora_A.weight`; without a config in the header alpha is the rank."""

    DIFFUSERS_OLD = "diffusers-old"
    """`unet.….attn1.processor.to_q_lora.down.weight`, `text_encoder.….q_proj.lora_linear_layer.up.weight`."""

    KOHYA = "kohya"
    """`lora_unet_<path with underscores>.lora_down.weight` and `.alpha`."""


Half = Literal["down", "up", "alpha"]


@dataclass(frozen=True)
class Key:
    """What a tensor's name says."""

    dialect: Dialect
    component: str | None  # None: a peft folder does not say
    module: str  # a dotted path, or in KOHYA a flattened one
    half: Half


@dataclass(frozen=True)
class Pair:
    """The tensors of one module, which the file calls module."""

    component: str | None
    module: str
    down: TensorInfo  # A
    up: TensorInfo  # B
    alpha: TensorInfo | None


@dataclass(frozen=True)
class Reading:
    """A file's tensors in pairs. Tensors that found no partner are problems."""

    dialect: Dialect
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]


# What other methods call their tensors. Searched in names of no dialect, so that the refusal says what the file is.
_OTHER_METHODS = {
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\.lora_mid\.": "a Tucker-decomposed LoCon",
    r"[._]b?oft_": "OFT",
    r"\.on_input$": "IA3",
    r"\.[ab][12]\.weight$": "GLoRA",
    r"\.(diff|diff_b|set_weight|w_norm|b_norm)$": "weights stored as full differences",
    r"lora_embedding_[AB]": "a LoRA of an embedding",
    r"\.lora(_[AB]|_down|_up|\.down|\.up)\.bias$": "a LoRA with biases",
    r"modules_to_save": "modules trained in full",
    r"emb_params": "textual inversion",
    r"string_to_param": "textual inversion",
    r"^bundle_emb|^clip_[lg]$": "textual inversion",
    r"^lora_controlnet$": "Control-LoRA",
}
_SEARCHED = 1000  # names; where a method is at work, most of its names tell, and megabytes of others would take long
# Plain text: it is searched for in all names, where an expression would take as long as all the rest.
_TRANSFORMER_PREFIXES = ("transformer.", "diffusion_model.", "lora_transformer_", "lycoris_", "lora_te3_")
_TRANSFORMER_BLOCKS = ("double_blocks", "single_blocks", "double_transformer_blocks", "single_transformer_blocks")

_KOHYA = re.compile(r"(lora_unet|lora_te|lora_te1|lora_te2)_([^.]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_KOHYA_COMPONENTS = {
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}
_PEFT = re.compile(r"base_model\.model\.(.+)\.(lora_A|lora_B)\.weight")
_DIFFUSERS = re.compile(
    r"(unet|text_encoder|text_encoder_2)\.(.+)\."
    r"(?:(lora_A|lora_B)|(?:lora_linear_layer|lora)\.(down|up)|to_([qkv]|out)_lora\.(down|up))\.weight"
)
_HALVES: Mapping[str, Half] = {
    "lora_A": "down", "lora_down.weight": "down", "down": "down",
    "lora_B": "up", "lora_up.weight": "up", "up": "up",
    "alpha": "alpha",
}  # fmt: skip


def parse_key(name: str) -> Key | None:
    """Reads a tensor's name in whichever dialect it is; None if in none."""
    if match := _KOHYA.fullmatch(name):
        prefix, module, half = match.groups()
        return Key(Dialect.KOHYA, _KOHYA_COMPONENTS[prefix], module, _HALVES[half])
    if match := _PEFT.fullmatch(name):
        module, half = match.groups()
        return Key(Dialect.PEFT, None, module, _HALVES[half])
    if match := _DIFFUSERS.fullmatch(name):
        component, module, new, old, projection, oldest = match.groups()
        module = f"{module}.".replace(".processor.", ".").removesuffix(".")
        if projection:
            module = f"{module}.{_attention_layer(component, projection)}"
        dialect = Dialect.DIFFUSERS if new else Dialect.DIFFUSERS_OLD
        return Key(dialect, component, module, _HALVES[new or old or oldest])
    return None


def _attention_layer(component: str, projection: str) -> str:
    """The layer that an attention processor's LoRA was for; they named text encoders' after the UNet's."""
    if component != "unet":
        return f"{projection}_proj"
    return "to_out.0" if projection == "out" else f"to_{projection}"


def recognise(header: Header) -> Reading:
    """Tells the dialect and pairs the tensors.

    Raises:
        LoraError: E_UNSUPPORTED, E_BASE (a LoRA for a transformer), E_FORMAT or E_ALPHA_MISSING.
    """
    parsed = {name: parse_key(name) for name in header.tensors}
    keys = {name: key for name, key in parsed.items() if key}
    unknown = [name for name in parsed if name not in keys]
    _refuse_other_methods(unknown[:_SEARCHED])
    _refuse_transformers(parsed, unknown)
    if unknown:
        raise refusal(Code.E_FORMAT, f"tensor {unknown[0]} is not named in any dialect of LoRA files", unknown[0])
    dialects: set[Dialect] = set()
    modules: dict[tuple[str | None, str], dict[Half, TensorInfo]] = {}
    problems: list[Problem] = []
    for name, key in keys.items():
        dialects.add(key.dialect)
        halves = modules.setdefault((key.component, key.module), {})
        if key.half in halves:
            twice = f"tensors {halves[key.half].name} and {name} are the same half of one module"
            problems.append(Problem(Code.E_PAIR, twice, name))
        halves[key.half] = header.tensors[name]
    dialect = _one_dialect(dialects)
    _check_config_is_in_place(dialect, header.metadata)
    pairs: list[Pair] = []
    for (component, module), halves in modules.items():
        if "down" in halves and "up" in halves:
            pairs.append(Pair(component, module, halves["down"], halves["up"], halves.get("alpha")))
        else:
            alone = next(iter(halves.values())).name
            problems.append(Problem(Code.E_PAIR, f"tensor {alone} has no partner to make up a module", alone))
    return Reading(dialect, tuple(pairs), tuple(problems))


def _refuse_other_methods(names: Iterable[str]) -> None:
    lines = "\n".join(names)  # a pattern is searched in all names at once: three times as fast
    for pattern, method in _OTHER_METHODS.items():
        if name := _first_line(pattern, lines):
            raise refusal(Code.E_UNSUPPORTED, f"tensor {name} shows that this is {method}", name)


def _refuse_transformers(names: Iterable[str], unknown: Iterable[str]) -> None:
    lines = "\n".join(names)
    blocks = (_first_line(block, lines) for block in _TRANSFORMER_BLOCKS if block in lines)
    others = (name for name in unknown if name.startswith(_TRANSFORMER_PREFIXES))
    if name := next(chain(blocks, others), ""):
        what = f"tensor {name} adapts a transformer (FLUX, SD3 and the like), not a Stable Diffusion UNet"
        raise refusal(Code.E_BASE, what, name)


def _first_line(pattern: str, lines: str) -> str:
    """The first line that holds what the pattern describes, or nothing."""
    found = re.search(pattern, lines, re.MULTILINE)
    return lines[: found.end()].rpartition("\n")[2] + lines[found.end() :].partition("\n")[0] if found else ""


def _one_dialect(dialects: set[Dialect]) -> Dialect:
    if dialects == {Dialect.DIFFUSERS, Dialect.DIFFUSERS_OLD}:
        return Dialect.DIFFUSERS_OLD  # diffusers 0.22 to 0.27 wrote attention in the old way and the rest in the new
    if len(dialects) > 1:
        names = ", ".join(sorted(dialect.value for dialect in dialects))
        raise refusal(Code.E_FORMAT, f"the file mixes the dialects {names}")
    (dialect,) = dialects
    return dialect


def _check_config_is_in_place(dialect: Dialect, metadata: Mapping[str, str]) -> None:
    """Alpha must come from one place only: the header's config, or kohya's tensors."""
    if dialect is Dialect.PEFT and PEFT_CONFIG_KEY not in metadata:
        raise refusal(
            Code.E_ALPHA_MISSING, "the file is the adapter_model.safetensors of a PEFT folder without its config"
        )
    if dialect is not Dialect.PEFT and PEFT_CONFIG_KEY in metadata:
        raise refusal(Code.E_FORMAT, f"a {dialect.value} file cannot carry {PEFT_CONFIG_KEY}", PEFT_CONFIG_KEY)
    if dialect in {Dialect.PEFT, Dialect.KOHYA} and DIFFUSERS_CONFIG_KEY in metadata:
        raise refusal(
            Code.E_FORMAT, f"a {dialect.value} file cannot carry {DIFFUSERS_CONFIG_KEY}", DIFFUSERS_CONFIG_KEY
        )

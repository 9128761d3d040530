"""Draws LoRA files of real bases' shapes in all dialects, with what they mean; writes them without the code under test.

The numbers drawn are what a test compares with: names, scales and layers are worked out here, from the files that list
the layers of the bases. What is "usual" has no peculiarity but those that today's training programs give a file.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from looksmith.lora import Dialect, pack, packaged_table
from tests.unit.looksmith.lora.lora_files import Tensor, safetensors, tensor

BASES = Path(__file__).parents[4] / "looksmith" / "lora" / "bases"
FAMILIES = ("studio", "sd15", "sd2", "sdxl")
LAYERS: Mapping[str, Mapping[str, Mapping[str, list[int]]]] = {
    family: json.loads((BASES / f"{family}.json").read_text())["components"] for family in FAMILIES
}
TABLES = {family: packaged_table(family) for family in FAMILIES}


@dataclass(frozen=True)
class Drawn:
    """One module as it is meant: A, B, and what their product is multiplied with."""

    component: str
    path: str
    down: NDArray[np.float32]
    up: NDArray[np.float32]
    dtype: str
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def name(self) -> str:
        return f"{self.component}.{self.path}"

    def halves(self, name: str, down: str, up: str) -> dict[str, Tensor]:
        return {
            f"{name}.{down}.weight": tensor(self.down, self.dtype),
            f"{name}.{up}.weight": tensor(self.up, self.dtype),
        }


@dataclass(frozen=True)
class Written:
    """An adapter as it goes into a file, and as it is meant."""

    dialect: Dialect
    tensors: Mapping[str, Tensor]
    modules: tuple[Drawn, ...]
    metadata: Mapping[str, str]
    config: Mapping[str, object] | None = None  # of a peft folder


def kinds_of(family: str, component: str | None = None) -> Mapping[str, list[tuple[str, str]]]:
    """The layers of a base, or of one component, that differ in their numbers only; all kinds are drawn alike."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for part, layers in LAYERS[family].items():
        for path in layers:
            if component in {None, part}:
                kinds.setdefault(re.sub(r"\d+", "#", f"{part}.{path}"), []).append((part, path))
    return kinds


@st.composite
def drawn_modules(draw: st.DrawFn, family: str, component: str | None = None, *, usual: bool = False) -> list[Drawn]:
    """A few layers of a base, of any kind, with weights that any of the types holds exactly."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    one_type = draw(st.sampled_from(["F16", "BF16", "F32", ""]))
    kinds = kinds_of(family, component)
    of_kinds = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=3 if usual else 1, max_size=5))
    chosen = [draw(st.sampled_from(kinds[kind])) for kind in of_kinds]
    if usual:  # what is trained of a text encoder are its attention and MLPs, and never without the attention
        parts = sorted({part for part, _ in chosen} - {"unet"})
        chosen = [one for one in chosen if one[1] != "text_projection"]
        chosen += [(part, "text_model.encoder.layers.0.self_attn.out_proj") for part in parts]
    modules = []
    for part, path in dict.fromkeys(chosen):
        wide, high, *kernel = LAYERS[family][part][path]
        rank = draw(st.integers(1, 8) | st.sampled_from([16, 128]))
        shapes = (rank, wide, *kernel), (high, rank, *([1, 1] if kernel else []))
        down, up = (random.integers(-8, 8, shape).astype(np.float32) / np.float32(4) for shape in shapes)
        modules.append(Drawn(part, path, down, up, one_type or draw(st.sampled_from(["F16", "BF16", "F32"]))))
    return modules


def short(draw: st.DrawFn, module: Drawn, *, usual: bool = False) -> str:
    """A module's path as some programs write it in text encoders; usually as transformers 5 calls it in memory."""
    if module.component == "unet" or not module.path.startswith("text_model."):
        return module.path
    shorten = module.component == "text_encoder" if usual else draw(st.booleans())
    return module.path.removeprefix("text_model.") if shorten else module.path


ALPHAS = st.sampled_from([0.25, 1.0, 3.0, 4.0, 8.0, 31.5])


def lora_config(
    draw: st.DrawFn, modules: list[Drawn], paths: Mapping[str, str], *, usual: bool = False
) -> tuple[dict[str, object], list[Drawn]]:
    """A LoraConfig that fits the modules, and the modules with the scale that it gives them."""
    rank, alpha, rslora = modules[0].rank, draw(ALPHAS), draw(st.booleans())
    ranks, alphas, meant = {}, {}, []
    for module in modules:
        key = draw(st.sampled_from(["^{}", "^{}$"])).format(
            paths[module.name].replace(".", draw(st.sampled_from([".", r"\."])))
        )
        own = draw(st.none() | ALPHAS)
        if module.rank != rank or draw(st.booleans()):
            ranks[key] = module.rank
        if own is not None:
            alphas[key] = own
        divisor = math.sqrt(module.rank) if rslora else module.rank
        meant.append(replace(module, scale=(alpha if own is None else own) / divisor))
    config = {"r": rank, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    targets = sorted(paths[module.name] for module in modules)
    dropout = 0.0 if usual else 0.1
    noise: dict[str, object] = {"target_modules": targets, "lora_dropout": dropout, "bias": "none", "use_dora": False}
    return config | noise, meant


@st.composite
def diffusers_files(draw: st.DrawFn, family: str, *, usual: bool = False) -> Written:
    modules = draw(drawn_modules(family, usual=usual))
    paths = {module.name: short(draw, module, usual=usual) for module in modules}
    metadata = {"format": "pt"}
    if draw(st.booleans()):
        fields: dict[str, object] = {}
        meant = []
        for component in {module.component for module in modules}:
            mine = [one for one in modules if one.component == component]
            config, own = lora_config(draw, mine, paths, usual=usual)
            fields |= {f"{component}.{name}": value for name, value in config.items()}
            meant += own
        metadata["lora_adapter_metadata"], modules = json.dumps(fields), meant
    tensors: dict[str, Tensor] = {}
    for one in modules:
        tensors |= one.halves(f"{one.component}.{paths[one.name]}", "lora_A", "lora_B")
    return Written(Dialect.DIFFUSERS, shuffled(draw, tensors), tuple(modules), metadata)


@st.composite
def old_diffusers_files(draw: st.DrawFn, family: str, *, usual: bool = False) -> Written:
    modules = draw(drawn_modules(family, usual=usual))
    tensors: dict[str, Tensor] = {}
    for one in modules:
        name = f"{one.component}.{short(draw, one, usual=usual)}"
        attention = re.fullmatch(r"(unet\..+\.attn[12])\.to_(q|k|v|out\.0)", name)
        encoder = re.fullmatch(r"(text_encoder.+\.self_attn)\.(q|k|v|out)_proj", name)
        if attention and draw(st.booleans()):
            where, projection = attention.groups()
            stem = f"{where}.processor.to_{projection.removesuffix('.0')}_lora"
        elif usual:
            stem = f"{name}.{'lora' if one.component == 'unet' else 'lora_linear_layer'}"
        elif encoder and draw(st.booleans()):
            stem = f"{encoder[1]}.to_{encoder[2]}_lora"
        else:
            stem = f"{name}.{draw(st.sampled_from(['lora', 'lora_linear_layer']))}"
        tensors |= one.halves(stem, "down", "up")
    return Written(Dialect.DIFFUSERS_OLD, shuffled(draw, tensors), tuple(modules), {})


def stability_name(family: str, path: str) -> str:
    """The name that the code of SD 1, SD 2 and SDXL gives to a layer of the UNet; all have two layers a block.

    As sd-scripts' conversion from these names to diffusers' has them.
    """
    if match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", path):
        side, block, part, number, inner = match.groups()
        entry = 3 * int(block) + int(number) + (side == "down")
        where = f"{_SIDES[side]}.{entry}.{int(part == 'attentions')}"
    elif match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        part, number, inner = match.groups()
        where = f"middle_block.{1 if part == 'attentions' else 2 * int(number)}"
    elif match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", path):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op"
    elif match := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv", path):
        first = match[1] == "0" and family != "sdxl"  # the one block with an upsampler and without attention
        return f"output_blocks.{3 * int(match[1]) + 2}.{1 if first else 2}.conv"
    else:
        return _OUTSIDE_BLOCKS[path]
    return f"{where}.{_IN_RESNETS.get(inner, inner) if part == 'resnets' else inner}"


_SIDES = {"down": "input_blocks", "up": "output_blocks"}
_IN_RESNETS = {
    "conv1": "in_layers.2", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


@st.composite
def kohya_files(draw: st.DrawFn, family: str, *, usual: bool = False) -> Written:
    every = draw(st.booleans())
    given_alphas = st.just(draw(ALPHAS)) if usual else st.just(0.0) | ALPHAS  # sd-scripts has one for all
    no_alphas = st.none() if usual else st.none() | given_alphas
    tensors: dict[str, Tensor] = {}
    meant = []
    for one in draw(drawn_modules(family, usual=usual)):
        path = one.path if usual else short(draw, one)
        by_stability = family == "sdxl" if usual else family != "studio" and draw(st.booleans())
        if one.component == "unet" and by_stability:
            path = stability_name(family, path)
        first = "lora_te1" if family == "sdxl" else draw(st.sampled_from(["lora_te", "lora_te1"]))
        prefix = {"unet": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}[one.component]
        name = f"{prefix}_{path.replace('.', '_')}"
        tensors |= one.halves(name, "lora_down", "lora_up")
        alpha = draw(given_alphas if every else no_alphas)
        if alpha is not None:
            whole = ["I64"] if alpha == int(alpha) else []
            dtype = draw(st.sampled_from(["F16", "BF16", "F32", "F64", *whole]))
            tensors[f"{name}.alpha"] = tensor(draw(st.sampled_from([alpha, [alpha]])), dtype)
        meant.append(replace(one, scale=(alpha or one.rank) / one.rank))
    return Written(Dialect.KOHYA, shuffled(draw, tensors), tuple(meant), {"ss_network_dim": "4", "ss_title": "\u96ea"})


@st.composite
def peft_folders(draw: st.DrawFn, family: str, *, usual: bool = False) -> Written:
    component = draw(st.sampled_from(sorted(LAYERS[family])))
    modules = draw(drawn_modules(family, component, usual=usual))
    paths = {module.name: short(draw, module, usual=usual) for module in modules}
    config, meant = lora_config(draw, modules, paths, usual=usual)
    tensors: dict[str, Tensor] = {}
    for one in meant:
        tensors |= one.halves(f"base_model.model.{paths[one.name]}", "lora_A", "lora_B")
    return Written(
        Dialect.PEFT, shuffled(draw, tensors), tuple(meant), {"format": "pt"}, config | {"peft_type": "LORA"}
    )


def shuffled(draw: st.DrawFn, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In another order: a file's tensors may lie in any."""
    return {name: tensors[name] for name in draw(st.permutations(sorted(tensors)))}


def in_file(written: Written, folder: Path) -> Path:
    data = safetensors(written.tensors, written.metadata)
    if written.config is None:
        (folder / "file.safetensors").write_bytes(data)
        return folder / "file.safetensors"
    (folder / "adapter_model.safetensors").write_bytes(data)
    (folder / "adapter_config.json").write_text(json.dumps(written.config))
    pack(folder).write(folder / "packed.safetensors")
    return folder / "packed.safetensors"


KINDS: Mapping[str, Callable[..., st.SearchStrategy[Written]]] = {
    "diffusers": diffusers_files, "old diffusers": old_diffusers_files, "kohya": kohya_files, "peft": peft_folders,
}  # fmt: skip

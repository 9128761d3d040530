"""Whatever well-formed adapter is written passes, and what is read back is alpha / rank x B x A of what was written.

The oracle is the numbers that were drawn: names, scales and layers are worked out here, from the files that list the
layers of the bases, and not by the code under test.
"""

import json
import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from looksmith.lora import Dialect, LoraError, inspect, pack, packaged_table, read_modules, read_weights
from tests.unit.looksmith.lora.lora_files import Tensor, described, framed, safetensors, tensor

BASES = Path(__file__).parents[4] / "looksmith" / "lora" / "bases"
FAMILIES = ("studio", "sd15", "sdxl")
LAYERS: Mapping[str, Mapping[str, Mapping[str, list[int]]]] = {
    family: json.loads((BASES / f"{family}.json").read_text())["components"] for family in FAMILIES
}
TABLES = {family: packaged_table(family) for family in FAMILIES}
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@st.composite
def drawn_modules(draw: st.DrawFn, family: str, component: str | None = None) -> list[Drawn]:
    """A few layers of a base with weights that any of the types holds exactly."""
    named = [(part, path) for part, layers in LAYERS[family].items() for path in layers if component in {None, part}]
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    one_type = draw(st.sampled_from(["F16", "BF16", "F32", ""]))
    modules = []
    for part, path in draw(st.lists(st.sampled_from(named), min_size=1, max_size=5, unique=True)):
        wide, high, *kernel = LAYERS[family][part][path]
        rank = draw(st.integers(1, 8) | st.sampled_from([16, 128]))
        shapes = (rank, wide, *kernel), (high, rank, *([1, 1] if kernel else []))
        down, up = (random.integers(-8, 8, shape).astype(np.float32) / np.float32(4) for shape in shapes)
        modules.append(Drawn(part, path, down, up, one_type or draw(st.sampled_from(["F16", "BF16", "F32"]))))
    return modules


def short(draw: st.DrawFn, module: Drawn) -> str:
    """A module's path as some programs write it in text encoders."""
    shorten = module.component != "unet" and module.path.startswith("text_model.") and draw(st.booleans())
    return module.path.removeprefix("text_model.") if shorten else module.path


ALPHAS = st.sampled_from([0.25, 1.0, 3.0, 4.0, 8.0, 31.5])


def lora_config(
    draw: st.DrawFn, modules: list[Drawn], paths: Mapping[str, str]
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
    noise: dict[str, object] = {"target_modules": ["to_q"], "lora_dropout": 0.1, "bias": "none", "use_dora": False}
    return config | noise, meant


@st.composite
def diffusers_files(draw: st.DrawFn, family: str) -> Written:
    modules = draw(drawn_modules(family))
    paths = {module.name: short(draw, module) for module in modules}
    metadata = {"format": "pt"}
    if draw(st.booleans()):
        fields: dict[str, object] = {}
        meant = []
        for component in {module.component for module in modules}:
            config, own = lora_config(draw, [one for one in modules if one.component == component], paths)
            fields |= {f"{component}.{name}": value for name, value in config.items()}
            meant += own
        metadata["lora_adapter_metadata"], modules = json.dumps(fields), meant
    tensors: dict[str, Tensor] = {}
    for one in modules:
        tensors |= one.halves(f"{one.component}.{paths[one.name]}", "lora_A", "lora_B")
    return Written(Dialect.DIFFUSERS, shuffled(draw, tensors), tuple(modules), metadata)


@st.composite
def old_diffusers_files(draw: st.DrawFn, family: str) -> Written:
    modules = draw(drawn_modules(family))
    tensors: dict[str, Tensor] = {}
    for one in modules:
        name = f"{one.component}.{short(draw, one)}"
        attention = re.fullmatch(r"(unet\..+\.attn[12])\.to_(q|k|v|out\.0)", name)
        if attention and draw(st.booleans()):
            where, projection = attention.groups()
            stem = f"{where}.processor.to_{projection.removesuffix('.0')}_lora"
        else:
            stem = f"{name}.{draw(st.sampled_from(['lora', 'lora_linear_layer']))}"
        tensors |= one.halves(stem, "down", "up")
    return Written(Dialect.DIFFUSERS_OLD, shuffled(draw, tensors), tuple(modules), {})


def stability_name(path: str) -> str:
    """The name that SD 1.x's and SDXL's own code gives to a layer of an attention; both have two layers a block."""
    if match := re.fullmatch(r"down_blocks\.(\d)\.attentions\.(\d)\.(.+)", path):
        return f"input_blocks.{3 * int(match[1]) + int(match[2]) + 1}.1.{match[3]}"
    if match := re.fullmatch(r"up_blocks\.(\d)\.attentions\.(\d)\.(.+)", path):
        return f"output_blocks.{3 * int(match[1]) + int(match[2])}.1.{match[3]}"
    return path.replace("mid_block.attentions.0.", "middle_block.1.")


@st.composite
def kohya_files(draw: st.DrawFn, family: str) -> Written:
    every, given_alphas = draw(st.booleans()), st.just(0.0) | ALPHAS
    tensors: dict[str, Tensor] = {}
    meant = []
    for one in draw(drawn_modules(family)):
        path = short(draw, one)
        if family != "studio" and one.component == "unet" and draw(st.booleans()):
            path = stability_name(path)
        first = "lora_te1" if family == "sdxl" else draw(st.sampled_from(["lora_te", "lora_te1"]))
        prefix = {"unet": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}[one.component]
        name = f"{prefix}_{path.replace('.', '_')}"
        tensors |= one.halves(name, "lora_down", "lora_up")
        alpha = draw(given_alphas if every else st.none() | given_alphas)
        if alpha is not None:
            whole = ["I64"] if alpha == int(alpha) else []
            dtype = draw(st.sampled_from(["F16", "BF16", "F32", "F64", *whole]))
            tensors[f"{name}.alpha"] = tensor(draw(st.sampled_from([alpha, [alpha]])), dtype)
        meant.append(replace(one, scale=(alpha or one.rank) / one.rank))
    return Written(Dialect.KOHYA, shuffled(draw, tensors), tuple(meant), {"ss_network_dim": "4", "ss_title": "\u96ea"})


@st.composite
def peft_folders(draw: st.DrawFn, family: str) -> Written:
    component = draw(st.sampled_from(sorted(LAYERS[family])))
    modules = draw(drawn_modules(family, component))
    paths = {module.name: short(draw, module) for module in modules}
    config, meant = lora_config(draw, modules, paths)
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
        (folder / "file").write_bytes(data)
        return folder / "file"
    (folder / "adapter_model.safetensors").write_bytes(data)
    (folder / "adapter_config.json").write_text(json.dumps(written.config))
    pack(folder).write(folder / "packed")
    return folder / "packed"


KINDS: Mapping[str, Callable[[str], st.SearchStrategy[Written]]] = {
    "diffusers": diffusers_files, "old diffusers": old_diffusers_files, "kohya": kohya_files, "peft": peft_folders,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@MANY
def test_an_adapter_is_read_as_it_was_meant(tmp_path: Path, family: str, kind: str, data: st.DataObject) -> None:
    written = data.draw(KINDS[kind](family))
    file, table = in_file(written, tmp_path), TABLES[family]
    found = inspect(file, table)
    assert found.dialect is written.dialect
    meant = {module.name: module for module in written.modules}
    assert found.rank_map == {name: module.rank for name, module in meant.items()}
    read = list(read_weights(file, read_modules(file, table)))
    assert {one.module.name for one in read} == set(meant)
    for module, down, up in read:
        oracle = meant[module.name]
        np.testing.assert_array_equal(down, oracle.down)
        np.testing.assert_array_equal(up, oracle.up)
        np.testing.assert_allclose(corner(module.scale, down, up), corner(oracle.scale, oracle.down, oracle.up), 1e-12)


def corner(scale: float, down: NDArray[Any], up: NDArray[Any]) -> NDArray[np.float64]:
    """Part of scale x B x A; all of it is 100 MB for SDXL's largest layers."""
    rank = len(down)
    a, b = down.reshape(rank, -1)[:, :64].astype(np.float64), up.reshape(-1, rank)[:64].astype(np.float64)
    return scale * (b @ a)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_every_layer_of_a_base_passes(tmp_path: Path, family: str) -> None:
    tensors: dict[str, Tensor] = {}
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    names = [(part, path) for part, layers in LAYERS[family].items() for path in layers]
    for part, path in names:
        wide, high, *kernel = LAYERS[family][part][path]
        name = f"{prefixes[part]}_{path.replace('.', '_')}"
        shapes = {"lora_down": (1, wide, *kernel), "lora_up": (high, 1, *([1, 1] if kernel else []))}
        tensors |= {f"{name}.{half}.weight": Tensor("F16", s, b"\0<" * math.prod(s)) for half, s in shapes.items()}
        tensors[f"{name}.alpha"] = tensor(1.0)
    (tmp_path / "file").write_bytes(safetensors(tensors, {"ss_tag_frequency": json.dumps({"a, b": 1}) * 20_000}))
    found = inspect(tmp_path / "file", TABLES[family])
    assert {module.name for module in found.modules} == {f"{part}.{path}" for part, path in names}
    assert {module.scale for module in found.modules} == {1.0}


Meaning = Mapping[str, tuple[float, bytes, bytes]]


def meaning(file: Path, family: str) -> Meaning:
    """All that a picture can depend on."""
    inspect(file, TABLES[family])
    read = read_weights(file, read_modules(file, TABLES[family]))
    return {one.module.name: (one.module.scale, one.down.tobytes(), one.up.tobytes()) for one in read}


BYTES = st.integers(0, 255) | st.sampled_from([ord(char) for char in string.digits + ' "{}[],:._AB'])
WAYS = ("replace", "insert", "delete", "cut", "append", "lie", "drop", "rename", "rename", "twice")
LIES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2, 1.5, 1 << 64, "F16", "F32", "F64", "I64", [], [0], [2], [0, 2], [2, 4], [1, 2], {}, "x"]
)


def spoiled(data: st.DataObject, written: Written) -> bytes:
    """The file with one thing wrong in its length, its header or its structure."""
    whole = safetensors(written.tensors, written.metadata)
    end = 8 + int.from_bytes(whole[:8], "little")
    at = data.draw(st.integers(0, end - 1))
    header, raw = described(written.tensors, dict(written.metadata)), whole[end:]
    name = data.draw(st.sampled_from(sorted(written.tensors)))
    entry: Any = header[name]
    match data.draw(st.sampled_from(WAYS)):
        case "replace":
            file = whole[:at] + bytes([data.draw(BYTES)]) + whole[at + 1 :]
        case "insert":
            file = whole[:at] + bytes([data.draw(BYTES)]) + whole[at:]
        case "delete":
            file = whole[:at] + whole[at + 1 :]
        case "cut":
            file = whole[: data.draw(st.integers(0, len(whole) - 1))]
        case "append":
            file = whole + data.draw(st.binary(min_size=1, max_size=9))
        case "lie":
            field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
            file = framed({**header, name: entry | {field: data.draw(LIES)}}, raw)
        case "drop":
            file = framed({key: value for key, value in header.items() if key != name}, raw)
        case "rename":
            other = data.draw(st.text(max_size=20) | st.just(f"{name}x") | st.just(name.replace("0", "1")))
            file = framed({other if key == name else key: value for key, value in header.items()}, raw)
        case _:
            file = framed(f'{json.dumps(header)[:-1]}, "{name}": {json.dumps(entry)}}}'.encode(), raw)
    return file


def with_all_alphas_or_none(written: Written) -> Written:
    """Kohya's alphas are optional: where one module lacks its own, another's may go astray and be taken for it."""
    alphas = {name for name in written.tensors if name.endswith(".alpha")}
    if len(alphas) == len(written.modules):
        return written
    return replace(written, tensors={name: one for name, one in written.tensors.items() if name not in alphas})


@pytest.mark.parametrize("kind", ["diffusers", "old diffusers", "kohya"])
@given(data=st.data())
@settings(MANY, max_examples=150)
def test_a_spoiled_file_is_refused_or_means_what_it_meant(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """But for configs: another number in one is another adapter, and a good one."""
    written = data.draw(KINDS[kind]("studio").filter(lambda one: "lora_adapter_metadata" not in one.metadata))
    written = with_all_alphas_or_none(written)
    before = meaning(in_file(written, tmp_path), "studio")
    (tmp_path / "file").write_bytes(spoiled(data, written))
    try:
        after = meaning(tmp_path / "file", "studio")
    except LoraError as error:
        found = {problem.code for problem in error.problems}
    else:
        found = set()
        assert after == before
    assert all(code.name.startswith("E_") for code in found)

"""Whatever well-formed adapter is written passes, and what is read back is alpha / rank x B x A of what was written.

The oracle is the numbers that were drawn, in drawn_files.py.
"""

import json
import math
import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from looksmith.lora import LoraError, inspect, read_modules, read_weights
from tests.unit.looksmith.lora.drawn_files import FAMILIES, KINDS, LAYERS, TABLES, Written, in_file, stability_name
from tests.unit.looksmith.lora.lora_files import Tensor, described, framed, safetensors, tensor

MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_every_layer_is_found_by_the_name_that_stability_s_code_gives_it(family: str) -> None:
    for path in LAYERS[family]["unet"]:
        found = TABLES[family].find_flat("unet", stability_name(family, path).replace(".", "_"))
        assert (path, found and found[0]) == (path, path)


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
            # BF16 called F16 is other numbers, and a good file
            lie = data.draw(LIES.filter(lambda lie: (entry.get(field), lie) != ("BF16", "F16")))
            file = framed({**header, name: entry | {field: lie}}, raw)
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

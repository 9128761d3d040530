"""Which layers a base model has: its module table, built from a diffusers folder without torch, kept as JSON.

Also the one place that knows how the same layer is named by others: text encoders with and without `text_model.`, and
names flattened by kohya. Knows nothing about adapters.
"""

import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from looksmith.lora import strict_json
from looksmith.lora.header import NAME, read_header
from looksmith.lora.sai import sai_names

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
FORMAT = 1
FAMILY = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
_CROSS_ATTENTION = re.compile(r".*attn2\.to_[kv]")
_EMBEDDINGS = ("token_embedding", "position_embedding", "class_embedding")  # two-dimensional, but looked up


@dataclass(frozen=True)
class Module:
    """A layer that LoRA can adapt. A linear layer's kernel is (1, 1)."""

    kind: Literal["linear", "conv"]
    in_features: int
    out_features: int
    kernel: tuple[int, int] = (1, 1)

    def down_shape(self, rank: int) -> tuple[int, ...]:
        """Shape of A: [rank, in], or [rank, in, height, width] for a convolution."""
        return (rank, self.in_features, *(self.kernel if self.kind == "conv" else ()))

    def up_shape(self, rank: int) -> tuple[int, ...]:
        """Shape of B: [out, rank], or [out, rank, 1, 1] for a convolution."""
        return (self.out_features, rank, *((1, 1) if self.kind == "conv" else ()))


@dataclass(frozen=True)
class ModuleTable:
    """The adaptable layers of one base, by component and by the module path that diffusers' and peft's files use."""

    family: str
    digest: str  # names the base's exact weights; opaque here; empty: whatever weights the family has
    components: Mapping[str, Mapping[str, Module]]

    def __post_init__(self) -> None:
        if not FAMILY.fullmatch(self.family):
            raise ValueError(f"{self.family!r} is not a family name: lower case letters, digits and '_'")
        for component, modules in self.components.items():
            if component not in COMPONENTS or not modules:
                raise ValueError(f"component {component!r} is unknown or has no modules")
            if bad := [path for path in modules if not NAME.fullmatch(path) or table_path(component, path) != path]:
                raise ValueError(f"{component} has the impossible module path {bad[0]!r}")
        if not self._flat:  # building it finds names that cannot be told apart
            raise ValueError("a module table needs a component")

    def find(self, component: str, path: str) -> tuple[str, Module] | None:
        """The table's own path and module for a dotted path, with or without `text_model.`."""
        path = table_path(component, path)
        module = self.components.get(component, {}).get(path)
        return None if module is None else (path, module)

    def find_flat(self, component: str, name: str) -> tuple[str, Module] | None:
        """The same for a name flattened by kohya, in the block names of diffusers or of Stability's own code."""
        path = self._flat.get(component, {}).get(name)
        return None if path is None else (path, self.components[component][path])

    @cached_property
    def context_widths(self) -> frozenset[int]:
        """Widths of the text embeddings that the UNet attends to; they tell families apart."""
        unet = self.components.get("unet", {})
        return frozenset(module.in_features for path, module in unet.items() if _CROSS_ATTENTION.fullmatch(path))

    @cached_property
    def _flat(self) -> dict[str, dict[str, str]]:
        """Component -> flattened name -> path. Only a table can undo the flattening: to_out_0 was to_out.0."""
        index: dict[str, dict[str, str]] = {}
        for component, modules in self.components.items():
            names = [(path, path) for path in modules]
            if component == "unet":
                names += [(alias, path) for path, alias in sai_names(modules).items()]
            else:
                names += [(path.removeprefix("text_model."), path) for path in modules]
            flat: dict[str, str] = {}
            for name, path in names:
                if flat.setdefault(name.replace(".", "_"), path) != path:
                    raise ValueError(
                        f"{component}: {path} and {flat[name.replace('.', '_')]} look alike when flattened"
                    )
            index[component] = flat
        return index


def table_path(component: str, path: str) -> str:
    """The path that tables use, which in text encoders begins with `text_model.`.

    From version 5 on, transformers calls CLIPTextModel's layers `encoder.…` in memory, and so does what peft saves
    there; model files, older adapters and CLIPTextModelWithProjection say `text_model.encoder.…`.
    """
    flattened = component != "unet" and path.startswith(("encoder.", "embeddings."))
    return f"text_model.{path}" if flattened else path


def table_from_folder(folder: Path, *, family: str, digest: str) -> ModuleTable:
    """Reads the headers of a diffusers folder's safetensors files; sharded files and precision variants add up.

    Raises:
        LoraError: a file breaks the rules of header.py.
        ValueError: the folder holds none of the components, or two files disagree about a layer.
    """
    components: dict[str, dict[str, Module]] = {}
    for component in COMPONENTS:
        for file in sorted((folder / component).glob("*.safetensors")):
            modules = components.setdefault(component, {})
            for path, module in _layers(file):
                if modules.setdefault(table_path(component, path), module) != module:
                    raise ValueError(f"{file} has another {path} than the files before it")
    if not components:
        raise ValueError(f"{folder} holds no safetensors file below any of {', '.join(COMPONENTS)}")
    return ModuleTable(family, digest, components)


def _layers(file: Path) -> Iterator[tuple[str, Module]]:
    for tensor in read_header(file).tensors.values():
        path, _, kind = tensor.name.rpartition(".")
        if kind != "weight" or path.endswith(_EMBEDDINGS):
            continue
        match tensor.shape:
            case (outputs, inputs):
                yield path, Module("linear", inputs, outputs)
            case (outputs, inputs, height, width):
                yield path, Module("conv", inputs, outputs, (height, width))


def table_to_json(table: ModuleTable) -> str:
    """One line a module, sorted, so that a diff shows what changed: [in, out], or [in, out, height, width]."""

    def line(path: str, module: Module) -> str:
        kernel = module.kernel if module.kind == "conv" else ()
        return f"      {json.dumps(path)}: {json.dumps([module.in_features, module.out_features, *kernel])}"

    components = ",\n".join(
        f"    {json.dumps(component)}: {{\n" + ",\n".join(line(*item) for item in sorted(modules.items())) + "\n    }"
        for component, modules in sorted(table.components.items())
    )
    return (
        f'{{\n  "format": {FORMAT},\n  "family": {json.dumps(table.family)},\n  "digest": {json.dumps(table.digest)},\n'
        f'  "components": {{\n{components}\n  }}\n}}\n'
    )


def table_from_json(text: str) -> ModuleTable:
    """Reads what table_to_json wrote.

    Raises:
        ValueError: the text is not such a table.
    """
    match strict_json.loads(text, "the module table"):
        case {"format": 1, "family": str(family), "digest": str(digest), "components": dict(components)}:
            return ModuleTable(family, digest, {name: _modules(name, rows) for name, rows in components.items()})
        case _:
            raise ValueError(f"not a module table of format {FORMAT}")


def _modules(component: str, rows: object) -> dict[str, Module]:
    if not isinstance(rows, dict):
        raise ValueError(f"component {component!r} of the module table is not an object")  # noqa: TRY004  # bad data, not a bad call
    modules: dict[str, Module] = {}
    for path, row in rows.items():
        if not isinstance(row, list) or not all(type(size) is int and size > 0 for size in row):
            raise ValueError(f"{component}.{path}: {row} is not a list of positive integers")
        match row:
            case [inputs, outputs]:
                modules[path] = Module("linear", inputs, outputs)
            case [inputs, outputs, height, width]:
                modules[path] = Module("conv", inputs, outputs, (height, width))
            case _:
                raise ValueError(f"{component}.{path}: {row} is neither [in, out] nor [in, out, height, width]")
    return modules


def packaged_table(family: str) -> ModuleTable:
    """The table of a base that ships with Looksmith.

    Raises:
        LookupError: no table of that family is packaged.
    """
    file = importlib.resources.files("looksmith.lora") / "bases" / f"{family}.json"
    if not FAMILY.fullmatch(family) or not file.is_file():
        raise LookupError(f"no module table of the family {family!r} is packaged")
    return table_from_json(file.read_text("utf-8"))

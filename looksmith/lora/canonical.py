"""Turns a file's header into canonical modules: which layer of the base, of what rank, at what alpha.

Everything but the values of kohya's alpha tensors is decided by the header and the base's table alone, so that a bad
file is refused before its data arrive. Knows nothing about bytes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from looksmith.lora.dialects import DIFFUSERS_CONFIG_KEY, PEFT_CONFIG_KEY, Dialect, Pair, Reading, recognise
from looksmith.lora.errors import Code, LoraError, Problem, refusal, shown
from looksmith.lora.floats import SCALAR_DTYPES, WEIGHT_DTYPES
from looksmith.lora.header import Header
from looksmith.lora.limits import Limits
from looksmith.lora.peft_config import PeftConfig, checked_alpha, peft_config, read_config
from looksmith.lora.tables import COMPONENTS, Module, ModuleTable

_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]$")  # in dotted and flattened names
_MODELS_BY_CONTEXT_WIDTH = {768: "a Stable Diffusion 1", 1024: "a Stable Diffusion 2", 2048: "an SDXL"}


@dataclass(frozen=True)
class LoraModule:
    """One adapted layer, the same whatever dialect it came in: W + alpha / rank * B A."""

    component: str  # unet, text_encoder or text_encoder_2
    path: str  # as in the base's module table
    kind: Literal["linear", "conv"]
    rank: int
    alpha: float  # effective: rsLoRA is already in it
    in_features: int
    out_features: int
    kernel: tuple[int, int]  # of A; B's is (1, 1)
    down: str  # name of A's tensor, [rank, in] or [rank, in, height, width]
    up: str  # name of B's tensor, [out, rank] or [out, rank, 1, 1]

    @property
    def name(self) -> str:
        return f"{self.component}.{self.path}"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def parameters(self) -> int:
        height, width = self.kernel
        return self.rank * (self.in_features * height * width + self.out_features)


@dataclass(frozen=True)
class Plan:
    """A file that its header shows to fit the base. Alphas kept in tensors are not known yet, and stand at the rank."""

    dialect: Dialect
    modules: tuple[LoraModule, ...]  # sorted by component and path
    alpha_tensors: Mapping[str, str]  # a module's name -> the name of its alpha's tensor

    def settle(self, scalars: Mapping[str, float], limits: Limits) -> tuple[LoraModule, ...]:
        """The modules with every alpha in place.

        Args:
            scalars: values of the tensors named in alpha_tensors, and of any others.
            limits: the scales that may come out.

        Raises:
            LoraError: E_ALPHA.
        """
        modules = tuple(self._with_alpha(module, scalars) for module in self.modules)
        for module in modules:
            if not limits.least_scale <= module.scale <= limits.scale:
                side = f"above {limits.scale:g}" if module.scale > 1 else f"below {limits.least_scale:g}"
                what = f"{module.name} has alpha {module.alpha:g} at rank {module.rank}, a scale {side}"
                raise refusal(Code.E_ALPHA, what, module.name)
        return modules

    def _with_alpha(self, module: LoraModule, scalars: Mapping[str, float]) -> LoraModule:
        tensor = self.alpha_tensors.get(module.name)
        if tensor is None:
            return module
        alpha = scalars[tensor] or module.rank  # 0 means the rank, as in sd-scripts' networks/lora.py
        return replace(module, alpha=checked_alpha(alpha, f"tensor {tensor}"))


def canonicalise(header: Header, table: ModuleTable, limits: Limits) -> Plan:
    """Finds the base's layer for every pair of tensors.

    Raises:
        LoraError: as recognise and peft_config, and E_BASE, E_MODULE, E_SHAPE, E_PAIR, E_RANK, E_ALPHA or E_DTYPE;
            several problems together where several modules have them.
    """
    reading = recognise(header)
    _refuse_other_base(reading, table)
    peft_component = _component_of(reading, table) if reading.dialect is Dialect.PEFT else ""
    configs = _configs(reading, header.metadata)
    problems = list(reading.problems)
    modules: dict[str, LoraModule] = {}
    alpha_tensors: dict[str, str] = {}
    for pair in reading.pairs:
        if len(problems) >= limits.problems:
            break
        component = pair.component or peft_component
        find = table.find_flat if reading.dialect is Dialect.KOHYA else table.find
        found = find(component, pair.module)
        if found is None:
            what = f"base {table.family} has no module {pair.module} in its {component}"
            problems.append(Problem(Code.E_MODULE, what, pair.down.name))
            continue
        path, layer = found
        config = configs.get(component)
        if faults := list(_faults(pair, layer, config, limits)):
            problems += faults
            continue
        module = _module(component, path, layer, pair, config)
        if module.name in modules:
            twice = f"tensors {modules[module.name].down} and {module.down} adapt the same module"
            problems.append(Problem(Code.E_PAIR, twice, module.down))
        modules[module.name] = module
        if pair.alpha:
            alpha_tensors[module.name] = pair.alpha.name
    if problems:
        raise LoraError(*problems[: limits.problems])
    ordered = sorted(modules.values(), key=lambda module: (COMPONENTS.index(module.component), module.path))
    return Plan(reading.dialect, tuple(ordered), alpha_tensors)


def _module(component: str, path: str, layer: Module, pair: Pair, config: PeftConfig | None) -> LoraModule:
    rank = pair.down.shape[0]
    return LoraModule(
        component=component,
        path=path,
        kind=layer.kind,
        rank=rank,
        alpha=config.alpha_of(pair.module, rank) if config else float(rank),
        in_features=layer.in_features,
        out_features=layer.out_features,
        kernel=layer.kernel,
        down=pair.down.name,
        up=pair.up.name,
    )


def _faults(pair: Pair, layer: Module, config: PeftConfig | None, limits: Limits) -> Iterator[Problem]:
    """What keeps a pair from being added to the layer it names."""
    for tensor in (pair.down, pair.up):
        if tensor.dtype not in WEIGHT_DTYPES:
            yield Problem(Code.E_DTYPE, f"tensor {tensor.name} is {tensor.dtype}", tensor.name)
    if pair.alpha and pair.alpha.dtype not in SCALAR_DTYPES:
        yield Problem(Code.E_DTYPE, f"tensor {pair.alpha.name} is {pair.alpha.dtype}", pair.alpha.name)
    if pair.alpha and pair.alpha.elements != 1:
        what = f"tensor {pair.alpha.name} has {pair.alpha.elements} elements instead of one"
        yield Problem(Code.E_ALPHA, what, pair.alpha.name)
    down, up = pair.down.shape, pair.up.shape
    if len(down) < 2 or down != layer.down_shape(down[0]):
        yield _misfit(pair.down.name, down, layer.down_shape(down[0] if down else 0))
    elif len(up) < 2 or up != layer.up_shape(up[1]):
        yield _misfit(pair.up.name, up, layer.up_shape(down[0]))
    elif down[0] != up[1]:
        what = f"tensors {pair.down.name} and {pair.up.name} have the ranks {down[0]} and {up[1]}"
        yield Problem(Code.E_PAIR, what, pair.module)
    elif down[0] > limits.rank:
        what = f"tensor {pair.down.name} has rank {down[0]}; at most {limits.rank} is served"
        yield Problem(Code.E_RANK, what, pair.down.name)
    elif config and down[0] != config.rank_of(pair.module):
        what = f"tensor {pair.down.name} has rank {down[0]}, but its config says {config.rank_of(pair.module)}"
        yield Problem(Code.E_RANK, what, pair.down.name)


def _misfit(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Problem:
    return Problem(
        Code.E_SHAPE, f"tensor {name} has the shape {list(shape)}; the base's layer needs {list(wanted)}", name
    )


def _configs(reading: Reading, metadata: Mapping[str, str]) -> Mapping[str, PeftConfig]:
    """The LoraConfig of each component; empty where alpha is the rank, or in tensors."""
    if reading.dialect is Dialect.PEFT:
        config = peft_config(read_config(metadata[PEFT_CONFIG_KEY], PEFT_CONFIG_KEY), PEFT_CONFIG_KEY)
        return dict.fromkeys(COMPONENTS, config)
    if DIFFUSERS_CONFIG_KEY not in metadata:
        return {}
    fields = read_config(metadata[DIFFUSERS_CONFIG_KEY], DIFFUSERS_CONFIG_KEY)
    if not isinstance(fields, dict):
        raise refusal(Code.E_FORMAT, f"{DIFFUSERS_CONFIG_KEY} is not a JSON object", DIFFUSERS_CONFIG_KEY)
    by_component: dict[str, dict[str, object]] = {}
    for key, value in fields.items():
        component, _, name = key.partition(".")
        if component not in COMPONENTS:
            raise refusal(
                Code.E_FORMAT, f"{DIFFUSERS_CONFIG_KEY} has the unknown field {shown(key)}", DIFFUSERS_CONFIG_KEY
            )
        by_component.setdefault(component, {})[name] = value
    for pair in reading.pairs:
        if pair.component not in by_component:
            what = f"{DIFFUSERS_CONFIG_KEY} says nothing about {pair.component}, which the file adapts"
            raise refusal(Code.E_ALPHA_MISSING, what, DIFFUSERS_CONFIG_KEY)
    return {name: peft_config(config, f"{DIFFUSERS_CONFIG_KEY}, {name}") for name, config in by_component.items()}


def _component_of(reading: Reading, table: ModuleTable) -> str:
    """Which component a peft folder adapts: the one where the most pairs fit; a tie is refused."""

    def fitting(component: str) -> int:
        layers = ((pair, table.find(component, pair.module)) for pair in reading.pairs)
        return sum(found is not None and pair.down.shape[1:] == found[1].down_shape(0)[1:] for pair, found in layers)

    counts = {component: fitting(component) for component in table.components}
    best = [component for component, count in counts.items() if count == max(counts.values())]
    if len(best) > 1 and counts[best[0]]:
        raise refusal(
            Code.E_FORMAT, f"the PEFT folder fits {' and '.join(best)} alike and does not say which it is for"
        )
    return best[0]


def _refuse_other_base(reading: Reading, table: ModuleTable) -> None:
    """Recognises LoRAs for another family, whose many misfits would say less than one sentence does."""
    widths = {
        pair.down.shape[1]
        for pair in reading.pairs
        if "attn2" in pair.module and _CROSS_ATTENTION.search(pair.module) and len(pair.down.shape) > 1
    }
    if widths and table.context_widths and not widths & table.context_widths:
        width, own = min(widths), min(table.context_widths)
        model = _MODELS_BY_CONTEXT_WIDTH.get(width, "another model's")
        what = f"this looks like {model} LoRA: its text embeddings are {width} wide; base {table.family} takes {own}"
        raise refusal(Code.E_BASE, what)
    for pair in reading.pairs:
        if pair.component and pair.component not in table.components:
            what = f"the file adapts {pair.component}, which base {table.family} does not have"
            raise refusal(Code.E_BASE, what, pair.component)

"""What a peft LoraConfig says about the weights beside it: rank, alpha and scale of each module.

Reads adapter_config.json, the copy of it in a packed file, and diffusers' `lora_adapter_metadata`, which are one and
the same thing under three names. Refuses every setting that would make the weights mean something else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Generic, TypeVar

from looksmith.lora import strict_json
from looksmith.lora.errors import Code, refusal, shown

#: Settings that say how the adapter was trained, or what its tensor names say better. They change no picture.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
})  # fmt: skip
MEANINGFUL = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"})

MOST_BRACKETS = 1000  # a config has some ten

#: Starts that leave the base's weights alone. The others (pissa, olora, corda, loftq...) move part of the base into
#: the adapter, which then fits the remainder only.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

# peft takes pattern keys for regular expressions. Those in use are plain names, often with ^ before them; running
# other people's expressions could take forever.
_PATTERN_KEY = re.compile(r"(\^?)((?:[A-Za-z0-9_]|\\?\.)+)\$?")
_LONGEST_KEY = 1024  # a module name with each dot escaped is shorter; longer ones only cost the matcher memory

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModulePattern(Generic[_T]):
    """Values for single modules, as in rank_pattern and alpha_pattern.

    A key means the module of that path and, unless it begins with ^, any whose path ends with a dot and the key. Of
    several keys that fit, the first counts (peft.utils.other.get_pattern_key).
    """

    entries: Mapping[str, _T]

    @cached_property
    def _index(self) -> dict[str, tuple[int, _T]]:
        """Plain form of each key -> its place and value, so that a lookup need not try thousands of keys."""
        index: dict[str, tuple[int, _T]] = {}
        for place, (key, value) in enumerate(self.entries.items()):
            index.setdefault(key.replace("\\", "").removesuffix("$"), (place, value))
        return index

    def get(self, path: str, default: _T) -> _T:
        if not self.entries:
            return default
        parts = path.split(".")
        names = [f"^{path}", *(".".join(parts[i:]) for i in range(len(parts)))]
        found = [self._index[name] for name in names if name in self._index]
        return min(found, key=itemgetter(0))[1] if found else default


@dataclass(frozen=True)
class PeftConfig:
    """The part of a LoraConfig that decides what the weights mean."""

    rank: int
    alpha: float
    rank_pattern: ModulePattern[int]
    alpha_pattern: ModulePattern[float]
    rslora: bool

    def rank_of(self, path: str) -> int:
        return self.rank_pattern.get(path, self.rank)

    def alpha_of(self, path: str, rank: int) -> float:
        """Alpha for which the scale is alpha / rank. rsLoRA's scale is lora_alpha / sqrt(rank) (arXiv 2312.03732)."""
        alpha = self.alpha_pattern.get(path, self.alpha)
        return alpha * math.sqrt(rank) if self.rslora else alpha

    def to_json(self) -> str:
        """The same config always gives the same text. Patterns keep their order, which has a meaning."""
        return json.dumps(
            {
                "peft_type": "LORA",
                "r": self.rank,
                "lora_alpha": self.alpha,
                "rank_pattern": dict(self.rank_pattern.entries),
                "alpha_pattern": dict(self.alpha_pattern.entries),
                "use_rslora": self.rslora,
            }
        )


def read_config(text: bytes | str, where: str) -> object:
    """The fields of a LoraConfig, or of several in one object, from JSON.

    Raises:
        LoraError: E_JSON.
    """
    return strict_json.loads(text, where, most_brackets=MOST_BRACKETS)


def peft_config(fields: object, where: str) -> PeftConfig:
    """Checks the fields of a LoraConfig; where names their place in errors.

    Raises:
        LoraError: E_FORMAT, E_UNSUPPORTED, E_RANK, E_ALPHA or E_ALPHA_MISSING.
    """
    if not isinstance(fields, dict):
        raise refusal(Code.E_FORMAT, f"{where} is not a JSON object", where)
    if (kind := fields.get("peft_type", "LORA")) != "LORA":
        raise refusal(Code.E_UNSUPPORTED, f"{where} is for {shown(kind)} and not for LORA", "peft_type")
    if (start := fields.get("init_lora_weights")) not in PLAIN_STARTS:
        raise refusal(
            Code.E_UNSUPPORTED, f"{where}: init_lora_weights {shown(start)} also changes the base", "init_lora_weights"
        )
    for name, value in fields.items():
        if name not in HARMLESS | MEANINGFUL and value and value != "none":
            raise refusal(Code.E_UNSUPPORTED, f"{where} asks for {shown(name)} = {shown(value)}", shown(name))
    if fields.get("lora_alpha") is None:
        raise refusal(Code.E_ALPHA_MISSING, f"{where} has no lora_alpha", "lora_alpha")
    rslora = fields.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise refusal(Code.E_FORMAT, f"{where}: use_rslora is {shown(rslora)}, not true or false", "use_rslora")
    return PeftConfig(
        rank=_rank(fields.get("r"), f"{where}: r"),
        alpha=_alpha(fields["lora_alpha"], f"{where}: lora_alpha"),
        rank_pattern=ModulePattern(
            {key: _rank(value, f"{where}: rank_pattern") for key, value in _entries(fields, "rank_pattern")}
        ),
        alpha_pattern=ModulePattern(
            {key: _alpha(value, f"{where}: alpha_pattern") for key, value in _entries(fields, "alpha_pattern")}
        ),
        rslora=rslora,
    )


def _entries(fields: Mapping[str, object], name: str) -> list[tuple[str, object]]:
    pattern = fields.get(name) or {}
    if not isinstance(pattern, dict):
        raise refusal(Code.E_FORMAT, f"{name} is {shown(pattern)}, not an object", name)
    for key in pattern:
        if len(key) > _LONGEST_KEY or not _PATTERN_KEY.fullmatch(key):
            raise refusal(
                Code.E_UNSUPPORTED, f"{name} has the expression {shown(key)}; only module names are read", name
            )
    return list(pattern.items())


def _rank(value: object, where: str) -> int:
    if type(value) is not int or value <= 0:
        raise refusal(Code.E_RANK, f"{where} is {shown(value)}, not a positive integer", where)
    return value


def _alpha(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(Code.E_ALPHA, f"{where} is {shown(value)}, not a number", where)
    return checked_alpha(value, where)


def checked_alpha(value: float, where: str) -> float:
    """The alpha as a float.

    Raises:
        LoraError: E_ALPHA unless it is finite and above zero.
    """
    try:
        alpha = float(value)
    except OverflowError:
        alpha = math.inf
    if not (math.isfinite(alpha) and alpha > 0):
        raise refusal(Code.E_ALPHA, f"{where} is {alpha}, not a finite number above zero", where)
    return alpha

"""Which modules hold targets. Imports them when asked, since atheris follows only what it sees being imported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from benchmarks.fuzzing.target import Target

#: By what their targets' names begin with.
GROUPS: Mapping[str, str] = {
    "adapters": "adapter_files",
    "texts": "texts",
    "stored": "stored",
    "calls": "calls",
}


def targets_of(group: str) -> dict[str, Target]:
    """By name. Raises: KeyError, if there is no such group."""
    module = importlib.import_module(f"benchmarks.fuzzing.{GROUPS[group]}")
    return {target.name: target for target in module.TARGETS}


def target_named(name: str) -> Target:
    """Raises: KeyError."""
    return targets_of(name.partition("/")[0])[name]

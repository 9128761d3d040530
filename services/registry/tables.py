"""Which bases adapters can be published for: the module tables that ship, and those of a folder.

Knows where tables come from; what is in one is looksmith.lora's.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from looksmith.lora import ModuleTable, packaged_table, table_from_json


def load_tables(folder: Path | None) -> Mapping[str, ModuleTable]:
    """Tables by family; one in the folder, ``<any name>.json``, replaces the packaged one of its family.

    Raises:
        ValueError: a file of the folder is not a module table, or two are of one family.
        OSError: the folder cannot be read.
    """
    tables = {family: packaged_table(family) for family in _packaged_families()}
    own: dict[str, ModuleTable] = {}
    for file in sorted(folder.iterdir()) if folder else ():
        if file.suffix != ".json":
            continue
        try:
            table = table_from_json(file.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        if table.family in own:
            raise ValueError(f"{file} is a second table of the family {table.family!r}")
        own[table.family] = table
    return {**tables, **own}


def _packaged_families() -> list[str]:
    bases = importlib.resources.files("looksmith.lora") / "bases"
    return sorted(file.name.removesuffix(".json") for file in bases.iterdir()) if bases.is_dir() else []

"""Writes the module tables of the published bases into looksmith.lora, which checks adapters without loading a base.

Their digest is empty: such a table stands for a whole family, whatever its weights. Knows nothing about adapters.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import bases
from looksmith import lora
from looksmith.lora import ModuleTable, table_to_json
from looksmith.lora.tables import COMPONENTS
from services.gpu_worker.engine.model_table import table_of

TABLES = Path(lora.__file__).parent / "bases"


def family_table(family: str) -> ModuleTable:
    """A family's layers, from its configs alone."""
    models = {
        component: bases.new_model(family, component, device="meta")
        for component in COMPONENTS
        if (bases.FOLDERS[family] / component).is_dir()
    }
    return table_of(models, family=family, digest="")


def main() -> None:
    for family in bases.FAMILIES:
        (TABLES / f"{family}.json").write_text(table_to_json(family_table(family)))


if __name__ == "__main__":
    main()

"""Writes the module tables of the published bases into looksmith.lora, which checks adapters without loading a base.

Their digest is empty: such a table stands for a whole family, whatever its weights. Knows nothing about adapters.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from benchmarks import bases
from looksmith import lora
from looksmith.lora import Module, ModuleTable, table_to_json
from looksmith.lora.tables import COMPONENTS, table_path

TABLES = Path(lora.__file__).parent / "bases"


def table_of(family: str) -> ModuleTable:
    """The linear and convolution layers of a base's UNet and text encoders, from its configs alone."""
    return ModuleTable(
        family,
        "",
        {
            component: {
                table_path(component, path): layer
                for path, module in bases.new_model(family, component, device="meta").named_modules()
                if (layer := _layer(module))
            }
            for component in COMPONENTS
            if (bases.FOLDER / family / component).is_dir()
        },
    )


def _layer(module: nn.Module) -> Module | None:
    match module:
        case nn.Linear():
            return Module("linear", module.in_features, module.out_features)
        case nn.Conv2d(kernel_size=(int(height), int(width))):
            return Module("conv", module.in_channels, module.out_channels, (height, width))
        case _:
            return None


def main() -> None:
    for family in bases.FAMILIES:
        (TABLES / f"{family}.json").write_text(table_to_json(table_of(family)))


if __name__ == "__main__":
    main()

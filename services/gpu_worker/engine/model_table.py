"""The layers of loaded models that LoRA can adapt, as a module table. Knows nothing about files or adapters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from looksmith.lora import Module, ModuleTable
from looksmith.lora.tables import COMPONENTS, table_path


def table_of(models: Mapping[str, nn.Module], *, family: str, digest: str) -> ModuleTable:
    """The linear and convolution layers of a base's UNet and text encoders; models on the device "meta" do.

    ``digest`` names their weights; empty: the table stands for a whole family.
    """
    return ModuleTable(
        family,
        digest,
        {
            component: {
                table_path(component, path): layer
                for path, module in model.named_modules()
                if (layer := _layer(module))
            }
            for component, model in models.items()
            if component in COMPONENTS
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

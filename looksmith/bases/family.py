"""What kind of model a base is, as its own files say. Knows the common ones; of others it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from looksmith.bases.weights import read_head

#: Where an original checkpoint keeps its text encoders.
_ENCODERS = {
    "conditioner.embedders.1.": "sdxl",
    "cond_stage_model.transformer.": "sd15",
    "cond_stage_model.model.": "sd2",
}
#: Width of the text that the UNet of a StableDiffusionPipeline reads.
_WIDTHS: dict[Any, str] = {768: "sd15", 1024: "sd2"}


def family_of(base: Path) -> str:
    """Of a diffusers folder or of a file in Stability's own layout; empty: they don't say."""
    if base.is_file():
        names = read_head(base)
        return next((family for prefix, family in _ENCODERS.items() if any(n.startswith(prefix) for n in names)), "")
    pipeline = str(_read(base / "model_index.json").get("_class_name", ""))
    if pipeline.startswith("StableDiffusionXL"):
        return "sdxl"
    if pipeline == "StableDiffusionPipeline":
        return _WIDTHS.get(_read(base / "unet" / "config.json").get("cross_attention_dim"), "")
    return ""


def _read(file: Path) -> dict[Any, Any]:
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}

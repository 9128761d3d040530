"""Says what was measured: prints figures beside what must hold, and keeps them with the machine they are of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: By figure: "<=" or ">=", and the bar.
Bars = Mapping[str, tuple[str, float]]


def report(figures: Mapping[str, float], bars: Bars, *, file: Path | None, **about: object) -> bool:
    """Prints a line a figure; whether none falls short of its bar.

    Args:
        figures: by name.
        bars: of some of them.
        file: gets the figures as JSON, if given.
        about: stands before them there.
    """
    all_held = True
    for name, value in figures.items():
        sign, bar = bars.get(name, ("", 0.0))
        held = value >= bar if sign == ">=" else value <= bar if sign else True
        all_held = all_held and held
        told = "" if not sign else "  ok" if held else "  FALLS SHORT"
        print(f"{name:28s} {value:12.3f}  {f'{sign} {bar:g}' if sign else ''}{told}")
    if file:
        file.write_text(json.dumps({"machine": machine(), **about, **figures}, indent=2) + "\n")
    return all_held


def machine() -> dict[str, Any]:
    import torch  # noqa: PLC0415  # heavy, and reads its threads on import

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{package: version(package) for package in ("torch", "diffusers", "peft")},
    }

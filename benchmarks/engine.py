"""Measures the worker's engine beside what a user would pick instead, all in one process: ``--json`` keeps the figures.

python -m benchmarks.engine --json FILE [--model studio|sd15|sdxl] [--only swaps,batches] [--device cuda]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Bars, report

#: What must hold, and which way, on a CPU; of swaps with SDXL's widths.
BARS: Bars = {
    "swap_vs_load": (">=", 60),
    "swap_vs_hotswap": (">=", 12),
    "cold_file_vs_load": (">=", 10),
    "flatness_256": ("<=", 1.1),
    "mixed_vs_serial": (">=", 1.3),
    "mixed_vs_peft_mixed": (">=", 1.1),
    "mixed_vs_one_brand": (">=", 0.95),
    "bank_vs_base": ("<=", 1.35),
    "interleaved_vs_single": (">=", 0.95),
    "control_visible_swap_ms": (">=", 150),
    "rpc_vs_pipeline": (">=", 1.25),
    "rpc_latency_vs_pipeline": ("<=", 1.05),
    "sixteen_vs_serial": (">=", 1.5),
    "cold_brand_extra_ms": ("<=", 300),
    "budget_2x": (">=", 0.85),
    "budget_4x": (">=", 0.7),
}

#: What is measured on which model. Swaps take real widths; whole pictures a model that paints.
PARTS = {
    "studio": ("service", "batches", "steps", "many"),
    "sd15": ("swaps",),
    "sdxl": ("swaps", "flatness", "hidden"),
}
FULL_WIDTH = "sdxl"
EVERYTHING = (*PARTS["sdxl"], *PARTS["studio"])


def measure(parts: list[str], *, model: str, device: str, threads: int, repeats: int) -> dict[str, float]:
    # Heavy: after the arguments are known to be good, and after the number of threads is set
    from benchmarks.batches import batches, many_brands  # noqa: PLC0415
    from benchmarks.flatness import flatness  # noqa: PLC0415
    from benchmarks.hidden_swaps import hidden_swaps  # noqa: PLC0415
    from benchmarks.service import service  # noqa: PLC0415
    from benchmarks.steps import steps  # noqa: PLC0415
    from benchmarks.swaps import swaps  # noqa: PLC0415

    run: dict[str, Callable[[], dict[str, float]]] = {
        "swaps": lambda: swaps(model, device=device, repeats=repeats),
        "flatness": lambda: flatness(device=device, repeats=repeats),
        "hidden": lambda: hidden_swaps(device=device),
        "batches": lambda: batches(threads=threads, repeats=3 * repeats),
        "steps": lambda: steps(threads=threads, repeats=3 * repeats),
        "service": lambda: service(threads=threads, repeats=repeats),
        "many": lambda: many_brands(threads=threads, repeats=repeats),
    }
    figures: dict[str, float] = {}
    for part in parts:
        figures |= run[part]()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--model", choices=PARTS, help="only what is measured on this one; else studio's and sdxl's")
    parser.add_argument("--only", help="only these parts, separated by commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the swaps")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    parts = (arguments.only or ",".join(PARTS.get(arguments.model, EVERYTHING))).split(",")
    figures = measure(
        parts,
        model=FULL_WIDTH if arguments.model in {None, "studio"} else arguments.model,
        device=arguments.device,
        threads=arguments.threads,
        repeats=arguments.repeats,
    )
    bars = BARS if arguments.model != "sd15" else {}
    report(figures, bars, file=arguments.json, parts=parts)


if __name__ == "__main__":
    main()

"""Rebuilds the studio model: ``make studio``. Runs the stages whose outputs are missing, in order.

A stage that is interrupted goes on from its own checkpoint; ``--from STAGE`` builds that stage and all later ones anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from models.studio import distill, files, judge, module_table, tokenizer, train_base, train_brand, train_vae
from models.studio.files import STUDIO


def brand_stage(adapter: train_brand.Adapter) -> tuple[str, Path, Callable[[], None]]:
    return f"brand-{adapter.look}", adapter.path, lambda: train_brand.train(adapter)


#: Name, what it leaves behind, and how.
STAGES: list[tuple[str, Path, Callable[[], None]]] = [
    ("tokenizer", STUDIO / "base" / "tokenizer", tokenizer.save),
    ("vae", STUDIO / "base" / "vae", train_vae.train),
    ("base", STUDIO / "base" / "unet", train_base.train),
    ("module-table", module_table.FILE, module_table.write),
    ("judge", judge.FILE, judge.train),
    *(brand_stage(adapter) for adapter in train_brand.ADAPTERS),
    ("distill", distill.FOLDER, distill.train),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--from", dest="first", choices=[name for name, *_ in STAGES], help="build this stage and all later ones anew"
    )
    first = parser.parse_args().first
    names = [name for name, *_ in STAGES]
    for name, output, train in STAGES:
        if output.exists() and (first is None or names.index(name) < names.index(first)):
            print(f"{name}: there ({output.name})")
            continue
        train()
    files.write_manifest()


if __name__ == "__main__":
    main()

"""Recipe files that ship, written anew for reduced bases and small pictures, with what a test changes in them.

Bases and distillations are benchmarks.reduced_bases'.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from benchmarks.reduced_bases import SIDE, World


def written(world: World, name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """A shipped recipe of the world's in ``folder``; each change, (text, other text), must find its text."""
    text = (world.folder / "deploy" / "recipes" / world.family / f"{name}.toml").read_text()
    text = text.replace('"../../../bases/', f'"{world.folder}/bases/')
    text = re.sub(r"^sizes = .*$", f"sizes = [[{SIDE}, {SIDE}]]", text, flags=re.MULTILINE)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def from_single_file(world: World, name: str, folder: Path) -> Path:
    """A shipped recipe whose base is one file, beside configs and no tokenizer."""
    base = world.folder / "bases" / world.family
    configs = folder / "configs"
    shutil.copytree(base, configs, ignore=shutil.ignore_patterns("tokenizer*", "*.safetensors"))
    return written(world, name, folder, (f'"{base}"', f'"{base}.safetensors"\nconfig = "{configs}"'))


def line_of(file: Path, key: str) -> int:
    """Where a key stands, by its dotted name; 0: nowhere."""
    table, _, name = key.rpartition(".")
    lines = file.read_text().splitlines()
    start = lines.index(f"[{table}]") if table else 0
    found = (number for number, line in enumerate(lines, start=1) if number > start and line.startswith(f"{name} ="))
    return next(found, 0)

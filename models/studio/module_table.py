"""Writes the base's module table into looksmith.lora, which checks adapters against it without loading the base."""

from __future__ import annotations

from pathlib import Path

from looksmith import lora
from looksmith.lora import table_from_folder, table_to_json
from models.studio.files import STUDIO
from models.studio.training import replace_file
from services.gpu_worker.engine.recipe import base_digest

FILE = Path(lora.__file__).parent / "bases" / "studio.json"


def write() -> None:
    base = STUDIO / "base"
    table = table_from_folder(base, family="studio", digest=base_digest(base))
    replace_file(FILE, lambda beside: beside.write_text(table_to_json(table)))


if __name__ == "__main__":
    write()

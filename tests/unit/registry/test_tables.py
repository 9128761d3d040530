from pathlib import Path

import pytest

from looksmith.lora import table_to_json
from services.registry.tables import load_tables
from tests.unit.looksmith.lora.lora_files import tiny_table


def test_tables_of_a_folder_are_known_by_their_family(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(table_to_json(tiny_table(family="mine")))
    (tmp_path / "notes.txt").write_text("not a table")
    tables = load_tables(tmp_path)
    assert tables["mine"] == tiny_table(family="mine")
    assert set(load_tables(None)) == set(tables) - {"mine"}


def test_a_file_that_is_no_table_or_a_second_one_of_a_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(table_to_json(tiny_table()))
    (tmp_path / "b.json").write_text(table_to_json(tiny_table()))
    with pytest.raises(ValueError, match=r"b\.json is a second table of the family 'tiny'"):
        load_tables(tmp_path)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match=r"b\.json: "):
        load_tables(tmp_path)

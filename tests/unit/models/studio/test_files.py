import json
from pathlib import Path

import pytest

from models.studio.files import FOLDERS, ModelFileError, verify, write_manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "weights.safetensors").write_bytes(folder.encode())
    write_manifest(tmp_path)
    return tmp_path


def test_a_complete_model_passes(model: Path) -> None:
    verify(model)
    assert len(json.loads((model / "manifest.json").read_text())) == len(FOLDERS)


def test_a_missing_file_is_refused_by_name(model: Path) -> None:
    (model / "distill/deep/weights.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"distill/deep/weights\.safetensors is missing"):
        verify(model)


def test_a_changed_file_is_refused_by_name(model: Path) -> None:
    (model / "brands/deep/weights.safetensors").write_bytes(b"other")
    with pytest.raises(ModelFileError, match=r"brands/deep/weights\.safetensors has sha256"):
        verify(model)


def test_a_stranger_is_refused_by_name(model: Path) -> None:
    (model / "base/extra.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"base/extra\.bin is not in manifest\.json"):
        verify(model)

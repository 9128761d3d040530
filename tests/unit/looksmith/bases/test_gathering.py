from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from looksmith.bases.errors import BaseRefused
from looksmith.bases.family import family_of
from looksmith.bases.gathering import gather
from looksmith.bases.manifest import Kind
from tests.unit.looksmith.bases.bases_on_disk import a_file, a_folder, safetensors


def test_a_folder_is_gathered_without_what_is_hidden(tmp_path: Path) -> None:
    base = a_folder(tmp_path / "base", more={".cache/huggingface/x": b"-", "unet/.DS_Store": b"-", "LICENSE.md": b"-"})
    found = gather(base)
    assert found.kind is Kind.FOLDER
    assert [file.path for file in found.files] == [
        "LICENSE.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert found.skipped == (".cache", "unet/.DS_Store")


def test_a_file_is_a_base_by_itself_and_a_link_within_a_folder_is_the_file_it_leads_to(tmp_path: Path) -> None:
    file = a_file(tmp_path)
    assert [(each.path, each.size) for each in gather(file).files] == [("xl.safetensors", file.stat().st_size)]
    base = a_folder(tmp_path / "base")
    (base / "vae/also.safetensors").symlink_to(base / "unet/diffusion_pytorch_model.safetensors")
    (found,) = (each for each in gather(base).files if each.path == "vae/also.safetensors")
    assert found.size == (base / "unet/diffusion_pytorch_model.safetensors").stat().st_size


def link(path: str, target: str) -> Callable[[Path], object]:
    return lambda base: (base / path).symlink_to(target)


def write(path: str, data: bytes) -> Callable[[Path], object]:
    def spoil(base: Path) -> None:
        (base / path).parent.mkdir(exist_ok=True)
        (base / path).write_bytes(data)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        *(
            (write(f"unet/model{suffix}", b"-"), f"unet/model{suffix} is a pickle")
            for suffix in (".bin", ".ckpt", ".pt")
        ),
        (write("unet/MODEL.BIN", b"-"), "unet/MODEL.BIN is a pickle"),
        (link("notes.txt", "/etc/hostname"), "notes.txt is a link that leads out of the folder"),
        (link("notes.txt", "../outside.txt"), "notes.txt is a link that leads out of the folder"),
        (link("also", "unet"), "also is a link to a folder"),
        (link("gone", "nowhere"), "gone is a link to nothing"),
        (lambda base: (base / "empty").mkdir(), "empty/ is an empty folder"),
        (write("hollow/.keep", b""), "hollow/ is an empty folder"),
        (lambda base: os.mkfifo(base / "pipe"), "pipe is no file"),
        (write("unet/a b.json", b"{}"), "unet/a b.json is an odd name"),
        (write("unet/été.json", b"{}"), "is an odd name"),
        (write("unet/Config.json", b"{}"), "unet/Config.json differs from another name in capital letters only"),
        (write("unet/x.safetensors", safetensors(b"long")[:-1]), "and its head speaks of"),
        (write("unet/x.safetensors", b"version https://git-lfs"), "is the pointer that Git LFS leaves"),
        (write("unet/x.safetensors", b"<!DOCTYPE html>"), "is no safetensors file"),
        (write("unet/x.safetensors", b"\2\0\0\0\0\0\0\0{}"), "is no safetensors file that holds a tensor"),
        (write("unet/x.safetensors", b""), "is no safetensors file"),
        (lambda base: (base / "model_index.json").unlink(), "it is no diffusers folder"),
    ],
)
def test_what_can_t_be_a_base_is_refused_by_name(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    (tmp_path / "outside.txt").write_text("-")
    base = a_folder(tmp_path / "base")
    gather(base)
    spoil(base)
    with pytest.raises(BaseRefused) as refused:
        gather(base)
    assert any(said in fault for fault in refused.value.faults)
    assert len(refused.value.faults) == (2 if "another name" in said else 1)  # nothing else is wrong


def test_every_fault_is_named_and_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    base = a_folder(tmp_path / "base", more={"a.bin": b"", "b.pt": b""})
    with pytest.raises(BaseRefused, match=r"a\.bin is a pickle.*; b\.pt is a pickle"):
        gather(base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseRefused, match="it holds no files"):
        gather(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "said"), [("x.ckpt", "is a pickle"), ("x.txt", "a base is a diffusers folder or one")]
)
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"-")
    with pytest.raises(BaseRefused, match=said):
        gather(tmp_path / name)


@pytest.mark.parametrize(
    ("pipeline", "width", "family"),
    [
        ("StableDiffusionXLPipeline", 2048, "sdxl"),
        ("StableDiffusionPipeline", 768, "sd15"),
        ("StableDiffusionPipeline", 1024, "sd2"),
        ("StableDiffusionPipeline", 128, ""),
        ("FluxPipeline", 768, ""),
    ],
)
def test_a_folder_tells_its_family(tmp_path: Path, pipeline: str, width: int, family: str) -> None:
    more = {
        "model_index.json": f'{{"_class_name": "{pipeline}"}}'.encode(),
        "unet/config.json": f'{{"cross_attention_dim": {width}}}'.encode(),
    }
    assert family_of(a_folder(tmp_path, more=more)) == family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("conditioner.embedders.1.model.text_projection", "sdxl"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "sd15"),
        ("cond_stage_model.model.ln_final.bias", "sd2"),
        ("double_blocks.0.img_attn.qkv.weight", ""),
    ],
)
def test_a_file_in_the_original_layout_tells_its_family(tmp_path: Path, name: str, family: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors(b"-", ["model.diffusion_model.out.0.weight", name]))
    assert family_of(tmp_path / "x.safetensors") == family


def test_an_index_that_can_t_be_read_tells_no_family(tmp_path: Path) -> None:
    for index in (b"{", b"[]", b"{}"):
        assert family_of(a_folder(tmp_path, more={"model_index.json": index})) == ""

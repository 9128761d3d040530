"""Recipes that a worker refuses before it serves: which file, which line, and why."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.reduced_bases import World
from services.chassis.process import CannotStart
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import gpu_worker, make_engine
from services.gpu_worker.engine.recipe import RecipeError
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient
from tests.integration.gpu_worker.reduced_recipes import line_of, written

pytestmark = [pytest.mark.integration]

ROOT = Path(__file__).parents[3]
ZEROS = "0" * 64


class Worlds(NamedTuple):
    sd15: World
    sdxl: World

    def base(self, family: str) -> str:
        return f"{getattr(self, family).folder}/bases/{family}"


class Refusal(NamedTuple):
    """A shipped recipe with changes, and what is then said of which key."""

    recipe: str
    changes: Callable[[Worlds, Path], list[tuple[str, str]]]
    key: str
    said: str


def flux_folder(folder: Path) -> Path:
    """As published: a transformer where other bases have a UNet."""
    for component, model in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / component).mkdir(parents=True)
        save_file({"weight": torch.zeros(1)}, folder / component / f"{model}.safetensors")
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def flux_file(folder: Path) -> Path:
    save_file({"double_blocks.0.img_attn.proj.weight": torch.zeros(1)}, folder / "flux.safetensors")
    return folder / "flux.safetensors"


def base(family: str, other: Callable[[Worlds, Path], object]) -> Callable[[Worlds, Path], list[tuple[str, str]]]:
    """Another source of the base."""
    return lambda worlds, folder: [(f'"{worlds.base(family)}"', f'"{other(worlds, folder)}"')]


def text(*changes: tuple[str, str]) -> Callable[[Worlds, Path], list[tuple[str, str]]]:
    return lambda _worlds, _folder: list(changes)


def distillation(family: str, file: str) -> Callable[[Worlds, Path], list[tuple[str, str]]]:
    """Another one for SD 1.5's recipe."""
    return lambda worlds, _folder: [
        (f"{worlds.base('sd15').removesuffix('sd15')}distill/Hyper-SD15-1step-lora.safetensors",
         f"{worlds.base(family).removesuffix(family)}distill/{file}")
    ]  # fmt: skip


REFUSALS = {
    "sd15 recipe on an sdxl folder": Refusal(
        "sd15-hyper",
        base("sd15", lambda worlds, _: worlds.base("sdxl")),
        "base.source",
        "is SDXL, not Stable Diffusion 1.x",
    ),
    "sd15 recipe on an sdxl file": Refusal(
        "sd15-hyper",
        base("sd15", lambda worlds, _: f"{worlds.base('sdxl')}.safetensors"),
        "base.source",
        "is SDXL, not Stable Diffusion 1.x",
    ),
    "sdxl recipe on an sd15 folder": Refusal(
        "sdxl-hyper",
        base("sdxl", lambda worlds, _: worlds.base("sd15")),
        "base.source",
        "is not SDXL: it has no second text encoder",
    ),
    "sdxl recipe on an sd15 file": Refusal(
        "sdxl-hyper",
        base("sdxl", lambda worlds, _: f"{worlds.base('sd15')}.safetensors"),
        "base.source",
        "is Stable Diffusion 1.x, not SDXL",
    ),
    "FLUX folder": Refusal(
        "sd15-hyper",
        base("sd15", lambda _, folder: flux_folder(folder / "flux")),
        "base.source",
        "holds FluxPipeline: Flux is a transformer; Looksmith batches UNets only",
    ),
    "FLUX file": Refusal(
        "sd15-hyper",
        base("sd15", lambda _, folder: flux_file(folder)),
        "base.source",
        "holds Flux, which is a transformer; Looksmith batches UNets only",
    ),
    "missing base": Refusal(
        "sd15-hyper",
        base("sd15", lambda _, folder: folder / "nowhere.safetensors"),
        "base.source",
        "names no file or folder: ",
    ),
    "missing distillation": Refusal(
        "sd15-hyper", distillation("sd15", "nowhere.safetensors"), "distill.source", "names no file"
    ),
    "wrong digest of the base": Refusal(
        "sd15-hyper",
        text(("[base]", f'[base]\nsha256 = "{ZEROS}"')),
        "base.sha256",
        f"is {ZEROS}, but the weights' is ",
    ),
    "wrong digest of the distillation": Refusal(
        "sd15-hyper",
        text(("[distill]", f'[distill]\nsha256 = "{ZEROS}"')),
        "distill.sha256",
        f"is {ZEROS}, but the weights' is ",
    ),
    "unknown key": Refusal(
        "sd15-hyper", text(("[base]", '[base]\nchecksum = "x"')), "base.checksum", "is not a key"
    ),
    "multistep scheduler": Refusal(
        "sd15-hyper",
        text(
            ('class = "TCDScheduler"\neta = 1.0', 'class = "DPMSolverMultistepScheduler"'),
            ("set_alpha_to_one = false\nclip_sample = false", ""),
        ),
        "sampler.class",
        "DPMSolverMultistepScheduler can't share a batch: ",
    ),
    "distillation for another base": Refusal(
        "sd15-hyper",
        distillation("sdxl", "Hyper-SDXL-1step-lora.safetensors"),
        "distill.source",
        "is no LoRA for this base: Hyper-SDXL-1step-lora.safetensors",
    ),
    "model of the hub without a commit": Refusal(
        "sd15-hyper",
        base("sd15", lambda *_: "hub://acme/base@main"),
        "base.source",
        "names revision 'main' of acme/base: a branch or tag can move",
    ),
    "no word on safety": Refusal("sd15-hyper", text(('safety = "off"\n', "")), "safety", "is missing"),
    "checker that is not there": Refusal(
        "sd15-hyper", text(('safety = "off"', 'safety = "checker"')), "safety", "asks for a checker, and "
    ),
}  # fmt: skip


@pytest.fixture
def worlds(sd15: World, sdxl: World) -> Worlds:
    return Worlds(sd15, sdxl)


def made(refusal: Refusal, worlds: Worlds, folder: Path) -> Path:
    world = worlds.sd15 if refusal.recipe.startswith("sd15") else worlds.sdxl
    return written(world, refusal.recipe, folder / "recipes", *refusal.changes(worlds, folder))


def start_of(refusal: Refusal, file: Path) -> str:
    """How its line begins."""
    number = line_of(file, refusal.key)
    return f"{file}:{number}: {refusal.key} " if number else f"{file}: {refusal.key} "


def refused(folder: Path, *recipes: Path) -> str:
    """What an engine that is loaded in this process says."""
    settings = WorkerSettings(
        name="w1",
        registry="none",
        disk_cache=folder / "disk",
        recipes=",".join(map(str, recipes)),  # type: ignore[arg-type]  # as a variable has them
        slots={8: 6},
        batch_sizes=(2,),
        threads=1,
    )

    def load() -> None:
        engine = make_engine(settings, steady_clock())
        try:
            engine.load()
        finally:
            engine.close()

    with pytest.raises(RecipeError) as caught:
        load()
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("case", REFUSALS)
def test_recipe_is_refused_by_the_file_the_line_and_the_key_with_the_reason(
    worlds: Worlds, tmp_path: Path, case: str
) -> None:
    file = made(REFUSALS[case], worlds, tmp_path)
    told = refused(tmp_path, file)
    assert told.startswith(start_of(REFUSALS[case], file))
    assert REFUSALS[case].said in told


def test_two_bases_of_one_family_with_different_dtypes_are_refused_by_both_files(
    worlds: Worlds, tmp_path: Path
) -> None:
    first = written(worlds.sd15, "sd15-hyper", tmp_path)
    other = written(worlds.sd15, "sd15-lcm", tmp_path, ("bfloat16", "float32"))
    number = other.read_text().splitlines().index("[base]") + 1
    (told,) = refused(tmp_path, first, other).splitlines()
    assert told.startswith(f"{other}:{number}: base and that of {first} are both sd15")
    assert "take two workers" in told


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def ended(folder: Path, recipe: Path) -> list[str]:
    """The message, by its lines, of a worker's process that ends with exit code 2, and listens to nobody until then."""
    port = free_port()
    settings = {
        "WORKER_NAME": "w1",
        "WORKER_REGISTRY": "127.0.0.1:1",
        "WORKER_PORT": str(port),
        "WORKER_DISK_CACHE": str(folder / "disk"),
        "WORKER_RECIPES": str(recipe),
        "WORKER_THREADS": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "services.gpu_worker"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            while child.poll() is None:
                assert not listens(port)
                time.sleep(0.02)
        finally:
            child.kill()
        assert child.returncode == 2
        assert child.stdout and child.stdout.read() == ""
        assert child.stderr
        told = child.stderr.read().splitlines()
    assert told[0].startswith("gpu-worker: ")
    return [told[0].removeprefix("gpu-worker: "), *told[1:]]


def test_worker_whose_recipe_has_mistakes_tells_them_all_and_ends_without_listening(
    worlds: Worlds, tmp_path: Path
) -> None:
    cases = [REFUSALS[case] for case in ("no word on safety", "model of the hub without a commit", "unknown key")]
    changes = [change for case in cases for change in case.changes(worlds, tmp_path)]
    file = written(worlds.sd15, "sd15-hyper", tmp_path, *changes)
    told = ended(tmp_path, file)
    assert len(told) == len(cases)
    for case in cases:
        (line,) = [line for line in told if line.startswith(start_of(case, file))]
        assert case.said in line


async def test_worker_whose_base_is_of_another_kind_says_so_and_listens_to_nobody(
    worlds: Worlds, tmp_path: Path
) -> None:
    file = made(REFUSALS["FLUX folder"], worlds, tmp_path)
    port = free_port()
    settings = WorkerSettings(name="w1", registry="none", disk_cache=tmp_path, recipes=str(file), port=port)  # type: ignore[arg-type]  # as above
    with pytest.raises(CannotStart) as caught:
        async with gpu_worker(settings, registry=FakeRegistryClient()):
            pytest.fail("it serves")
    assert str(caught.value).startswith(start_of(REFUSALS["FLUX folder"], file))
    assert not listens(port)

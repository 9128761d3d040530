"""Workers that start and paint where no network is: from folders, a single file, and what was fetched before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reduced_bases import SIDE, World
from tests.integration.gpu_worker.reduced_recipes import from_single_file, line_of, written

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
PAINTING = "tests.integration.gpu_worker.painting_without_a_route"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = f"hub://acme/reduced@{COMMIT}"
#: And the Debian packages that they come in.
TOOLS = {"unshare": "util-linux", "ip": "iproute2"}
#: What people set to keep Hugging Face's libraries from the network, and where their caches are.
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE")


def without_a_route() -> list[str]:
    """What a command is begun with so that it has loopback and nothing else; skips where this can't be done.

    In CI it can, and nothing is skipped there.
    """
    begin = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    lacking = [f"{tool} ({package})" for tool, package in TOOLS.items() if not shutil.which(tool)]
    why = f"needs {' and '.join(lacking)}" if lacking else ""
    if not lacking:
        tried = subprocess.run([*begin, "true"], capture_output=True, text=True, check=False)
        why = f"this machine allows no network namespace: {tried.stderr.strip()}" if tried.returncode else ""
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)
    return begin


def environ(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SWITCHES} | settings


def worker(folder: Path, *recipes: Path, **settings: str) -> dict[str, str]:
    return {
        "WORKER_NAME": "w1",
        "WORKER_DISK_CACHE": str(folder / "disk"),
        "WORKER_RECIPES": ",".join(map(str, recipes)),
        "WORKER_SLOTS": "8:6",
        "WORKER_THREADS": "1",
        "HF_HOME": str(folder / "hf"),
        **settings,
    }


def of_the_hub(world: World, folder: Path) -> Path:
    """A recipe whose base is a model of the hub."""
    return written(world, "sd15-lcm", folder, (f'"{world.folder}/bases/sd15"', f'"{MODEL}"'))


def test_workers_without_a_route_paint_from_a_folder_a_single_file_and_the_hub_s_cache(
    sd15: World, sdxl: World, tmp_path: Path
) -> None:
    begin = without_a_route()
    sources = worker(
        tmp_path / "sources",
        written(sdxl, "sdxl-hyper", tmp_path / "folder"),
        from_single_file(sd15, "sd15-hyper", tmp_path / "file"),
        WORKER_ENGINE="bank",
    )
    cached = worker(
        tmp_path / "cached", of_the_hub(sd15, tmp_path / "hub"), WORKER_ENGINE="reference", HF_HUB_OFFLINE="1"
    )
    snapshot = Path(cached["HF_HOME"]) / "hub" / "models--acme--reduced" / "snapshots" / COMMIT
    shutil.copytree(sd15.folder / "bases" / "sd15", snapshot)
    told = subprocess.run(
        [*begin, sys.executable, "-m", PAINTING, json.dumps([sources, cached])],
        cwd=ROOT,
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["outside"] == "ENETUNREACH"
    sizes = [{recipe: picture[:2] for recipe, picture in each.items()} for each in found["painted"]]
    assert sizes == [{"sdxl-hyper": [SIDE, SIDE], "sd15-hyper": [SIDE, SIDE]}, {"sd15-lcm": [SIDE, SIDE]}]
    assert all(picture[2] > 0 for each in found["painted"] for picture in each.values())


def test_a_model_of_the_hub_that_was_not_fetched_before_is_refused_where_the_hub_is_switched_off(
    sd15: World, tmp_path: Path
) -> None:
    recipe = of_the_hub(sd15, tmp_path)
    settings = worker(tmp_path, recipe, HF_HUB_OFFLINE="1", WORKER_REGISTRY="127.0.0.1:1")
    refused = subprocess.run(
        [sys.executable, "-m", "services.gpu_worker"],
        cwd=ROOT,
        env=environ(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    (told,) = refused.stderr.splitlines()
    assert told.startswith(f"gpu-worker: {recipe}:{line_of(recipe, 'base.source')}: base.source can't be fetched")
    assert MODEL in told
    assert "outgoing traffic has been disabled" in told

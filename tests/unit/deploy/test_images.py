"""The Dockerfile, read: packages by hash, nothing as root, files that there are. `make verify` runs its pip lines."""

from __future__ import annotations

import asyncio
import fnmatch
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.chassis.server import grpc_server
from services.router.settings import RouterSettings

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
REQUIREMENTS = ROOT / "deploy" / "requirements"
IMAGES = ("registry", "router", "worker")
LOCK = runpy.run_path(str(REQUIREMENTS / "lock.py"))
HEALTHY = runpy.run_path(str(ROOT / "deploy" / "healthy.py"))
#: What a base image's own torch or CUDA would show as.
TORCH = {"torch", "triton", "diffusers", "transformers", "nvidia-cudnn-cu13"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


def locked(name: str) -> dict[str, str]:
    """What a file of requirements has: version by name. Every line has one hash."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
            assert match, line
            found[canonicalize_name(match[1])] = match[2]
    return found


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def needed(extras: set[str]) -> Iterator[Requirement]:
    """All that the distribution and these extras name, those that they name in turn included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from map(Requirement, project["dependencies"])
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            if requirement.name == "looksmith":
                yield from needed(requirement.extras)
            else:
                yield requirement


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_pip_line_takes_packages_by_hash_or_from_no_index() -> None:
    lines = [line for name, line in instructions() if name == "RUN" and "pip" in line]
    assert len(lines) == 4
    for line in lines:
        if "pip wheel" in line:
            assert "--no-deps" in line and "--no-build-isolation" in line
        else:
            assert "--no-cache-dir" in line
            assert "--require-hashes --only-binary=:all:" in line or "--no-index" in line


@pytest.mark.parametrize("image", IMAGES)
def test_locked_versions_are_those_of_constraints_and_meet_the_extra(image: str) -> None:
    found, pinned = locked(image), constraints()
    for name, version in found.items():
        assert pinned.get(name, version) == version, f"{name}: run `make locks`"
    wanted = Requirement(LOCK["WANTED"][image].replace(".", "looksmith", 1)).extras
    for requirement in needed(wanted):
        name = canonicalize_name(requirement.name)
        assert name in found, f"{name}: run `make locks`"
        assert requirement.specifier.contains(found[name], prereleases=True), f"{requirement}: run `make locks`"


@pytest.mark.parametrize("image", IMAGES)
def test_only_the_worker_has_torch_and_it_is_the_build_with_cuda(image: str) -> None:
    assert bool(TORCH & set(locked(image))) is (image == "worker")
    if image == "worker":
        assert set(locked(image)) >= TORCH


def test_the_extras_that_are_installed_are_those_that_were_locked() -> None:
    (line,) = (line for name, line in instructions() if name == "RUN" and "extras=" in line)
    worker = re.search(r"worker\) extras=([\w,]+)", line)
    assert worker
    assert LOCK["WANTED"]["worker"] == f".[{worker[1]}]"
    assert "*) extras=${SERVICE}" in line
    assert all(LOCK["WANTED"][image] == f".[{image}]" for image in ("registry", "router"))


def test_each_image_runs_its_service_and_none_as_root() -> None:
    stages: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            stage = arguments.split(" AS ")[1]
            stages[stage] = [("FROM", arguments.split(" AS ")[0])]
        elif stages:
            stages[stage].append((name, arguments))
    assert ("USER", "10001:10001") in stages["runtime"]
    for image in IMAGES:
        assert stages[image][0] == ("FROM", "runtime")
        assert not [each for each in stages[image] if each[0] in {"USER", "RUN"}]
        module = {"worker": "gpu_worker"}.get(image, image)
        assert stages[image][-1] == ("CMD", f'["python", "-m", "services.{module}"]')
        assert (ROOT / "services" / module / "__main__.py").exists()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"  # nothing goes along by oversight
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    for name, arguments in instructions():
        if name != "COPY" or arguments.startswith("--from"):
            continue
        for source in arguments.split()[:-1]:
            for image in IMAGES:
                path = source.replace("${SERVICE}", image)
                assert (ROOT / path).exists(), path
                assert any(path == rule or path.startswith(f"{rule}/") for rule in let_in), path
    assert not [rule for rule in let_in if not (ROOT / rule).exists()]
    assert not any(fnmatch.fnmatch("deploy/secrets/admin.env", rule) for rule in let_in)


async def test_a_container_is_healthy_only_while_its_server_says_so() -> None:

    settings = RouterSettings(name="r", registry="unused", health_port=0, shutdown_grace_s=0)
    async with grpc_server(settings, []) as server:
        assert server.health_port
        assert await asyncio.to_thread(HEALTHY["serves"], server.health_port)
        await server.health.enter_graceful_shutdown()
        assert not await asyncio.to_thread(HEALTHY["serves"], server.health_port)
    assert not await asyncio.to_thread(HEALTHY["serves"], server.health_port)

"""Follows deploy/Dockerfile without a container: its pip lines in clean environments, then services until they serve.

python -m benchmarks.clean_installs [--only registry,router,worker] [--cuda] [--json FILE]

COPY and RUN are done as the file says, below a temporary folder in place of /. A service gets what its image has and
nothing of this environment; the store that the registry needs is this environment's. Without --cuda the worker's
packages are taken by version alone and torch as this machine's index has it, since CUDA's wheels are 3 GB; with it, by
hash, as in the image. Users, the base image and its system libraries are not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc

from benchmarks.report import Bars, report
from looksmith.cli.processes import Processes
from looksmith.cli.stack import CHECKOUT, free_run, is_serving
from services.registry.seaweedfs import seaweedfs

IMAGES = ("registry", "router", "worker")
READY_WITHIN_S = 300.0
BARS: Bars = {
    "registry_has_torch": ("<=", 0),
    "router_has_torch": ("<=", 0),
    "worker_has_torch": (">=", 1),
    **{f"{image}_serves": (">=", 1) for image in IMAGES},
}
#: What only torch's build with CUDA needs.
_CUDA = re.compile(r"^(nvidia-|cuda-|triton)", re.IGNORECASE)

Step = tuple[str, str]


def stages() -> dict[str, list[Step]]:
    """The Dockerfile's instructions by stage, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (CHECKOUT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[Step]] = {}
    here: list[Step] = []
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        name, arguments = line.split(maxsplit=1)
        if name == "FROM":
            here = found.setdefault(arguments.split(" AS ")[1], [])
        here.append((name, arguments))
    return found


class Image:
    """What building would make of one service, below ``root``."""

    def __init__(self, service: str, root: Path, *, cuda: bool) -> None:
        self._service, self._root, self._cuda = service, root, cuda
        self._folder = root / "src"

    @property
    def python(self) -> Path:
        return self._root / "opt/looksmith/bin/python"

    def build(self) -> list[str]:
        """Does all stages up to the service's own; returns what it runs at the end."""
        command: list[str] = []
        of_file = stages()
        for name, arguments in [*of_file["build"], *of_file["runtime"], *of_file[self._service]]:
            told = arguments.replace("${SERVICE}", self._service)
            match name:
                case "WORKDIR":
                    self._folder = self._root / told.lstrip("/")
                    self._folder.mkdir(parents=True, exist_ok=True)
                case "COPY" if not told.startswith("--from"):
                    self._copy(told.split())
                case "RUN" if "pip" in told:
                    self._run(told)
                case "CMD":
                    command = json.loads(told)
        return command

    def _copy(self, words: Sequence[str]) -> None:
        *sources, target = words
        for source in sources:
            into = self._folder / target / Path(source).name if target.endswith("/") else self._folder / target
            into.parent.mkdir(parents=True, exist_ok=True)
            if (CHECKOUT / source).is_dir():
                shutil.copytree(CHECKOUT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into.write_text(self._as_taken(source))

    def _as_taken(self, source: str) -> str:
        """A file's text; of the worker's packages, without CUDA, what any build of torch needs."""
        text = (CHECKOUT / source).read_text()
        if source != "deploy/requirements/worker.txt" or self._cuda:
            return text
        lines = [line.partition(" --hash")[0] for line in text.splitlines() if not _CUDA.match(line)]
        return "\n".join(lines) + "\n"

    def _run(self, line: str) -> None:
        here = line.replace("/opt/", f"{self._root}/opt/")
        if self._service == "worker" and not self._cuda:
            here = here.replace(
                "--require-hashes --only-binary=:all: -r deploy/requirements/worker", "-r deploy/requirements/worker"
            )
        subprocess.run(["/bin/sh", "-euc", here], cwd=self._folder, env=self._environ(), check=True, stdout=sys.stderr)

    def _environ(self) -> dict[str, str]:
        """This machine's, so that pip finds its index, with the Python that this environment was made from first."""
        base = Path(sys._base_executable).parent  # type: ignore[attr-defined]  # noqa: SLF001  # nothing else names it
        return {**os.environ, "PATH": f"{base}:{os.environ['PATH']}", "SERVICE": self._service}

    def has(self, module: str) -> bool:
        asked = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([self.python, "-c", asked], cwd="/", check=False).returncode == 0

    async def serves(self, command: Sequence[str], environ: Mapping[str, object]) -> float:
        """Seconds from the start of its process to SERVING on the health port.

        Raises:
            Problem: it ended, or did not come up.
        """
        port = free_run(1)
        began = time.perf_counter()
        processes = Processes(
            self._root / "logs",
            cwd=self._folder,
            environ={name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
            stop_within_s=60,
        )
        prefix = self._service.upper()
        async with processes:
            argv = [str(self.python), *command[1:]]
            await processes.start(self._service, argv, **{f"{prefix}_HEALTH_PORT": port, **environ})
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await processes.until(self._service, partial(is_serving, channel), within_s=READY_WITHIN_S)
        return time.perf_counter() - began


async def one(service: str, folder: Path, *, cuda: bool) -> dict[str, float]:
    began = time.perf_counter()
    image = Image(service, folder, cuda=cuda)
    command = await asyncio.to_thread(image.build)
    installed = time.perf_counter() - began
    async with AsyncExitStack() as stack:
        environ: dict[str, object] = {
            "ROUTER_NAME": "r",
            "ROUTER_REGISTRY": "127.0.0.1:1",
            "WORKER_NAME": "w",
            "WORKER_REGISTRY": "127.0.0.1:1",
            "WORKER_DISK_CACHE": folder / "cache",
        }
        if service == "registry":
            environ |= (await stack.enter_async_context(seaweedfs(folder / "store"))).environ()
        took = await image.serves(command, environ)
    return {
        f"{service}_install_s": installed,
        f"{service}_serves": 1.0,
        f"{service}_ready_s": took,
        f"{service}_has_torch": float(image.has("torch")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(IMAGES), help="images, separated by commas")
    parser.add_argument("--cuda", action="store_true", help="the worker's packages by hash, with CUDA's wheels")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures: dict[str, float] = {}
    for service in given.only.split(","):
        with tempfile.TemporaryDirectory(prefix=f"clean-{service}-") as folder:
            figures |= asyncio.run(one(service, Path(folder), cuda=given.cuda))
    sys.exit(0 if report(figures, BARS, file=given.json) else 1)


if __name__ == "__main__":
    main()

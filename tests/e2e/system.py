"""The whole system as its users start it: ``looksmith up`` as a process, four brands published by the command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looksmith.cli.stack import Ports, free_run

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BRANDS = ("harbour", "inkwell", "marigold", "voltage")


@dataclass(frozen=True)
class System:
    """A running stack and the command that talks to it."""

    router: str
    registry: str
    workers: tuple[str, ...]
    traces: str
    folder: Path

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """The ``looksmith`` command with this stack's addresses; its exit code is the caller's to judge."""
        environ = os.environ | {
            "LOOKSMITH_ROUTERS": self.router,
            "LOOKSMITH_REGISTRY": self.registry,
            "LOOKSMITH_TRACES": self.traces,
            "COLUMNS": "200",
        }
        argv: list[str | Path] = [BIN / "looksmith", *arguments]
        return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False)

    def pid(self, process: str) -> int:
        """Process id of a part of the stack, as ``looksmith up`` printed it."""
        found = re.search(rf"{process} on \S+, pid (\d+)", (self.folder / "up.log").read_text())
        assert found
        return int(found.group(1))

    def json(self, *arguments: str) -> Any:  # noqa: ANN401  # JSON is what it is
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def grpcurl(self, address: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Debian's way to look at a server: options, then list, describe or a method."""
        *options, verb = arguments
        argv: list[str | Path] = [BIN / "grpcurl", "-plaintext", *options, address, *verb.split(" ", 1)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)


class running:  # noqa: N801  # reads as a verb: with running(folder) as system
    """``looksmith up`` in ``folder`` with every brand published; ended by Ctrl-C, as a person would."""

    def __init__(self, folder: Path, *, workers: int = 2) -> None:
        self._folder, self._workers = folder, workers

    def __enter__(self) -> System:
        base = free_run(10 + self._workers)
        argv: list[str | Path] = [
            BIN / "looksmith",
            "up",
            f"--port={base}",
            f"--workers={self._workers}",
            f"--folder={self._folder}",
        ]
        self._log = (self._folder / "up.log").open("w+")
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=self._log, stderr=self._log, start_new_session=True)
        self._wait_until_ready()
        where = Ports.from_base(base)
        system = System(
            router=f"127.0.0.1:{where.router}",
            registry=f"127.0.0.1:{where.registry}",
            workers=tuple(f"127.0.0.1:{where.first_worker + i}" for i in range(self._workers)),
            traces=f"http://127.0.0.1:{where.traces}",
            folder=self._folder,
        )
        for brand in BRANDS:
            found = sorted((ROOT / "models/studio/brands" / brand).glob("house-style*"))
            done = system.run("publish", f"{brand}/house-style", str(found[0]))
            assert done.returncode == 0, done.stderr
        return system

    def _wait_until_ready(self, patience_s: float = 90) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            said = (self._folder / "up.log").read_text()
            if "Ready." in said:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self._process.kill()
        raise AssertionError(f"the stack did not come up:\n{said}")

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(30) is not None
        self._log.close()

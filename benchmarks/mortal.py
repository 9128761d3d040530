"""A process that may be stopped, killed and started anew at the same address, with a log for each of its lives.

Knows health and signals; knows nothing of what a process does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc

from looksmith.cli.stack import CHECKOUT, is_serving

#: Seconds until a process serves: a worker loads torch first, perhaps beside others.
SERVES_WITHIN_S = 90.0
_ASK_EVERY_S = 0.05
_LAST_LINES = 20


class Mortal:
    """``start`` begins a life. As a context manager it is killed on the way out, if it lives."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        port: int,
        environ: Mapping[str, str],
        logs: Path,
        cwd: Path = CHECKOUT,
    ) -> None:
        """``cwd``: the checkout that it runs."""
        self.name, self.port = name, port
        self._argv, self._environ, self._logs, self._cwd = argv, environ, logs, cwd
        self._process: asyncio.subprocess.Process | None = None
        self._lives = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of this life, or else the last one; 0: it has not begun."""
        return self._process.pid if self._process else 0

    @property
    def log(self) -> Path:
        """Of this life, or else the last one."""
        return self._logs / f"{self.name}-{self._lives}.log"

    def said(self, *events: str) -> list[dict[str, Any]]:
        """The lines of all its lives about any of these events."""
        logs = (file.read_text(errors="replace") for file in sorted(self._logs.glob(f"{self.name}-*.log")))
        lines = (line for log in logs for line in log.splitlines())
        told = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
        return [fields for fields in told if fields.get("event") in events]

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.signal(signal.SIGKILL)  # which ends a stopped process too
        await self.ended(within_s=10)

    async def start(self) -> None:
        self._lives += 1
        with self.log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, cwd=self._cwd, env=self._environ, stdout=output, stderr=output, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """Sent at once; nothing happens to a process that has ended."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)  # Popen looks at the process first, which takes its end away

    async def ended(self, *, within_s: float) -> int:
        """Its exit code, once it has ended. Raises: TimeoutError."""
        if self._process is None:
            return 0
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    async def serves(self) -> None:
        """Returns once health says so.

        Raises:
            RuntimeError: it ended before, or was not ready in time; with the end of its log.
        """
        try:
            async with asyncio.timeout(SERVES_WITHIN_S), grpc.aio.insecure_channel(self.address) as channel:
                while not await is_serving(channel):
                    if self._process is None or self._process.returncode is not None:
                        raise RuntimeError(self._quoted("ended before it served"))
                    await asyncio.sleep(_ASK_EVERY_S)
        except TimeoutError:
            raise RuntimeError(self._quoted(f"does not serve after {SERVES_WITHIN_S:.0f} s")) from None

    def _quoted(self, what: str) -> str:
        return "\n".join([f"{self.name} {what}:", *self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]])

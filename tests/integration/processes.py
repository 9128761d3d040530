"""Services started as their users start them, each a process of its own, stopped with SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 90.0, 20.0


@asynccontextmanager
async def service(name: str, **environ: str) -> AsyncIterator[str]:
    """The address at which ``services.<name>`` listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"services.{name}",
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
    )
    assert process.stderr
    draining: asyncio.Task[bytes] | None = None
    try:
        address = await asyncio.wait_for(_listening(process.stderr), START_S)
        draining = asyncio.create_task(process.stderr.read())
        yield address
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if draining:
            await draining


async def _listening(log: asyncio.StreamReader) -> str:
    lines = []
    async for line in log:
        lines.append(line.decode())
        event = json.loads(line) if line.startswith(b"{") else {}
        if event.get("event") == "server.listening":
            return str(event["address"])
    raise AssertionError("".join(lines))

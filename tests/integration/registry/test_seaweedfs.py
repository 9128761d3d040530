"""The store of a laptop goes with the process that started it, however that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.registry.seaweedfs import READY, START_S

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end"),
]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_weed_does_not_outlive_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.registry.seaweedfs",
        f"--folder={tmp_path}",
        "--port=0",
        "--access-key=key",
        "--secret-key=secret",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    weed = 0
    try:
        assert owner.stdout
        async with asyncio.timeout(START_S):
            async for line in owner.stdout:
                if line.decode().startswith(READY):
                    break
        (weed,) = children(owner.pid)
        assert alive(weed)
        owner.send_signal(number)
        await asyncio.wait_for(owner.wait(), 10)
        async with asyncio.timeout(5):
            while alive(weed):  # noqa: ASYNC110  # it is no child of ours, which nobody tells of its end
                await asyncio.sleep(0.02)
    finally:
        if owner.returncode is None:
            owner.kill()
            await owner.wait()
        if weed and alive(weed):
            os.kill(weed, signal.SIGKILL)

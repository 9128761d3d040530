"""SIGUSR1 makes a process tell what it is at, in the middle of a request, and nothing of what the request says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import grpc
import pytest

from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.gpu_worker.engine.recipe_file import read_recipe

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RECIPE = read_recipe(ROOT / "deploy/recipes/studio.toml").facts(base_digest="0" * 64, distill_digest="")
TOLD = re.compile(rb'"event": "tasks.dumped"')


async def read_until(stream: asyncio.StreamReader, end: re.Pattern[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    while not (lines and end.search(lines[-1])):
        lines.append(await stream.readline())
        assert lines[-1], b"".join(lines)
    return lines


async def test_a_worker_tells_the_stacks_of_threads_and_tasks_and_paints_on(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gpu_worker"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "WORKER_NAME": "w1",
            "WORKER_REGISTRY": "127.0.0.1:1",
            "WORKER_REGISTRY_TOKEN": "a-token-that-nobody-may-see",
            "WORKER_DISK_CACHE": str(tmp_path),
            "WORKER_ENGINE": "timed",
            "WORKER_TIMED_SCALE": "5",
            "WORKER_SHUTDOWN_GRACE_S": "0",
        },
    )
    assert process.stderr
    try:
        async with asyncio.timeout(30):
            started = await read_until(process.stderr, re.compile(rb'"event": "server.listening"'))
            address = json.loads(started[-1])["address"]
            async with grpc.aio.insecure_channel(address) as channel:
                stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
                pinned = pb.Pinned(recipe_digest=RECIPE.digest, final_prompt="a hidden kite", attempt=1, router="r1")
                request = pb.GenerateRequest(brand="acme", prompt="a hidden kite", report_steps=True, pinned=pinned)
                call = stub.Generate(request)
                async for answer in call:
                    if answer.HasField("step"):
                        break
                process.send_signal(signal.SIGUSR1)
                told = await read_until(process.stderr, TOLD)
                rest = [answer.WhichOneof("event") async for answer in call]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
    assert rest[-1] == "finished", "it goes on"
    assert process.returncode == 0
    text = b"".join(told)
    threads = [line for line in told if line.startswith((b"Thread 0x", b"Current thread 0x"))]
    assert len(threads) > 2
    assert b"engine_thread.py" in text
    tasks = [entry for line in told if line.startswith(b"{") and (entry := json.loads(line))["event"] == "task.stack"]
    # Below that it depends on the moment: it waits for the next step, or for the last one to be sent.
    assert any("LayeredInterceptor" in frame for task in tasks for frame in task["frames"])
    assert json.loads(told[-1])["tasks"] == len(tasks)
    for secret in (b"hidden", b"nobody-may-see"):
        assert secret not in text

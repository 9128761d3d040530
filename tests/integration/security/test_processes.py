"""Registry, router and worker as processes under mutual TLS with tokens: the command publishes and paints through them.

What they log at their most talkative and the spans that they export hold no prompt and no token, whoever called.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import grpc
import pytest
import pytest_asyncio
from PIL import Image

from looksmith.channel import bearer, dial
from looksmith.cli.stack import free_run
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc
from services.registry.seaweedfs import RunningStore
from tests.integration.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.unit.chassis.authority import Authority, Files
from tests.unit.chassis.token_files import ALL, tokens_file

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[3]
START_S = 60.0
CANARY = "canary"
PROMPT = f"{CANARY}-prompt: a kite over the dunes"
ROUTER, WORKER, STUDIO, PAINTER, KEEPER = (f"{CANARY}-token-of-{who}" for who in ("router", "worker", "s", "p", "k"))
TOKENS = (
    (ROUTER, ["read", "generate"], ["*"]),
    (WORKER, ["read", "serve"], ["*"]),
    (STUDIO, ["read", "publish", "promote", "manage"], ["harbour"]),
    (PAINTER, ["generate"], ["harbour"]),
    (KEEPER, ALL, ["*"]),
)


@dataclass(frozen=True)
class Running:
    """The system, and what its callers need."""

    folder: Path
    ca: Authority
    caller: Files
    registry: str
    router: str
    worker: str
    receiver: OtlpReceiver

    def logs(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    async def command(self, *arguments: str, token: str, tls: bool = True) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of ``looksmith``."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LOOKSMITH_")}
        environ |= {"LOOKSMITH_ROUTERS": self.router, "LOOKSMITH_REGISTRY": self.registry, "LOOKSMITH_TOKEN": token}
        if tls:
            files = {"CA": self.ca.ca, "CERT": self.caller.certificate, "KEY": self.caller.key}
            environ |= {f"LOOKSMITH_TLS_{name}": str(file) for name, file in files.items()}
        argv = [str(Path(sys.executable).parent / "looksmith"), *arguments]
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def dial(self, address: str) -> grpc.aio.Channel:
        return dial(address, credentials=self.ca.credentials(self.caller))


@asynccontextmanager
async def process(name: str, log: Path, environ: dict[str, str]) -> AsyncIterator[None]:
    """``services.<name>`` with its log in a file; stopped with SIGTERM."""
    argv = [sys.executable, "-m", f"services.{name}"]
    with _opened(log) as output:
        running = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stderr=output, env={**os.environ, **environ})
    try:
        yield
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), 20) == 0, _text(log)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


def _opened(log: Path) -> BinaryIO:
    return log.open("wb")


def _text(log: Path) -> str:
    return log.read_text()


def _has_said(log: Path, event: str) -> bool:
    return f'"event": "{event}"' in _text(log)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(weed: RunningStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("processes")
    ca = Authority(folder)
    tokens = tokens_file(folder, *TOKENS, called=lambda token: token.removeprefix(f"{CANARY}-"))
    async with AsyncExitStack() as stack:
        receiver = stack.enter_context(otlp_receiver())

        def secured(prefix: str, **own: object) -> dict[str, str]:
            mine = ca.issue(prefix.lower(), "127.0.0.1")
            shared = {
                "TLS_CERT": mine.certificate, "TLS_KEY": mine.key, "TLS_CA": ca.ca, "TLS_CLIENT_CA": ca.ca,
                "TOKENS": tokens, "LOG_LEVEL": "debug", "SHUTDOWN_GRACE_S": 0, **own,
            }  # fmt: skip
            exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
            return {f"{prefix}_{name}": str(value) for name, value in shared.items()} | exporting

        base = free_run(3)
        ports = [base, base + 1, base + 2]
        registry, router, worker = (f"127.0.0.1:{port}" for port in ports)
        starting = {
            "registry": secured("REGISTRY", PORT=ports[0]) | weed.beside("secured").environ(),
            "router": secured(
                "ROUTER", PORT=ports[1], NAME="r1", REGISTRY=registry, REGISTRY_TOKEN=ROUTER, WORKER_TOKEN=ROUTER
            ),
            "gpu_worker": secured(
                "WORKER",
                PORT=ports[2],
                NAME="w1",
                REGISTRY=registry,
                REGISTRY_TOKEN=WORKER,
                ROUTERS=router,
                ROUTER_TOKEN=WORKER,
                ENGINE="fake",
                DISK_CACHE=folder / "cache",
            ),
        }
        for name, environ in starting.items():
            await stack.enter_async_context(process(name, folder / f"{name}.log", environ))
        async with asyncio.timeout(START_S):
            said = {"registry": "server.listening", "gpu_worker": "session.joined"}
            while not all(_has_said(folder / f"{name}.log", event) for name, event in said.items()):  # noqa: ASYNC110  # processes
                await asyncio.sleep(0.05)
        yield Running(folder, ca, ca.issue("caller"), registry, router, worker, receiver)


async def test_a_brand_is_published_and_painted_by_the_command_under_mutual_tls(
    running: Running, tmp_path: Path
) -> None:
    file = "models/studio/brands/harbour/house-style.safetensors"
    done, _, problem = await running.command("publish", "harbour/house-style", file, token=STUDIO)
    assert done == 0, problem
    done, _, problem = await running.command("generate", "harbour", PROMPT, f"--out={tmp_path}", token=PAINTER)
    assert done == 0, problem
    (picture,) = tmp_path.glob("*.png")  # noqa: ASYNC240  # a folder of one file
    with Image.open(picture) as image:
        assert image.size == (128, 128)


async def test_the_command_says_why_it_is_not_let_in(running: Running) -> None:
    nobody = f"{CANARY}-token-of-nobody"
    tried = {
        "asks for a token": (5, running.command("generate", "harbour", PROMPT, token=nobody)),
        "does not allow to operate": (5, running.command("drain", "w1", token=PAINTER)),
        "LOOKSMITH_TLS_CA": (6, running.command("brands", token=STUDIO, tls=False)),
    }
    answers = await asyncio.gather(*(command for _, command in tried.values()))
    for (says, (code, _)), (done, out, problem) in zip(tried.items(), answers, strict=True):
        assert (done, says in problem) == (code, True), problem
        assert CANARY not in out + problem


async def test_no_prompt_and_no_token_is_in_any_log_span_or_error(running: Running) -> None:
    """Right and wrong calls of every kind, to router and worker alike, whose texts and tokens begin with one word."""
    wrong = {
        "brand": generation_pb2.GenerateRequest(brand="nobody", prompt=PROMPT),
        "too long": generation_pb2.GenerateRequest(brand="harbour", prompt=PROMPT * 300),
        "size": generation_pb2.GenerateRequest(brand="harbour", prompt=PROMPT, width=7),
        "negative": generation_pb2.GenerateRequest(brand="harbour", prompt="x", negative_prompt=PROMPT * 300),
        "no prompt": generation_pb2.GenerateRequest(brand="harbour", prompt=" ", negative_prompt=PROMPT),
    }
    right = generation_pb2.GenerateRequest(brand="harbour", prompt=PROMPT, negative_prompt=PROMPT)
    told: list[str] = []
    for address in (running.router, running.worker):
        async with running.dial(address) as channel:
            painting = generation_pb2_grpc.ImageGenerationServiceStub(channel)
            events = [event async for event in painting.Generate(right, timeout=20, metadata=bearer(KEEPER))]
            assert events[-1].HasField("finished")
            for what, request in wrong.items():
                for token in (KEEPER, PAINTER, f"{CANARY}-token-of-nobody"):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        [_ async for _ in painting.Generate(request, timeout=20, metadata=bearer(token))]
                    assert caught.value.code() not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}, what
                    told.append(f"{caught.value.details()} {caught.value.trailing_metadata()}")
            no_message = channel.unary_stream(
                "/looksmith.v1.ImageGenerationService/Generate", request_serializer=bytes, response_deserializer=bytes
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await no_message(PROMPT.encode(), timeout=5, metadata=bearer(KEEPER)).read()
            told.append(f"{caught.value.details()} {caught.value.trailing_metadata()}")
    async with running.dial(running.router) as channel:
        looking = fleet_pb2_grpc.FleetServiceStub(channel)
        explained = fleet_pb2.ExplainPlacementRequest(request=right)
        await looking.ExplainPlacement(explained, timeout=5, metadata=bearer(PAINTER))
        worker = await looking.GetWorker(fleet_pb2.GetWorkerRequest(name="w1"), timeout=5, metadata=bearer(KEEPER))
        told.append(str(worker))
    await running.receiver.trace_of("worker.generate")
    await asyncio.sleep(0.3)  # every exporter has sent what it had by then
    logs = running.logs()
    assert '"level": "debug"' in logs
    assert '"event": "call.done"' in logs and '"event": "audit"' in logs
    assert b"looksmith.generate" in running.receiver.raw
    assert [line for line in logs.splitlines() if CANARY in line] == []
    assert CANARY.encode() not in running.receiver.raw
    assert [error for error in told if CANARY in error] == []

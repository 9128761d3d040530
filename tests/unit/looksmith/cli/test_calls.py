"""References, and connections that fail: every kind with a real socket."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from looksmith.cli.calls import answer, connected, parse_ref, reaching, shown
from looksmith.cli.terminal import Problem
from looksmith.errors import DeadlineExceeded, LooksmithError, NotFound, Unavailable, Unimplemented
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from tests.unit.chassis.authority import Authority


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("b/a", ("alias", "production")),
        ("b/a:staging", ("alias", "staging")),
        ("b/a@3", ("version", 3)),
        ("b/a@sha256:" + "0f" * 32, ("digest", "0f" * 32)),
    ],
)
def test_references_read_as_people_write_them(text: str, pick: tuple[str, object]) -> None:
    ref = parse_ref(text)
    assert (ref.brand, ref.adapter) == ("b", "a")
    assert (ref.WhichOneof("pick"), getattr(ref, pick[0])) == pick


@pytest.mark.parametrize("text", ["inkwell", "b/a@latest", "b/a@\u00b2", "b/a@99999999999999999999"])
def test_a_reference_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        parse_ref(text)


async def error_of_a_call(address: str) -> LooksmithError:
    try:
        async with connected(address) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            await answer(stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=2))
    except LooksmithError as error:
        return error
    raise AssertionError("it was answered")


@asynccontextmanager
async def listening(reply: bytes = b"", *, tls: bool = False, silent: bool = False) -> AsyncIterator[str]:
    """Something on a port that is no gRPC server."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            if silent:
                await reader.read()
            writer.write(reply)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(serve(reader, writer)))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    server = await asyncio.start_server(connect, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def test_a_refused_connection_names_the_address_and_what_to_do() -> None:
    async with listening() as address:
        pass  # closed again
    error = await error_of_a_call(address)
    assert isinstance(error, Unavailable)
    assert error.message == f"no answer from {address}: connection refused; is the stack up? `looksmith up` starts one"


async def test_a_web_server_is_told_from_one_that_is_down() -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        error = await error_of_a_call(address)
    assert isinstance(error, Unavailable)
    assert error.message == f"no answer from {address}: what listens there is no gRPC server; check the address"


async def test_a_server_that_wants_tls_is_told_from_one_that_is_down() -> None:
    async with listening(tls=True) as address:
        error = await error_of_a_call(address)
    assert isinstance(error, Unavailable)
    assert address in error.message and "TLS" in error.message


async def test_a_server_that_says_nothing_is_named_after_the_deadline() -> None:
    async with listening(silent=True) as address:
        error = await error_of_a_call(address)
    assert isinstance(error, DeadlineExceeded)
    assert error.message == f"{address} did not answer in time"


async def test_a_host_that_does_not_exist_is_named() -> None:
    error = await error_of_a_call("http://127.0.0.1:7400")
    assert error.message == "no answer from http://127.0.0.1:7400: no such host; write HOST:PORT"


async def test_another_kind_of_server_is_named() -> None:
    server = grpc.aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    error = await error_of_a_call(address)
    await server.stop(0)
    assert isinstance(error, Unimplemented)
    assert address in error.message


@pytest.mark.parametrize("error", [NotFound("no"), Unavailable("no worker", reason="NO_WORKER")])
def test_what_a_server_of_ours_says_stays_as_it_is(error: LooksmithError) -> None:
    with pytest.raises(type(error)) as caught, reaching("127.0.0.1:7400"):
        raise error
    assert caught.value is error


#: run() leaves by typer.Exit, which typer turns into a code; so does this.
WAITING_COMMAND = """
import asyncio, signal, typer
from looksmith.cli.calls import run

async def work():
    try:
        print("began", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cleaned up")

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore some, as nohup does
try:
    run(work())
except typer.Exit as left:
    raise SystemExit(left.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_a_command_and_gives_the_code_that_shells_know(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING_COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "began\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "cleaned up\n", "error: stopped before it was done\n")


async def test_a_server_under_tls_is_reached_with_the_right_files_and_what_is_wrong_with_others_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    mine = ca.issue("router", "127.0.0.1")
    server = grpc.aio.server()
    pair = (mine.key.read_bytes(), mine.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        for file, host, says in (
            (ca.ca, "127.0.0.1", "does not serve this call"),
            (strangers.ca, "127.0.0.1", "not of a CA in LOOKSMITH_TLS_CA"),
            (ca.ca, "localhost", "does not name this host"),
        ):
            monkeypatch.setenv("LOOKSMITH_TLS_CA", str(file))
            assert says in (await error_of_a_call(f"{host}:{port}")).message
        monkeypatch.delenv("LOOKSMITH_TLS_CA")
        assert "LOOKSMITH_TLS_CA" in (await error_of_a_call(f"127.0.0.1:{port}")).message
    finally:
        await server.stop(0)


def test_files_that_cannot_be_shown_are_named_before_anything_is_dialled(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    for environ, says in (
        ({"LOOKSMITH_TLS_CA": str(tmp_path / "none.pem")}, "none.pem"),
        ({"LOOKSMITH_TLS_CA": str(ca.ca), "LOOKSMITH_TLS_CERT": str(ca.ca)}, "go together"),
        ({"LOOKSMITH_TLS_CERT": "c", "LOOKSMITH_TLS_KEY": "k"}, "LOOKSMITH_TLS_CA"),
    ):
        with pytest.raises(Problem, match=says):
            shown(environ)
    assert shown({}).credentials is None
    assert "secret" not in repr(shown({"LOOKSMITH_TOKEN": "secret"}))

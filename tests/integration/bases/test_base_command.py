"""`looksmith base` against a real store: push, list, pull, delete, and what breaks off in between."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from looksmith.bases import Reference, StoreSettings, open_store
from looksmith.bases.store import blob_key
from looksmith.cli.app import app
from services.registry.seaweedfs import RunningStore
from tests.unit.looksmith.bases.bases_on_disk import a_file, a_folder, files_in

pytestmark = pytest.mark.integration

LOOKSMITH = Path(sys.executable).parent / "looksmith"
PATIENCE_S = 60.0


@dataclass
class Road:
    """The way to a store; what comes from it stops after ``limit`` bytes until ``go_on`` is set, or ends there."""

    endpoint: str
    limit: int
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    carried: int = 0
    is_cut: bool = False

    async def bring(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self.endpoint.split(":"))
        ways = [asyncio.create_task(way) for way in (self._there(reader, there[1]), self._back(there[0], writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, there[1]):
            end.close()
            with suppress(OSError):
                await end.wait_closed()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.carried >= self.limit:
                await self.go_on.wait()
                if self.is_cut:
                    return
            self.carried += len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def road_to(endpoint: str, *, limit: int) -> AsyncIterator[tuple[Road, str]]:
    road = Road(endpoint, limit)
    async with await asyncio.start_server(road.bring, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield road, f"{host}:{port}"


@dataclass(frozen=True)
class Command:
    """The ``looksmith base`` command with a store's variables."""

    store: RunningStore

    def environ(self, endpoint: str) -> dict[str, str]:
        return {
            "LOOKSMITH_STORE_ENDPOINT": endpoint or self.store.endpoint,
            "LOOKSMITH_STORE_ACCESS_KEY": self.store.access_key,
            "LOOKSMITH_STORE_SECRET_KEY": self.store.secret_key,
            "LOOKSMITH_STORE_BUCKET": self.store.bucket,
        }

    def run(self, *arguments: object, endpoint: str = "", code: int = 0) -> tuple[str, str]:
        """Standard output and standard error, in this process."""
        result = CliRunner().invoke(app, ["base", *map(str, arguments)], env=self.environ(endpoint))
        assert result.exit_code == code, result.output
        return result.stdout.strip(), result.stderr.strip()

    async def start(self, *arguments: object, endpoint: str) -> asyncio.subprocess.Process:
        """A process of its own, which can be killed."""
        return await asyncio.create_subprocess_exec(
            LOOKSMITH,
            "base",
            *map(str, arguments),
            env={**os.environ, **self.environ(endpoint)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self, process: asyncio.subprocess.Process, *, code: int = 0) -> tuple[str, str]:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == code, err.decode()
        return out.decode().strip(), err.decode().strip()


@pytest.fixture
def command(weed: RunningStore) -> Command:
    return Command(weed)


def bytes_of_its_own(tmp_path: Path, size: int) -> bytes:
    """Which no other test has pushed."""
    return random.Random(str(tmp_path)).randbytes(size)


def is_copy(copy: str, of: Path) -> bool:
    return Path(copy).name == of.name and Path(copy).read_bytes() == of.read_bytes()


def is_there(path: Path) -> bool:
    return path.exists()


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what another process does sets no event here
            await asyncio.sleep(0.01)


def test_a_base_is_pushed_listed_pulled_and_deleted(command: Command, tmp_path: Path) -> None:
    base = a_folder(tmp_path / "base", unet=bytes_of_its_own(tmp_path, 1000))
    pushed = files_in(base)
    a_folder(base, unet=bytes_of_its_own(tmp_path, 1000), more={".git/config": b"-"})
    reference, said = command.run("push", base, "--name", "round-trip")
    assert Reference.parse(reference).name == "round-trip"
    assert "hidden, and left out: .git" in said
    again = json.loads(command.run("push", base, "--name", "round-trip", "--json")[0])
    assert (again["reference"], again["sent_bytes"], again["family"], again["files"]) == (reference, 0, "sdxl", 4)
    listed = json.loads(command.run("list", "--json")[0])["bases"]
    (found,) = [each for each in listed if each["name"] == "round-trip"]
    assert (found["reference"], found["files"], found["family"], found["damaged"]) == (reference, 4, "sdxl", False)
    assert found["bytes"] == again["bytes"] == sum(map(len, pushed.values()))
    copy, _ = command.run("pull", reference, tmp_path / "node")
    assert files_in(Path(copy)) == pushed
    assert command.run("pull", reference, tmp_path / "node", endpoint="127.0.0.1:1")[0] == copy
    name = reference.removeprefix("store://bases/")
    assert "[CONFIRMATION_MISSING]" in command.run("delete", name, "--confirm", "other", code=4)[1]
    assert reference in command.run("list")[0]
    command.run("delete", name, "--confirm", "round-trip")
    assert reference not in command.run("list")[0]
    assert "[BASE_NOT_FOUND]" in command.run("pull", reference, tmp_path / "other", code=3)[1]


async def test_a_pull_that_is_killed_within_a_file_goes_on_in_it(command: Command, tmp_path: Path) -> None:
    file = a_file(tmp_path, data=bytes_of_its_own(tmp_path, 16 << 20))
    size = size_of(file)
    reference, _ = command.run("push", file, "--name", "killed")
    final = tmp_path / "node" / Reference.parse(reference).folder
    part = final.parent / f".{final.name}.partial" / file.name
    async with road_to(command.store.endpoint, limit=8 << 20) as (road, endpoint):
        pulling = await command.start("pull", reference, final.parent, endpoint=endpoint)
        await until(lambda: road.carried >= road.limit and size_of(part) >= 4 << 20)
        pulling.kill()
        await pulling.wait()
    have = size_of(part)
    assert have < size
    assert not is_there(final)
    async with road_to(command.store.endpoint, limit=1 << 40) as (road, endpoint):
        copy, _ = await command.end(await command.start("pull", reference, final.parent, endpoint=endpoint))
    assert copy == str(final / file.name)
    assert is_copy(copy, file)
    assert road.carried < size - have + (1 << 20)


async def test_two_pulls_at_once_fetch_once(command: Command, tmp_path: Path) -> None:
    file = a_file(tmp_path, data=bytes_of_its_own(tmp_path, 8 << 20))
    reference, _ = command.run("push", file, "--name", "twice")
    async with road_to(command.store.endpoint, limit=4 << 20) as (road, endpoint):
        first = await command.start("pull", reference, tmp_path / "node", endpoint=endpoint)
        await until(lambda: road.carried >= road.limit)
        second = await command.start("pull", reference, tmp_path / "node", endpoint=endpoint)
        assert second.stderr
        assert b"another pull of it is under way" in await asyncio.wait_for(second.stderr.readline(), PATIENCE_S)
        road.go_on.set()
        copies = [(await command.end(process))[0] for process in (first, second)]
    assert copies[0] == copies[1]
    assert is_copy(copies[0], file)
    assert road.carried < size_of(file) + (1 << 20)


async def test_a_pull_that_is_told_to_stop_says_so_and_the_next_goes_on(command: Command, tmp_path: Path) -> None:
    file = a_file(tmp_path, data=bytes_of_its_own(tmp_path, 8 << 20))
    reference, _ = command.run("push", file, "--name", "stopped")
    async with road_to(command.store.endpoint, limit=4 << 20) as (road, endpoint):
        pulling = await command.start("pull", reference, tmp_path / "node", endpoint=endpoint)
        await until(lambda: road.carried >= road.limit)
        pulling.terminate()
        await asyncio.sleep(0.1)  # where the signal comes later, it finds a pull that tries again
        road.is_cut = True
        road.go_on.set()
        assert await command.end(pulling, code=143) == ("", "error: stopped before it was done")
    assert is_copy(command.run("pull", reference, tmp_path / "node")[0], file)


def test_a_wrong_byte_in_the_store_is_refused_by_name_and_mended_by_a_push(command: Command, tmp_path: Path) -> None:
    base = a_folder(tmp_path / "base", unet=bytes_of_its_own(tmp_path, 100_000))
    reference, _ = command.run("push", base, "--name", "damaged")
    path = "unet/diffusion_pytorch_model.safetensors"
    file = (base / path).read_bytes()
    key = blob_key(hashlib.sha256(file).hexdigest())
    store = command.store
    with open_store(StoreSettings(store.endpoint, store.access_key, store.secret_key, store.bucket)) as opened:
        assert opened.get(key) == file
        opened.put(key, io.BytesIO(file[:-1] + bytes([file[-1] ^ 1])), len(file))
    _, said = command.run("pull", reference, tmp_path / "node", code=1)
    assert path in said
    assert key in said
    assert "[BASE_CORRUPT]" in said
    assert len(said.splitlines()) == 1
    assert [each.name for each in (tmp_path / "node").iterdir() if not each.name.startswith(".")] == []
    command.run("push", base, "--name", "damaged", "--rewrite")
    copy, _ = command.run("pull", reference, tmp_path / "node")
    assert files_in(Path(copy)) == files_in(base)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("push", "x.ckpt", "--name", "x"), 4, "[BASE_REFUSED]"),
        (("push", "x.safetensors", "--name", "X"), 2, "name: must match"),
        (("pull", "store://bases/x@0123", "node"), 2, "has 4 of 64 digits"),
        (("pull", f"store://bases/x@{'0' * 64}", "node"), 3, "[BASE_NOT_FOUND]"),
        (("delete", f"x@{'0' * 64}", "--confirm", "x"), 3, "[BASE_NOT_FOUND]"),
        (("list", "--store", "http://store:9000"), 2, "LOOKSMITH_STORE_ENDPOINT: must be HOST:PORT"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    a_file(tmp_path, name="x.safetensors")
    (tmp_path / "x.ckpt").write_bytes(b"-")
    out, err = command.run(*arguments, code=code)
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


def test_a_push_of_a_folder_with_many_faults_names_them(command: Command, tmp_path: Path) -> None:
    base = a_folder(tmp_path / "base", more={f"{i}.bin": b"-" for i in range(7)})
    _, said = command.run("push", base, "--name", "bad", code=4)
    assert "0.bin is a pickle" in said
    assert "and 2 more" in said

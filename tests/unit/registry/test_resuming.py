"""The publisher's end of an upload that breaks off, against a real server: what is sent again, and how often."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from looksmith import uploading
from looksmith.cli.publishing import _saying_how_to_go_on
from looksmith.errors import Internal, InvalidField, LooksmithError, NotFound, Unavailable, Unimplemented
from looksmith.lora import pack
from looksmith.nouns import Brand
from looksmith.publisher import _pieces
from services.chassis.server import grpc_server
from services.registry import content
from services.registry.blobs import PART_BYTES
from services.registry.client import RegistryClient
from services.registry.commit_log import Surroundings
from services.registry.compose import apis
from services.registry.content import pieces_of
from services.registry.core import Core, assemble
from services.registry.errors import (
    BrandNotFound,
    ChunkCorrupt,
    DigestMismatch,
    OutcomeUnknown,
    StoreRefused,
    StoreUnavailable,
    UploadNotFound,
    UploadOffset,
)
from services.registry.fake_client import TrustingJudge
from services.registry.messages import Published, PublishHeader, UploadState
from services.registry.object_store import InMemoryObjectStore
from tests.unit.looksmith.lora.lora_files import TO_K, TO_Q, peft, peft_folder, tiny_table
from tests.unit.registry.parts import a_core_with_brand, chunks, header_for, lora_file
from tests.unit.registry.test_client import SETTINGS

PART, PIECE = 100, 40
DATA = lora_file()

#: How a try ends that the server cut short; now and then grpc.aio says INTERNAL for it (grpc#36066).
LOST = (Unavailable, Internal)


class Failing:
    """A publisher of which calls fail as a test wants, and what is held by uploads, or what a test says is.

    Attributes:
        faults: of the next calls: after how many bytes each fails, and how.
        answers: to the next questions about what is held.
        calls: offset and request id of each call.
        asked: how many such questions there were.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.faults: list[tuple[int, LooksmithError]] = []
        self.answers: list[int | LooksmithError] = []
        self.calls: list[tuple[int, str]] = []
        self.asked = 0

    async def publish(self, header: PublishHeader, chunks: AsyncIterator[bytes], **options: Any) -> Published:  # noqa: ANN401  # passed on
        self.calls.append((header.offset, header.request_id))
        after, fault = self.faults.pop(0) if self.faults else (len(DATA) + 1, None)

        async def failing() -> AsyncIterator[bytes]:
            received = 0
            async for chunk in chunks:
                received += len(chunk)
                if fault and received > after:
                    raise fault
                yield chunk

        published = await self.core.publisher.publish(header, failing(), **options)
        if fault:
            raise fault  # it was done, and nobody is told
        return published

    async def state(self, brand: str, request_id: str) -> UploadState:
        self.asked += 1
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, LooksmithError):
                raise answer
            return UploadState(answer)
        return await self.core.uploads.state(brand, request_id)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "SENT_AT_ONCE_BYTES", PART)
    monkeypatch.setattr(uploading, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(uploading, "SETTLES_S", 0.01)
    monkeypatch.setattr(content, "PIECE_BYTES", PIECE)


@pytest.fixture
async def failing() -> Failing:
    return Failing(await a_core_with_brand(InMemoryObjectStore(), part_bytes=PART))


@pytest.fixture
async def registry(failing: Failing) -> AsyncIterator[RegistryClient]:
    core = replace(failing.core, publisher=failing, uploads=failing)  # type: ignore[arg-type]  # it does what they do
    async with grpc_server(SETTINGS, apis(core)) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield RegistryClient(channel)


def unavailable() -> LooksmithError:
    return Unavailable("gone")


@pytest.mark.parametrize("fault", [unavailable, lambda: ChunkCorrupt(300, 40), lambda: UploadOffset(0, held=0)])
async def test_what_broke_off_is_gone_on_with_where_the_registry_says(
    registry: RegistryClient, failing: Failing, fault: Callable[[], LooksmithError]
) -> None:
    failing.faults = [(350, fault()), (450 - 300, fault())]
    published = await registry.publish(header_for(DATA), [DATA])
    assert (published.version.version, published.already_existed) == (1, False)
    assert [offset for offset, _ in failing.calls] == [0, 300, 400]
    got = b"".join([piece async for piece in registry.download("acme", published.version.digest)])
    assert got == DATA


async def test_an_upload_without_a_request_id_gets_one_and_keeps_it(registry: RegistryClient, failing: Failing) -> None:
    failing.faults = [(350, unavailable())]
    await registry.publish(header_for(DATA), [DATA])
    (first, second), other = (request_id for _, request_id in failing.calls), header_for(lora_file("other"))
    assert first == second != ""
    await registry.publish(other, [lora_file("other")])
    assert failing.calls[-1][1] not in {first, ""}


async def test_a_lost_answer_is_asked_for_again_and_nothing_sent_again(
    registry: RegistryClient, failing: Failing
) -> None:
    failing.faults = [(len(DATA) + 1, OutcomeUnknown())]
    published = await registry.publish(header_for(DATA), [DATA])
    assert (published.version.version, published.already_existed) == (1, False)
    assert [offset for offset, _ in failing.calls] == [0, len(DATA)]


async def test_an_earlier_upload_of_the_request_is_gone_on_with(registry: RegistryClient, failing: Failing) -> None:
    header = header_for(DATA, request_id="r")
    with pytest.raises(ConnectionError):
        await failing.core.publisher.publish(header, cut(DATA[:350]))
    progress: list[int] = []
    await registry.publish(header, [DATA], on_progress=progress.append)
    assert failing.calls == [(300, "r")]
    assert progress[0] == 300 + PIECE
    assert progress[-1] == len(DATA)


async def cut(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks(data, PIECE):
        yield chunk
    raise ConnectionError


async def test_a_small_file_is_sent_again_without_a_question(
    registry: RegistryClient, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "SENT_AT_ONCE_BYTES", len(DATA))
    failing.faults = [(350, unavailable())]
    await registry.publish(header_for(DATA, request_id="r"), [DATA])
    assert ([offset for offset, _ in failing.calls], failing.asked) == ([0, 0], 0)


@pytest.mark.parametrize(
    "refusal",
    [
        BrandNotFound("acme"),
        InvalidField("size_bytes", "is too much", reason="E_SIZE"),
        DigestMismatch(announced=header_for(DATA).digest, received="0" * 64),
        StoreRefused("AccessDenied"),
    ],
    ids=lambda refusal: refusal.reason,
)
async def test_what_can_not_succeed_is_not_tried_again(
    registry: RegistryClient, failing: Failing, refusal: LooksmithError
) -> None:
    failing.faults = [(len(DATA) + 1, refusal)]  # at the end: gRPC may lose what is answered while more is being sent
    with pytest.raises(LooksmithError) as caught:
        await registry.publish(header_for(DATA), [DATA])
    assert caught.value.reason == refusal.reason
    assert len(failing.calls) == 1


async def test_it_gives_up_once_several_tries_got_no_further(registry: RegistryClient, failing: Failing) -> None:
    failing.faults = [(50, unavailable()) for _ in range(50)]
    with pytest.raises(LOST, match=r"gone|Internal error from Core"):
        await registry.publish(header_for(DATA), [DATA])
    assert len(failing.calls) == uploading.TRIES


async def test_it_does_not_give_up_while_it_gets_on(registry: RegistryClient, failing: Failing) -> None:
    failing.faults = [(130, unavailable()) for _ in range(uploading.TRIES + 1)]
    await registry.publish(header_for(DATA), [DATA])
    assert len(failing.calls) > uploading.TRIES


async def test_tries_end_with_the_deadline(
    registry: RegistryClient, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "FIRST_PAUSE_S", 1.0)
    failing.faults = [(50, unavailable()) for _ in range(50)]
    began = time.monotonic()
    with pytest.raises(LOST):
        await registry.publish(header_for(DATA), [DATA], deadline_s=4)
    assert time.monotonic() - began < 10
    assert len(failing.calls) < uploading.TRIES


async def test_a_registry_that_says_when_to_come_back_is_not_asked_before(
    registry: RegistryClient, failing: Failing
) -> None:
    # Come back after a second; said at the end, since gRPC may lose what is answered while more is being sent.
    failing.faults = [(len(DATA) + 1, StoreUnavailable("down"))]
    began = time.monotonic()
    await registry.publish(header_for(DATA), [DATA])
    assert time.monotonic() - began >= 1


async def test_what_is_held_counts_once_it_no_longer_grows(registry: RegistryClient, failing: Failing) -> None:
    failing.faults, failing.answers = [(350, unavailable())], [100, 200]
    await registry.publish(header_for(DATA), [DATA])
    assert [offset for offset, _ in failing.calls] == [0, 300]


@pytest.mark.parametrize("answer", [UploadNotFound("r"), Unimplemented("an older registry")])
async def test_where_nothing_is_held_the_file_is_sent_from_its_start(
    registry: RegistryClient, failing: Failing, answer: LooksmithError
) -> None:
    failing.faults, failing.answers = [(350, unavailable())], [answer, answer]
    await registry.publish(header_for(DATA), [DATA])
    assert [offset for offset, _ in failing.calls] == [0, 0]


async def test_a_question_that_fails_is_a_try_like_any_other(registry: RegistryClient, failing: Failing) -> None:
    failing.faults, failing.answers = [(350, unavailable())], [Unavailable("gone too"), Unavailable("still")]
    await registry.publish(header_for(DATA), [DATA])
    assert [offset for offset, _ in failing.calls] == [0, 300]


async def test_the_command_goes_on_with_an_upload_of_an_earlier_process(tmp_path: Path) -> None:
    data = bytes(PART_BYTES + 1000)
    (tmp_path / "file").write_bytes(data)
    core = assemble(
        store=InMemoryObjectStore(), judging=TrustingJudge, around=Surroundings(writer="one"), head_max_age_s=0
    )
    await core.brands.put(Brand("acme"))
    header = header_for(data, family="any", request_id="r")
    with pytest.raises(ConnectionError):
        await core.publisher.publish(header, cut(data[: PART_BYTES + 100]))
    failing = Failing(core)
    noted = replace(core, publisher=failing, uploads=failing)  # type: ignore[arg-type]  # it does what they do
    async with grpc_server(SETTINGS, apis(noted)) as server:
        command = "from looksmith.cli.app import app; app()"
        arguments = ["publish", "acme/style", str(tmp_path / "file"), "--family", "any", "--request-id", "r"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", command, *arguments, "--registry", server.address, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert b"published as version 1" in told
    assert failing.calls == [(PART_BYTES, "r")]


def test_the_command_tells_how_to_go_on_with_what_broke_off(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable), _saying_how_to_go_on("r"):
        raise Unavailable("gone")
    assert "--request-id r" in capsys.readouterr().err
    with pytest.raises(NotFound), _saying_how_to_go_on("r"):
        raise NotFound("no such brand")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("offset", [0, 1, 300, 900])
def test_a_packed_folder_is_sent_from_any_place_on(tmp_path: Path, offset: int) -> None:
    tensors = peft(tiny_table(), "unet", {TO_Q: 2, TO_K: 2})
    folder = peft_folder(tmp_path / "folder", tensors, {})
    whole = b"".join(pack(folder).chunks())
    assert len(whole) > 900
    assert b"".join(_pieces(folder, offset)) == whole[offset:]
    (tmp_path / "file").write_bytes(whole)
    assert b"".join(_pieces(tmp_path / "file", offset)) == whole[offset:]


@pytest.mark.parametrize("offset", [0, 1, PIECE, PIECE + 3, 500, len(DATA)])
def test_content_is_read_from_any_place_on(tmp_path_factory: pytest.TempPathFactory, offset: int) -> None:
    file = tmp_path_factory.mktemp("content") / "file"
    file.write_bytes(DATA)
    for each in (file, [DATA], [DATA[:33], DATA[33:34], DATA[34:]], lambda: iter([DATA[:200], DATA[200:]])):
        pieces = list(pieces_of(each, offset))
        assert b"".join(pieces) == DATA[offset:]
        assert all(0 < len(piece) <= PIECE for piece in pieces)

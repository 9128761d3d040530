"""Uploads over connections that are cut, to replicas that are killed, into a store that fails: none starts anew."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from benchmarks.cutting_proxy import cutting_proxy
from benchmarks.large_files import write_large_lora
from benchmarks.replicas import environ_of
from looksmith.cli.processes import Processes
from looksmith.cli.stack import CHECKOUT, free_run, is_serving
from looksmith.lora import packaged_table
from looksmith.nouns import Brand
from services.chassis.server import grpc_server
from services.registry.blobs import PART_BYTES
from services.registry.client import RegistryClient, measured
from services.registry.compose import apis
from services.registry.core import Core, assemble
from services.registry.errors import UploadNotFound
from services.registry.fake_client import TrustingJudge
from services.registry.messages import Published, PublishHeader
from services.registry.object_store import ObjectStore
from services.registry.publisher import Publisher
from services.registry.seaweedfs import RunningStore
from tests.unit.registry.parts import Clock, chunks, surroundings
from tests.unit.registry.test_client import SETTINGS

pytestmark = pytest.mark.integration

DATA = Random(7).randbytes(5 * PART_BYTES + 12_345)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Noted:
    """A publisher that notes where in its file each call went on, and up to where it was received."""

    def __init__(self, publisher: Publisher, calls: list[list[int]]) -> None:
        self._publisher, self._calls = publisher, calls

    async def publish(self, header: PublishHeader, chunks: AsyncIterator[bytes], **options: Any) -> Published:  # noqa: ANN401  # passed on
        call = [header.offset, header.offset]
        self._calls.append(call)

        async def noted() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                call[1] += len(chunk)
                yield chunk

        return await self._publisher.publish(header, noted(), **options)


def replica(store: ObjectStore, *, seed: int = 0, clock: Clock | None = None, part_bytes: int = PART_BYTES) -> Core:
    """A registry that takes any bytes."""
    return assemble(
        store=store,
        judging=TrustingJudge,
        around=surroundings(clock, seed=seed),
        head_max_age_s=0,
        part_bytes=part_bytes,
    )


@asynccontextmanager
async def served(core: Core, calls: list[list[int]]) -> AsyncIterator[str]:
    """The address of a replica."""
    noted = replace(core, publisher=Noted(core.publisher, calls))  # type: ignore[arg-type]  # it does what one does
    async with grpc_server(SETTINGS, apis(noted)) as server:
        yield server.address


def header(brand: str, **fields: Any) -> PublishHeader:  # noqa: ANN401  # passed on
    return PublishHeader(brand, "style", "any", DIGEST, len(DATA), **fields)


async def stored(core: Core, brand: str) -> str:
    """Digest of what is read back."""
    sha256 = hashlib.sha256()
    async for piece in await core.catalog.open(brand, DIGEST):
        sha256.update(piece)
    return sha256.hexdigest()


async def test_an_upload_that_is_cut_at_random_bytes_goes_on_at_the_other_replica_with_at_most_a_part_sent_again(
    weed: RunningStore,
) -> None:
    calls: list[list[int]] = []
    draw = Random(11)
    cuts = [draw.randrange(2 * PART_BYTES) for _ in range(4)] + [100]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(weed.client())
        cores = [replica(store, seed=seed) for seed in range(2)]
        addresses = [await stack.enter_async_context(served(core, calls)) for core in cores]
        address = await stack.enter_async_context(cutting_proxy(addresses, iter(cuts)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        await cores[0].brands.put(Brand("cut"))
        progress: list[int] = []
        published = await RegistryClient(channel).publish(header("cut"), [DATA], on_progress=progress.append)
        assert (published.version.version, published.already_existed) == (1, False)
        assert await stored(cores[1], "cut") == DIGEST
        keys = await store.keys("r1/b/cut/")
    assert len(calls) >= 5
    assert progress[-1] == len(DATA)
    resent = [end - start for (_, end), (start, _) in pairwise(calls)]
    assert max(resent) <= PART_BYTES, (resent, calls)
    assert not [key for key in keys if "/up/" in key]
    assert len([key for key in keys if "/blobs/" in key]) == 6, "each part was stored once"


async def test_a_replica_that_is_killed_in_the_middle_is_another_s_to_go_on_for(
    weed: RunningStore, tmp_path: Path
) -> None:
    file = write_large_lora(packaged_table("sd15"), tmp_path / "large.safetensors", rank=96)
    digest, size = measured(file)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(
            Processes(tmp_path / "logs", cwd=CHECKOUT, environ=environ_of(weed), stop_within_s=20)
        )
        base = free_run(2)
        addresses = [f"127.0.0.1:{base + number}" for number in range(2)]
        for number, address in enumerate(addresses):
            await processes.start(str(number), [sys.executable, "-m", "services.registry"], REGISTRY_PORT=base + number)
            async with grpc.aio.insecure_channel(address) as channel:
                while not await is_serving(channel):  # noqa: ASYNC110  # it is another process
                    await asyncio.sleep(0.1)
        victim = processes.pid("0")
        address = await stack.enter_async_context(
            cutting_proxy(addresses, iter([size * 3 // 4]), on_cut=lambda: os.kill(victim, signal.SIGKILL))
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        registry = RegistryClient(await stack.enter_async_context(grpc.aio.insecure_channel(addresses[1])))
        await registry.put_brand(Brand("killed"))
        published = await RegistryClient(channel).publish(PublishHeader("killed", "style", "sd15", digest, size), file)
        assert (published.version.version, published.already_existed) == (1, False)
        sha256 = hashlib.sha256()
        async for piece in registry.download("killed", digest):
            sha256.update(piece)
        log = processes.log("1").read_text()
    assert sha256.hexdigest() == digest
    assert '"event": "upload.resumed"' in log, "it went on, and did not begin anew"


async def test_a_store_that_hangs_up_in_the_middle_costs_no_more_than_a_few_parts(weed: RunningStore) -> None:
    calls: list[list[int]] = []
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(cutting_proxy([weed.endpoint], iter([None, 5 << 20, 9 << 20])))
        store = await stack.enter_async_context(replace(weed, endpoint=way).client())
        core = replica(store)
        address = await stack.enter_async_context(served(core, calls))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        await core.brands.put(Brand("hung"))
        published = await RegistryClient(channel).publish(header("hung", request_id="r"), [DATA])
        assert (published.version.version, published.already_existed) == (1, False)
        assert await stored(core, "hung") == DIGEST
    assert len(calls) > 1, "nothing failed"


async def test_two_streams_of_one_request_at_two_replicas_make_one_version(weed: RunningStore) -> None:
    async with weed.client() as store:
        first, second = replica(store), replica(store, seed=1)
        await first.brands.put(Brand("twice"))
        asked = header("twice", request_id="r")
        one, other = await asyncio.gather(
            first.publisher.publish(asked, chunks(DATA, 1 << 20)),
            second.publisher.publish(asked, chunks(DATA, 300_000)),
        )
        assert one == other
        assert await stored(first, "twice") == DIGEST
        assert (await second.catalog.get("twice", "style")).latest_version == 1
        keys = await store.keys("r1/b/twice/")
    assert len([key for key in keys if "/blobs/" in key]) == 6
    assert not [key for key in keys if "/up/" in key]


async def test_what_is_held_of_an_upload_expires(weed: RunningStore) -> None:
    clock = Clock()
    async with weed.client() as store:
        core = replica(store, clock=clock, part_bytes=100)
        await core.brands.put(Brand("expired"))

        async def cut() -> AsyncIterator[bytes]:
            yield DATA[:250]
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await core.publisher.publish(header("expired", request_id="r"), cut())
        clock.seconds += 86_399
        assert (await core.uploads.state("expired", "r")).received_bytes == 200
        clock.seconds += 1
        with pytest.raises(UploadNotFound):
            await core.uploads.state("expired", "r")

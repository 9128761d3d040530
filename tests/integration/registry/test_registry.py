"""The registry on a real store: as a process of its own, and as replicas that race."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from looksmith.errors import InvalidArgument
from looksmith.lora import table_to_json
from looksmith.nouns import AdapterRef, Brand
from services.registry.client import RegistryClient
from services.registry.errors import AdapterYanked
from services.registry.messages import EventKind
from services.registry.seaweedfs import RunningStore
from tests.unit.registry.parts import TABLE, Clock, a_core, header_for, lora_file, publish

pytestmark = pytest.mark.integration


@asynccontextmanager
async def registry_process(weed: RunningStore, bases: Path) -> AsyncIterator[str]:
    """The address of a registry that was started as its users start it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.registry",
        stderr=asyncio.subprocess.PIPE,
        env={
            **weed.beside("processes").environ(),
            "REGISTRY_BASES": str(bases),
        },
    )
    assert process.stderr
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while line := (await process.stderr.readline()).decode():
                lines.append(line)
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") == "server.listening":
                    break
            else:
                raise AssertionError("".join(lines))
        draining = asyncio.create_task(process.stderr.read())
        yield event["address"]
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)
        assert process.returncode == 0, (await draining).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_publisher_s_file_comes_back_from_another_registry_process(weed: RunningStore, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(table_to_json(TABLE))
    data = lora_file()
    async with registry_process(weed, tmp_path) as address, grpc.aio.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its stubs leave it out
        health = await check(health_pb2.HealthCheckRequest(service="looksmith.v1.AdapterRegistryService"))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        registry = RegistryClient(channel)
        await registry.put_brand(Brand("acme"))
        published = await registry.publish(header_for(data, request_id="r1"), [data])
        with pytest.raises(InvalidArgument):
            await registry.publish(header_for(data[:-1]), [data[:-1]])
    async with registry_process(weed, tmp_path) as address, grpc.aio.insecure_channel(address) as channel:
        registry = RegistryClient(channel)
        resolved = await registry.resolve(AdapterRef("acme", "style"))
        assert resolved.version == published.version
        assert b"".join([piece async for piece in registry.download("acme", resolved.version.digest)]) == data
        assert await registry.publish(header_for(data, request_id="r1"), [data]) == published


async def test_racing_replicas_lose_and_double_no_version(weed: RunningStore) -> None:
    async with weed.client() as store:
        replicas = [a_core(store, seed=seed) for seed in range(4)]
        await replicas[0].brands.put(Brand("race"))
        published = await asyncio.gather(
            *(publish(core, lora_file(f"{n}-{i}"), brand="race") for i, core in enumerate(replicas) for n in range(2))
        )
        assert sorted(each.version.version for each in published) == list(range(1, 9))
        versions = (await a_core(store).catalog.list_versions("race", "style", 100, "")).items
        assert {each.digest for each in versions} == {each.version.digest for each in published}
        assert (await a_core(store).catalog.get("race", "style")).seq == 8


async def test_a_version_yanked_by_force_is_refused_at_every_replica_within_the_age_of_its_memory_and_remembered(
    weed: RunningStore,
) -> None:
    async with weed.client() as store:
        clocks = Clock(), Clock()
        here, there = (a_core(store, clock=clock, seed=i, max_age_s=1) for i, clock in enumerate(clocks))
        look = AdapterRef("yanked", "style")
        await here.brands.put(Brand("yanked"))
        data = lora_file()
        published = await publish(here, data, brand="yanked", publisher="ann")
        assert (await there.catalog.resolve(look)).version == published.version
        in_force = clocks[0].wall()
        clocks[0].seconds += 60

        yanked = await here.catalog.yank(AdapterRef("yanked", "style", 1), force=True, reason="the old logo")
        clocks[1].seconds += 0.9
        assert (await there.catalog.resolve(look)).seq == 1
        clocks[1].seconds += 0.1
        with pytest.raises(AdapterYanked):
            await there.catalog.resolve(look)
        digest = published.version.digest
        assert b"".join([piece async for piece in await there.catalog.open("yanked", digest)]) == data

        told, first = (await there.catalog.history("yanked", "style", 10, "")).items
        assert (told.seq, told.kind, told.version, told.reason) == (yanked.seq, EventKind.YANKED, 1, "the old logo")
        assert (first.kind, first.actor) == (EventKind.PUBLISHED, "ann")
        then = (await there.catalog.history("yanked", "style", 1, "", at_time=in_force)).items[0]
        assert [(alias.name, alias.version) for alias in then.aliases] == [("production", 1)]
        assert then.kind is EventKind.PUBLISHED
        assert await there.catalog.yank(AdapterRef("yanked", "style", 1), reason="again") == yanked
        assert (await a_core(store).catalog.get("yanked", "style")).seq == yanked.seq

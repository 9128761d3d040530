"""The command that changes a brand's record, against a real registry; and records that are older than their fields."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from looksmith.cli.brand_records import change
from looksmith.cli.terminal import Problem
from looksmith.nouns import AdapterUse, Brand, BrandLimits
from looksmith.v1 import brand_pb2, brand_pb2_grpc
from services.chassis.server import grpc_server
from services.registry.compose import apis
from services.registry.core import Core
from services.registry.object_store import InMemoryObjectStore
from tests.unit.registry.parts import a_core
from tests.unit.registry.test_client import SETTINGS

ACME = Brand(
    "acme",
    display_name="Acme & Sons",
    default_adapters=(AdapterUse("style", 3, 0.5), AdapterUse("logo")),
    prompt_template="{prompt}, in Acme's look",
    negative_prompt="blurry",
    recipe="studio",
    fair_share_weight=2.5,
    limits=BrandLimits(max_queued_jobs=5),
    default_width=768,
    default_height=512,
)
#: As a registry wrote it that knew no default size.
OLD = (
    '{"seq":1,"prev_digest":"","txn_id":"1","writer":"r","time":"2026-01-01T00:00:00Z","event":{"brand":BRAND},'
    '"state":BRAND,"format":1,"stands_for":""}'
).replace(
    "BRAND",
    '{"name":"acme","display_name":"","default_adapters":[{"adapter":"style","pick":"production","weight":1.0}],'
    '"prompt_template":"","negative_prompt":"","recipe":"fast","fair_share_weight":1.0,"limits":{"max_queued_jobs":0,'
    '"max_images_per_request":0,"max_gpu_seconds_per_minute":0.0,"max_stored_bytes":0},"version":1,'
    '"update_time":"2026-01-01T00:00:00Z"}',
)


@pytest.fixture
async def core() -> Core:
    core = a_core(InMemoryObjectStore())
    await core.brands.put(ACME)
    return core


@pytest.fixture
async def address(core: Core) -> AsyncIterator[str]:
    async with grpc_server(SETTINGS, apis(core)) as server:
        yield server.address


@pytest.fixture
async def stub(address: str) -> AsyncIterator[brand_pb2_grpc.BrandServiceAsyncStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield brand_pb2_grpc.BrandServiceStub(channel)


async def looksmith(*argv: str, registry: str) -> tuple[int, str, str]:
    command = (str(Path(sys.executable).with_name("looksmith")), *argv, "--registry", registry)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def put(address: str, *options: str) -> str:
    code, out, err = await looksmith("brand", "put", "acme", *options, registry=address)
    assert (code, err) == (0, "")
    return out


async def stored(core: Core) -> Brand:
    """The record, but for its version and time."""
    return replace(await core.brands.get("acme"), version=0, update_time=None)


async def test_recipe_alone_is_changed_and_what_is_printed_puts_it_back(core: Core, address: str) -> None:
    told = await put(address, "--recipe", "sdxl-hyper")
    assert await stored(core) == replace(ACME, recipe="sdxl-hyper")
    first, setting, back = told.splitlines()
    assert (first, setting) == ("acme is now version 2 (was 1)", "  recipe: sdxl-hyper (was studio)")
    command, *argv = shlex.split(back.removeprefix("to put it back: "))
    assert (command, argv[:5]) == ("looksmith", ["brand", "put", "acme", "--recipe", "studio"])
    await put(address, *argv[3:])
    assert await stored(core) == ACME
    assert (await core.brands.get("acme")).version == 3


async def test_every_setting_can_be_changed_and_put_back_by_the_command_that_is_printed(
    core: Core, address: str
) -> None:
    told = await put(
        address,
        *("--recipe", "", "--size", "0x0", "--template", "", "--negative-prompt", "", "--no-adapters"),
        *("--share", "1", "--display-name", "-"),
    )
    assert await stored(core) == Brand("acme", display_name="-", limits=ACME.limits)
    assert "  adapter: none (was style@3=0.5, logo)" in told
    back = shlex.split(told.splitlines()[-1].removeprefix("to put it back: "))
    again = json.loads(await put(address, *back[4:], "--json"))
    assert await stored(core) == ACME
    assert (again["brand"]["recipe"], again["before"]["display_name"]) == ("studio", "-")


async def test_record_that_is_so_already_is_not_stored_again(
    core: Core, stub: brand_pb2_grpc.BrandServiceAsyncStub
) -> None:
    for changes in ({"recipe": "studio"}, {}):
        before, after = await change(stub, "acme", changes)
        assert before == after
    assert (await core.brands.get("acme")).version == 1


async def test_brand_without_a_record_gets_one(core: Core, stub: brand_pb2_grpc.BrandServiceAsyncStub) -> None:
    before, after = await change(stub, "harbour", {"recipe": "studio"})
    assert (before, after.version) == (None, 1)
    assert (await core.brands.get("harbour")).recipe == "studio"


class Meddling:
    """Real calls, and somebody else who puts the brand right after it was read."""

    def __init__(self, stub: brand_pb2_grpc.BrandServiceAsyncStub, core: Core) -> None:
        self._stub, self._core, self.PutBrand = stub, core, stub.PutBrand

    async def GetBrand(self, request: brand_pb2.GetBrandRequest, timeout: float) -> brand_pb2.GetBrandResponse:
        read = await self._stub.GetBrand(request, timeout=timeout)
        await self._core.brands.put(replace(ACME, display_name="Acme"))
        return read


async def test_change_of_a_record_that_somebody_else_changed_meanwhile_is_not_made(
    core: Core, stub: brand_pb2_grpc.BrandServiceAsyncStub
) -> None:
    with pytest.raises(Problem, match="has version 2, not 1") as caught:
        await change(Meddling(stub, core), "acme", {"recipe": "other"})  # type: ignore[arg-type]  # it makes the two calls
    assert caught.value.code == 6
    assert await stored(core) == replace(ACME, display_name="Acme")


async def test_record_of_a_registry_that_knew_no_default_size_reads_as_before() -> None:
    store = InMemoryObjectStore()
    store.objects["r1/b/acme/brand/00000000000000000001.json"] = OLD.encode()
    core = a_core(store)
    brand = await core.brands.get("acme")
    assert (brand.recipe, brand.default_size, brand.version) == ("fast", None, 1)
    assert (await core.brands.put(replace(brand, recipe="slow"), expected_version=1)).recipe == "slow"

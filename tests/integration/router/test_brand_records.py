"""What a brand's record says of its recipe, size and prompt, as a router and a worker of one fleet take it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from looksmith.client import Looksmith
from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Lineage
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.engine.fake import FakeEngine
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.router.real_worker import router_and_worker
from tests.integration.router.scripted_workers import joined_worker
from tests.integration.router.test_generate import Painting, asked, painted, refusal
from tests.unit.gpu_worker.worker_parts import FilesRegistry, content, facts
from tests.unit.router.router_parts import Changes, KnownBrands, acme, recipe, resolved

pytestmark = pytest.mark.integration


@pytest.fixture
def brands() -> KnownBrands:
    return acme()


@pytest.fixture
async def address(settings: RouterSettings, brands: KnownBrands) -> AsyncIterator[str]:
    async with router(settings, registry=brands) as server:
        yield server.address


async def refused(painting: Painting, address: str, request: pb.GenerateRequest) -> LooksmithError:
    async with joined_worker(address, "w1") as worker:
        error = await refusal(painting, request)
    assert not worker.requests
    return error


def change(brands: KnownBrands, **changes: Changes) -> None:
    brands.brands["acme"] = replace(brands.brands["acme"], **changes)


async def test_a_brand_whose_recipe_no_worker_serves_is_refused_by_the_recipe_s_name(
    painting: Painting, address: str, brands: KnownBrands
) -> None:
    change(brands, recipe="sdxl-hyper")
    error = await refused(painting, address, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "RECIPE_NOT_FOUND")
    assert error.metadata == {"recipe": "sdxl-hyper"}
    assert error.message == "no worker serves recipe 'sdxl-hyper'; they serve studio"


async def test_a_brand_that_gets_its_former_recipe_back_paints_again(
    painting: Painting, address: str, brands: KnownBrands
) -> None:
    change(brands, recipe="sdxl-hyper")
    async with joined_worker(address, "w1"):
        assert (await refusal(painting, asked())).reason == "RECIPE_NOT_FOUND"
        assert (await painted(painting, asked(recipe="studio")))[-1].HasField("finished"), "a request's own goes first"
        change(brands, recipe="studio")
        assert (await painted(painting, asked(request_id="r2")))[-1].HasField("finished")


async def test_a_brand_s_size_that_the_recipe_does_not_paint_is_refused_by_the_record_s_field(
    painting: Painting, address: str, brands: KnownBrands
) -> None:
    change(brands, default_width=64, default_height=48)
    error = await refused(painting, address, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SIZE_UNSUPPORTED")
    assert error.violations[0].field == "brand.default_height"
    assert "recipe studio paints 64x64, not 64x48" in error.message


async def test_the_worker_is_told_the_brand_s_size_and_the_prompt_with_the_trigger_words(
    painting: Painting, address: str, brands: KnownBrands
) -> None:
    change(brands, default_width=96, default_height=64)
    version = resolved().version
    manifest = replace(version.manifest, lineage=Lineage(trigger_words=("kite", "thick ink")))
    brands.versions[AdapterRef("acme", "look")] = replace(resolved(), version=replace(version, manifest=manifest))
    sizes = (recipe(sizes=((64, 64), (96, 64))),)
    async with joined_worker(address, "w1", recipes=sizes) as worker:
        await painted(painting, asked())
        await painted(painting, asked(request_id="r2", raw_prompt=True, width=64, height=64))
    ours, raw = worker.requests
    assert [(each.width, each.height) for each in worker.requests] == [(96, 64), (64, 64)]
    assert ours.pinned.final_prompt == "thick ink, a red kite, in acme's look"
    assert raw.pinned.final_prompt == "a red kite"


async def test_a_router_and_a_worker_that_is_asked_directly_settle_the_same_prompt_and_size(tmp_path: Path) -> None:
    registry = FilesRegistry()
    data, words = content("look"), Lineage(trigger_words=("acme style",))
    registry.publish("acme", data, prompt_template="{prompt}, inked", default_width=32, default_height=16)
    for ref, known in registry.versions.items():
        manifest = replace(known.version.manifest, lineage=words)
        registry.versions[ref] = replace(known, version=replace(known.version, manifest=manifest))
    engine = FakeEngine([facts(sizes=((16, 16), (32, 16)))])
    told = []
    async with router_and_worker(tmp_path, registry, engine) as addresses:
        for address in addresses:
            async with Looksmith([address]) as client:
                painting = await client.paint(pb.GenerateRequest(brand="acme", prompt="a red kite"))
            (image,) = painting.images
            assert (painting.accepted.width, painting.accepted.height) == (image.width, image.height)
            told.append((painting.finished.final_prompt, image.width, image.height))
    assert told == [("acme style, a red kite, inked", 32, 16)] * 2

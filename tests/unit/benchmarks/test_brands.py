"""Many brands are real ones: adapters in every dialect and rank that a registry takes, all different."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks import brands
from benchmarks.lora_files import DIALECTS
from looksmith.lora import Limits, inspect, packaged_table, read_modules, read_weights
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc, registry_pb2_grpc
from looksmith.v1 import registry_pb2 as pb
from services.chassis.server import grpc_server
from services.registry.compose import apis
from services.registry.core import assemble
from services.registry.judging import judging
from services.registry.object_store import InMemoryObjectStore
from services.registry.tables import load_tables
from tests.unit.registry.parts import surroundings
from tests.unit.registry.test_client import SETTINGS

COUNT = 12  # all dialects and ranks occur
TABLE = packaged_table("studio")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return brands.write_brands(COUNT, tmp_path_factory.mktemp("brands"))


def test_no_two_brands_have_the_same_digest(files: list[Path]) -> None:
    assert len({digest(file) for file in files}) == COUNT


def test_every_dialect_and_rank_occurs_and_every_key_is_applied(files: list[Path]) -> None:
    found = [inspect(file, TABLE, declared_base=TABLE.digest) for file in files]
    assert {one.dialect for one in found} == set(DIALECTS)
    assert {one.ranks for one in found} == {(rank,) for rank in brands.RANKS}
    tensors = {"peft": 2, "diffusers": 2, "diffusers-old": 2, "kohya": 3}
    for file, one in zip(files, found, strict=True):
        assert len(one.modules) >= 72
        assert file.read_bytes().count(b'"dtype"') == tensors[one.dialect.value] * len(one.modules)


def test_an_index_and_a_seed_always_make_the_same_brand_and_another_seed_another(
    files: list[Path], tmp_path: Path
) -> None:
    looks = brands.shipped_looks()
    assert digest(brands.brand_file(5, folder=tmp_path, looks=looks)) == digest(files[5])
    assert digest(brands.brand_file(5, folder=tmp_path, looks=looks, seed=1)) != digest(files[5])


def test_a_look_taken_apart_adds_up_to_what_it_was(files: list[Path]) -> None:
    look = brands.look_of(files[1], TABLE)
    for module, down, up in read_weights(files[1], read_modules(files[1], TABLE)):
        whole, pieces = module.scale * up @ down, look[module.name]
        np.testing.assert_allclose(pieces.up @ pieces.down, whole, atol=1e-4 * np.abs(whole).max())


async def test_publishes_every_brand_into_production_and_may_be_repeated(files: list[Path]) -> None:
    core = assemble(
        store=InMemoryObjectStore(),
        judging=judging(load_tables(None), Limits()),
        around=surroundings(),
        head_max_age_s=0,
    )
    async with (
        grpc_server(SETTINGS, apis(core)) as server,
        grpc.aio.insecure_channel(server.address) as registry,
    ):
        digests = await brands.publish_brands(registry, files)
        assert digests == {file.stem: digest(file) for file in files}
        assert await brands.publish_brands(registry, files) == digests
        ref = adapter_pb2.AdapterRef(brand="brand-0003", adapter=brands.ADAPTER)
        stub = registry_pb2_grpc.AdapterRegistryServiceStub(registry)
        resolved = await stub.ResolveAdapter(pb.ResolveAdapterRequest(ref=ref))
        assert (resolved.version.version, resolved.version.digest) == (1, digests["brand-0003"])
        assert not resolved.version.manifest.warnings
        record = await brand_pb2_grpc.BrandServiceStub(registry).GetBrand(brand_pb2.GetBrandRequest(name="brand-0003"))
        assert [use.adapter for use in record.brand.default_adapters] == [brands.ADAPTER]

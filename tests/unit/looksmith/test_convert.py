from dataclasses import replace
from datetime import UTC, datetime

import pytest

from looksmith import convert
from looksmith.nouns import (
    Adapter,
    AdapterManifest,
    AdapterRef,
    AdapterUse,
    AdapterVersion,
    Alias,
    Brand,
    BrandLimits,
    Lineage,
    Malformed,
    PinnedAdapter,
    VersionState,
)
from looksmith.v1 import adapter_pb2

NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
HEX = "0f" * 32
MANIFEST = AdapterManifest("studio", HEX, "kohya", 108, 300_000, (4, 8), ("unet", "text_encoder"), convolutions=True)
LINEAGE = Lineage(("acme style", "ink"), 1, "epsilon", "studio base")


@pytest.mark.parametrize("pick", ["production", "staging", 7, HEX])
def test_references_and_uses_survive_the_wire(pick: int | str) -> None:
    ref, use = AdapterRef("b", "a", pick), AdapterUse("a", pick, weight=0.5)
    assert convert.ref_from_pb(convert.ref_to_pb(ref)) == ref
    assert convert.use_from_pb(convert.use_to_pb(use)) == use


def test_records_survive_the_wire() -> None:
    alias = Alias("production", 2, NOW)
    adapter = Adapter("b", "a", 2, (alias,), seq=5, create_time=NOW, update_time=NOW)
    version = AdapterVersion(
        "b", "a", 2, HEX, 1234, MANIFEST, NOW, VersionState.YANKED, publisher="me", note="n", labels={"k": "v"}
    )
    brand = Brand(
        "b",
        "B",
        (AdapterUse("a", 3, 0.8),),
        "{prompt}!",
        "grey",
        "studio",
        2.0,
        BrandLimits(1, 2, 3.5, 4),
        9,
        NOW,
        default_width=768,
        default_height=512,
    )
    pinned = PinnedAdapter("a", 2, HEX, 0.25)
    assert convert.adapter_from_pb(convert.adapter_to_pb(adapter)) == adapter
    for known in (version, replace(version, manifest=replace(MANIFEST, lineage=LINEAGE))):
        assert convert.version_from_pb(convert.version_to_pb(known)) == known
    assert convert.brand_from_pb(convert.brand_to_pb(brand)) == brand
    assert convert.pinned_from_pb(convert.pinned_to_pb(pinned)) == pinned


def test_an_unset_pick_means_production_and_an_unset_weight_one() -> None:
    assert convert.ref_from_pb(adapter_pb2.AdapterRef(brand="b", adapter="a")).pick == "production"
    assert convert.use_from_pb(adapter_pb2.AdapterUse(adapter="a")).weight == 1.0
    assert convert.use_from_pb(adapter_pb2.AdapterUse(adapter="a", weight=0.0)).weight == 0.0


@pytest.mark.parametrize(
    ("uses", "field"),
    [
        ([{"adapter": "a"}, {"adapter": "B"}], "adapters[1].adapter"),
        ([{"adapter": "a", "weight": 9.0}], "adapters[0].weight"),
        ([{"adapter": "a", "version": 0}], "adapters[0].version"),
        ([{"adapter": "a", "digest": "short"}], "adapters[0].digest"),
        ([{"adapter": "a"}, {"adapter": "a", "version": 2}], "adapters[1].adapter"),
        ([{"adapter": n} for n in "abcd"], "adapters"),
    ],
)
def test_a_malformed_use_is_named_with_its_index(uses: list[dict[str, object]], field: str) -> None:
    messages = [adapter_pb2.AdapterUse(**use) for use in uses]  # type: ignore[arg-type]  # fields of the table
    with pytest.raises(Malformed) as caught:
        convert.uses_from_pb("adapters", messages)
    assert caught.value.field == field

from __future__ import annotations

import pytest

from services.registry import layout
from services.registry.blobs import Blobs
from services.registry.object_store import InMemoryObjectStore


@pytest.mark.parametrize("seconds", ["9" * 12, "9" * 5000, "soon", ""])
def test_a_probe_whose_time_is_none_has_none(seconds: str) -> None:
    assert layout.probe_time(f"{layout.PROBES}{seconds}-0-x") is None


@pytest.mark.parametrize("seq", ["9" * 5000, "x", ""])
def test_an_entry_that_names_no_record_tells_nothing(seq: str) -> None:
    assert layout.feed_tidings(f"{layout.FEED}0-0.acme.look.{seq}") is None


async def test_strange_objects_beside_the_parts_of_an_upload_are_none_of_them() -> None:
    store = InMemoryObjectStore()
    blobs = Blobs(store=store, part_bytes=4)
    name = await blobs.put_part("blob", 0, b"abcd")
    for strange in ("x", "-", "\u0661-0123456789abcdef", "9" * 5000 + "-0123456789abcdef", "00001-short"):
        store.objects[layout.part("blob", strange)] = b"abcd"
    assert await blobs.whole_parts("blob", 8) == [name]

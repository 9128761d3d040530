"""Runs last, by its name: after all that was done to them, the servers do what they did before."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.bad_input.system import DOORS, GOOD, System, is_painted, pictures

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("door", DOORS)
async def test_the_same_good_request_still_paints_the_same_picture(system: System, door: str) -> None:
    (picture,) = pictures(await system.generate(door, GOOD))
    assert is_painted(picture)
    assert np.array_equal(picture, system.first_picture)


async def test_the_store_holds_one_record_and_one_file_for_each_thing_that_was_published(system: System) -> None:
    assert await system.listed() == system.published
    records = {f"r1/b/{brand}/a/{name}/log/{version:020d}.json" for brand, name, version, _ in system.published}
    brands = {f"r1/b/{brand}/brand/{1:020d}.json" for brand in ("acme", "frugal")}
    objects = system.objects()
    files = [key for key in objects if "/blobs/" in key]
    assert set(objects) - set(files) == records | brands
    published = sorted(f"r1/b/{brand}/blobs/{digest}" for brand, _, _, digest in system.published)
    assert sorted(key.partition(".")[0] for key in files) == published  # what follows is its upload's id

"""What pictures say of themselves, read by exiv2, which the command of that name and many programs use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyexiv2
import pytest

from looksmith.nouns import PinnedAdapter
from services.chassis.painting import ImageFormat, PaintRequest, Pinned, Settled
from services.gpu_worker.encode import encode
from services.gpu_worker.engine.protocol import Pixels
from services.gpu_worker.provenance import xmp_packet
from tests.unit.gpu_worker.worker_parts import facts

LOOK, LOGO = PinnedAdapter("look", 3, "c0" * 32, 0.8), PinnedAdapter("logo", 1, "d1" * 32, 1.0)
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def settled(*adapters: PinnedAdapter, seed: int = 7, **request: Any) -> Settled:  # noqa: ANN401  # of a request
    asked = PaintRequest(**{"brand": "acme", "prompt": "a secret kite", "request_id": "r-17", "count": 4, **request})
    return Settled(asked, facts(), adapters, seed, 16, 16, 4, 0.0, "a secret kite", "")


def read(data: bytes) -> dict[str, Any]:
    with pyexiv2.ImageData(data) as image:
        return dict(image.read_xmp())


@pytest.mark.parametrize("image_format", ImageFormat)
def test_a_picture_says_that_a_model_made_it_of_which_weights_and_from_which_seed(image_format: ImageFormat) -> None:
    packet = xmp_packet(settled(LOOK, LOGO), 2)
    assert read(encode(Pixels(16, 16, bytes(768)), image_format, packet)) == {
        "Xmp.iptcExt.DigitalSourceType": TRAINED,
        "Xmp.looksmith.Base": "b" * 64,
        "Xmp.looksmith.Recipe": "s" * 64,
        "Xmp.looksmith.Seed": "9",
        "Xmp.looksmith.Adapters": [LOOK.digest, LOGO.digest],
    }


def test_a_picture_of_the_base_alone_names_no_adapters_and_seeds_wrap_as_they_do_in_painting() -> None:
    found = read(encode(Pixels(16, 16, bytes(768)), ImageFormat.PNG, xmp_packet(settled(seed=2**64 - 1), 1)))
    assert "Xmp.looksmith.Adapters" not in found
    assert found["Xmp.looksmith.Seed"] == "0"


def test_the_packet_is_the_same_in_every_try_wherever_it_is_painted_and_tells_nothing_of_the_caller() -> None:
    first = settled(LOOK)
    pinned = Pinned((LOOK,), "s" * 64, "a secret kite", attempt=2, router="router-1", portion=1)
    asked = replace(first.request, request_id="other", pinned=pinned, images_done=frozenset({0}), report_steps=True)
    packet = xmp_packet(first, 1)
    assert xmp_packet(replace(first, request=asked, final_prompt="other"), 1) == packet
    assert not any(word in packet for word in (b"kite", b"acme", b"r-17", b"router"))


def test_a_digest_that_is_none_cannot_add_a_property_of_its_own() -> None:
    hostile = replace(LOOK, digest='"/><rdf:li>x</rdf:li>&')
    found = read(encode(Pixels(16, 16, bytes(768)), ImageFormat.PNG, xmp_packet(settled(hostile), 0)))
    assert found["Xmp.looksmith.Adapters"] == [hostile.digest]

"""What counts as wrong in a stream that a caller was sent."""

from __future__ import annotations

import pytest

from benchmarks.witness import Witness
from looksmith.v1 import generation_pb2 as pb


def placed(worker: str, *images: int, attempt: int = 1) -> pb.GenerateResponse:
    return pb.GenerateResponse(placed=pb.Placed(worker=worker, images=images, attempt=attempt))


def step(image: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(step=pb.StepDone(image=image, step=1, steps=4))


def chunk(image: int, offset: int = 0, size: int = 3) -> pb.GenerateResponse:
    return pb.GenerateResponse(chunk=pb.ImageChunk(image=image, offset=offset, data=b"x" * size))


def done(image: int, size: int = 3) -> pb.GenerateResponse:
    return pb.GenerateResponse(image_done=pb.ImageDone(image=image, size_bytes=size, sha256=f"{image:064x}"))


def restarted(image: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(image_restarted=pb.ImageRestarted(image=image))


ACCEPTED = pb.GenerateResponse(accepted=pb.Accepted())


def heard(*messages: pb.GenerateResponse, count: int = 2) -> Witness:
    witness = Witness(count)
    for at, message in enumerate(messages):
        witness.hear(message, float(at))
    witness.close()
    return witness


def test_finds_nothing_wrong_with_images_that_come_whole_once_and_in_any_order() -> None:
    witness = heard(ACCEPTED, placed("a"), chunk(1), chunk(0), chunk(1, 3), done(1, 6), done(0))
    assert not +witness.faults
    assert witness.sha256.keys() == {0, 1}


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([chunk(0), done(0)], "missing"),
        ([chunk(0), done(0), chunk(1), done(1), chunk(0), done(0)], "duplicates"),
        ([chunk(0), done(0), chunk(1), done(1), done(0)], "duplicates"),
        ([chunk(0), chunk(0), done(0), chunk(1), done(1)], "gaps"),
        ([chunk(0), chunk(0, 4), done(0, 7), chunk(1), done(1)], "gaps"),
        ([chunk(0), done(0, 4), chunk(1), done(1)], "gaps"),
        ([restarted(0), chunk(0), done(0), chunk(1), done(1)], "restarted without a part"),
    ],
)
def test_tells_what_is_wrong_with_a_stream(messages: list[pb.GenerateResponse], fault: str) -> None:
    assert heard(ACCEPTED, placed("a"), *messages).faults[fault]


def test_a_part_that_is_taken_back_or_asked_for_anew_may_come_from_the_start() -> None:
    witness = heard(
        ACCEPTED, placed("a"), chunk(0), restarted(0), chunk(0), ACCEPTED, chunk(0), done(0), chunk(1), done(1)
    )
    assert not +witness.faults
    assert witness.restarted == {0}
    assert witness.accepted == 2


def test_goes_on_with_the_first_word_about_a_struck_image_from_another_worker() -> None:
    witness = Witness(2)
    for message in (placed("a", 0), placed("b", 1), step(0), step(1)):
        witness.hear(message, 1.0)
    witness.strike("a")
    for at, message in enumerate((step(1), step(0), placed("b", 0, attempt=2), step(1), step(0), step(0)), start=2):
        witness.hear(message, float(at))
    assert witness.went_on is not None
    assert (witness.went_on.at, witness.went_on.worker) == (6.0, "b")
    assert witness.attempts == 2

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError

from benchmarks.fuzzing.messages import message_of, messages_of
from looksmith.v1 import brand_pb2, fleet_pb2, registry_pb2
from looksmith.v1 import generation_pb2 as pb


def test_the_same_bytes_make_the_same_message_and_others_another() -> None:
    draws = random.Random(1)
    datas = [b"\0" + draws.randbytes(80) for _ in range(50)]
    made = [message_of(pb.GenerateRequest, data).SerializeToString() for data in datas]
    assert made == [message_of(pb.GenerateRequest, data).SerializeToString() for data in datas]
    assert len(set(made)) > 40


def test_no_bytes_make_an_empty_message() -> None:
    assert message_of(pb.GenerateRequest, b"") == pb.GenerateRequest()


def test_every_field_is_set_by_some_bytes_and_left_out_by_others() -> None:
    draws = random.Random(2)
    made = [message_of(brand_pb2.Brand, b"\0" + draws.randbytes(400)) for _ in range(200)]
    for field in brand_pb2.Brand.DESCRIPTOR.fields:
        there = sum(any(field is each for each, _ in brand.ListFields()) for brand in made)
        assert 0 < there < len(made), field.name


def test_each_side_of_a_oneof_is_set_by_some_bytes() -> None:
    draws = random.Random(3)
    made = [message_of(fleet_pb2.JoinRequest, b"\0" + draws.randbytes(100)) for _ in range(100)]
    assert {each.WhichOneof("message") for each in made} == {None, "registration", "heartbeat"}


def test_some_bytes_are_taken_for_the_wire_format_itself() -> None:
    wire = pb.GenerateRequest(brand="acme", count=3).SerializeToString()
    assert message_of(pb.GenerateRequest, b"\x07" + wire) == pb.GenerateRequest(brand="acme", count=3)
    with pytest.raises(DecodeError):
        message_of(pb.GenerateRequest, b"\x07\x0a\xff")


def test_a_stream_has_as_many_messages_as_its_first_byte_says() -> None:
    assert [len(messages_of(registry_pb2.PublishAdapterRequest, bytes([n, 0, 1]), 4)) for n in range(6)] == [
        0, 1, 2, 3, 4, 0,
    ]  # fmt: skip

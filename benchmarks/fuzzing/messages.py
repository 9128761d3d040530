"""Any bytes as a protobuf message of a given type: well-formed on the wire, and odd in most of its fields.

The same bytes make the same message, and a changed byte changes little of it: what follows an input's effects can
steer by that. Knows no message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
V = TypeVar("V")

TEXTS: Sequence[str] = (
    "acme", "look", "studio", "production", "a-request", "a red apple", "{prompt}", "3" * 64, "3" * 63, "1", "", " ",
    "A", "-", "..", "../../etc/passwd", "a/b", "a" * 63, "a" * 64, "9" * 25, "\0", "\n", "\u202egnp", "\U0001f34e",
    "e\u0301" * 40, "\u0663", "nan", "-1", "{prompt}{prompt}", "x" * 3000, "127.0.0.1:1", "1:2:3", "%s%n", "W10=",
)  # fmt: skip
WHOLE: Sequence[int] = (
    1, 2, 3, 0, -1, 4, 7, 16, 17, 128, 255, 256, 1000, 1001, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**53,
    253402300800, -62135596801, 315576000001, 2**63 - 1, -(2**63), 2**64 - 1,
)  # fmt: skip
FRACTIONS: Sequence[float] = (
    1.0, 0.5, 0.0, -0.0, -1.0, 2.0, 2.0001, 1000.0, 1e-300, 5e-324, 1e38, 1e39, 1.7e308, float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip
ENUMS: Sequence[int] = (1, 0, 2, 3, 4, 5, 6, 99, -1, 2**31 - 1, -(2**31))

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
#: Messages in messages; deeper ones stay empty.
DEEPEST = 6
#: Of 256: how likely a field is left out, and how likely it is one of the usual odd values and not the input's own.
_LEFT_OUT, _USUAL = 96, 200
MOST_REPEATED = 5


class Draws:
    """Decisions, taken from bytes one after another; when they are used up, all are 0."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def below(self, limit: int) -> int:
        """From 0 to ``limit`` - 1, which is below 256."""
        return int.from_bytes(self.take(1)) % limit

    def one_of(self, values: Sequence[V]) -> V:
        return values[self.below(len(values))]


def message_of(kind: type[M], data: bytes) -> M:
    """A message that its bytes decide; of an odd first byte, the others are tried as its wire format, too."""
    draws, message = Draws(data), kind()
    if draws.below(8) == 7:
        message.ParseFromString(data[1:])  # raises DecodeError, as a server's deserializer does
        return message
    _fill(message, draws, DEEPEST)
    return message


def messages_of(kind: type[M], data: bytes, most: int) -> list[M]:
    """As a stream brings them."""
    count = Draws(data).below(most + 1)
    share = max(1, len(data) // (count or 1))
    return [message_of(kind, data[1 + i * share : 1 + (i + 1) * share]) for i in range(count)]


def _fill(message: Message, draws: Draws, depth: int) -> None:
    fields: Any = message.DESCRIPTOR.fields  # of two classes, as protobuf's types have it
    for field in fields:
        if draws.below(256) < _LEFT_OUT or not depth:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), field.message_type, draws)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(draws.one_of((1, 2, MOST_REPEATED, 40))):
                if field.message_type:
                    _fill(values.add(), draws, depth - 1)
                else:
                    values.append(_value(field, draws))
        elif field.message_type:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, draws, depth - 1)
        else:
            setattr(message, field.name, _value(field, draws))


def _fill_map(entries: Any, kind: Any, draws: Draws) -> None:  # noqa: ANN401  # containers have no common type
    key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
    for _ in range(draws.one_of((1, 2, 33))):
        entries[_value(key, draws)] = _value(value, draws)


def _value(field: FieldDescriptor, draws: Draws) -> Any:  # noqa: ANN401  # as the field has it
    return _MAKERS.get(field.cpp_type, _whole)(field, draws)


def _whole(field: FieldDescriptor, draws: Draws) -> int:
    least, most = _BITS[field.cpp_type]
    usual = draws.below(256) < _USUAL
    value = draws.one_of(WHOLE) if usual else int.from_bytes(draws.take(8), signed=least < 0)
    return min(max(value, least), most)


def _fraction(_field: FieldDescriptor, draws: Draws) -> float:
    if draws.below(256) < _USUAL:
        return draws.one_of(FRACTIONS)
    (value,) = struct.unpack("<d", draws.take(8).ljust(8, b"\0"))
    return float(value)


def _text(field: FieldDescriptor, draws: Draws) -> str | bytes:
    if draws.below(256) < _USUAL:
        text = draws.one_of(TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    data = draws.take(draws.below(64))
    return data if field.type == FieldDescriptor.TYPE_BYTES else data.decode("utf-8", "replace")


_MAKERS: dict[int, Callable[[FieldDescriptor, Draws], object]] = {
    FieldDescriptor.CPPTYPE_BOOL: lambda _, draws: bool(draws.below(2)),
    FieldDescriptor.CPPTYPE_ENUM: lambda _, draws: draws.one_of(ENUMS),
    FieldDescriptor.CPPTYPE_FLOAT: _fraction,
    FieldDescriptor.CPPTYPE_DOUBLE: _fraction,
    FieldDescriptor.CPPTYPE_STRING: _text,
}

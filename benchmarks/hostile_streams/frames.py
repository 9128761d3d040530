"""HTTP/2 by hand (RFC 9113), right or wrong, for what no library would send. Knows frames and no gRPC."""

from __future__ import annotations

from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4
CANCEL = 8
#: Of SETTINGS: how much a receiver takes of each stream before it says more.
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """``length``: what is said of the payload's, where that is not the truth."""
    size = len(payload) if length is None else length
    return size.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def settings(values: Iterable[tuple[int, int]] = ()) -> bytes:
    return frame(SETTINGS, b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in values))


def fields(*pairs: tuple[str, str]) -> bytes:
    """Of a header block, each spelled out (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    """With its length, in seven bits and as many bytes more as it takes."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, more = len(data) - 127, bytearray([127])
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    return bytes(more) + bytes([rest]) + data


def call_fields(method: str, **instead: str) -> bytes:
    """The header block of a gRPC call. ``instead``: other values, with "_" for "-"; ":path" is ``path``."""
    values = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **{name.replace("_", "-"): value for name, value in instead.items()},
    }
    return fields(*values.items())


def message(data: bytes, *, length: int | None = None) -> bytes:
    """A gRPC message as DATA holds it, which may lie about its length."""
    return b"\0" + (len(data) if length is None else length).to_bytes(4) + data

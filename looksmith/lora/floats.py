"""How a tensor's numbers lie in its bytes, and whether they are finite. Knows nothing about tensors' meaning."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHT_DTYPES = frozenset({"F16", "BF16", "F32"})

#: What an alpha may be: sd-scripts stores torch.tensor(alpha) as it is, an I64 when --network_alpha was an integer.
SCALAR_DTYPES = WEIGHT_DTYPES | {"F64", "I32", "I64"}


@dataclass(frozen=True)
class _Float:
    """An IEEE 754 float seen as an unsigned integer: without its sign it is ordered as the float is."""

    bits: str  # numpy's name of the integer
    infinity: int  # all exponent bits set; what is above is NaN
    magnitude: int  # all bits but the sign


_FLOATS = {
    "F16": _Float("<u2", 0x7C00, 0x7FFF),
    "BF16": _Float("<u2", 0x7F80, 0x7FFF),
    "F32": _Float("<u4", 0x7F800000, 0x7FFFFFFF),
    "F64": _Float("<u8", 0x7FF0000000000000, 0x7FFFFFFFFFFFFFFF),
}
_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True)
class Extremes:
    """What is worth knowing about some numbers: whether each is finite, and whether any is not zero."""

    fault: str  # "NaN", "infinity", or empty
    nonzero: bool


def extremes(raw: bytes | bytearray | memoryview, dtype: str) -> Extremes:
    """Looks at whole numbers of a type in SCALAR_DTYPES; the only copy made is as large as raw."""
    if dtype not in _FLOATS:
        return Extremes("", nonzero=any(raw))
    layout = _FLOATS[dtype]
    magnitudes: NDArray[Any] = np.frombuffer(raw, layout.bits) & layout.magnitude
    top = int(magnitudes.max(initial=0))
    fault = "" if top < layout.infinity else "infinity" if top == layout.infinity else "NaN"
    return Extremes(fault, nonzero=top > 0)


def decode(raw: bytes | bytearray | memoryview, dtype: str) -> NDArray[Any]:
    """The numbers of a type in SCALAR_DTYPES, one-dimensional; BF16, which numpy lacks, becomes float32."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, _NUMPY[dtype])

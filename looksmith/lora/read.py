"""Reads a published adapter's weights, for the worker that compiles them.

Trusts the file, whose digest its reader has checked; what may be published is decided in validate.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from looksmith.lora.canonical import LoraModule, canonicalise
from looksmith.lora.floats import decode
from looksmith.lora.header import TensorInfo, read_header
from looksmith.lora.limits import Limits
from looksmith.lora.tables import ModuleTable


class Description(NamedTuple):
    """What a file's header and alphas say of it."""

    modules: tuple[LoraModule, ...]
    tensors: Mapping[str, TensorInfo]  # by name: where their bytes are


class Weights(NamedTuple):
    """The halves of one module, in the file's shapes; the caller's own copies."""

    module: LoraModule
    down: NDArray[np.float32]  # A, [rank, in] or [rank, in, height, width]
    up: NDArray[np.float32]  # B, [out, rank] or [out, rank, 1, 1]


def read_modules(path: Path, table: ModuleTable, *, limits: Limits | None = None) -> tuple[LoraModule, ...]:
    """The canonical modules of the file at path.

    Raises:
        LoraError: the file does not fit the base.
        OSError: the file cannot be read.
    """
    return describe(path, table, limits=limits).modules


def describe(path: Path, table: ModuleTable, *, limits: Limits | None = None) -> Description:
    """The modules of the file at path and where their tensors are, from its header and its alpha tensors alone.

    Raises:
        LoraError: the file does not fit the base.
        OSError: the file cannot be read.
    """
    limits = limits or Limits()
    header = read_header(path)
    plan = canonicalise(header, table, limits)
    scalars: dict[str, float] = {}
    with path.open("rb") as file:
        for name in plan.alpha_tensors.values():
            scalars[name] = float(_numbers(file, header.tensors[name])[0])
    return Description(plan.settle(scalars, limits), header.tensors)


def read_weights(path: Path, modules: Iterable[LoraModule]) -> Iterator[Weights]:
    """Yields A and B of each module in turn, as float32; only one module's are held at a time.

    Raises:
        LoraError: the header is malformed.
        KeyError: a module is not of this file.
        OSError: the file cannot be read.
    """
    tensors = read_header(path).tensors
    with path.open("rb") as file:

        def array(name: str) -> NDArray[np.float32]:
            return _numbers(file, tensors[name]).astype(np.float32).reshape(tensors[name].shape)

        for module in modules:
            yield Weights(module, array(module.down), array(module.up))


def _numbers(file: BinaryIO, tensor: TensorInfo) -> NDArray[Any]:
    file.seek(tensor.start)
    return decode(file.read(tensor.end - tensor.start), tensor.dtype)

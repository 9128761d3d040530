"""Walks the data of a file once, in pieces of any size. Keeps what needs values: finiteness, zeros, scalars."""

from looksmith.lora.errors import Code, refusal
from looksmith.lora.floats import decode, extremes
from looksmith.lora.header import DTYPE_BYTES, Header, TensorInfo


class DataScan:
    """Takes the bytes after the header, in order. All tensors must be of a type in SCALAR_DTYPES."""

    def __init__(self, header: Header) -> None:
        self._at = header.data_start
        self._waiting = iter(header.tensors.values())
        self._tensor = next(self._waiting)
        self._split = bytearray()  # the beginning of a number that the last piece cut in two
        self.nonzero: set[str] = set()
        """Names of the tensors that hold anything but zeros."""
        self.scalars: dict[str, float] = {}
        """Values of the tensors of one element."""

    def feed(self, piece: memoryview) -> None:
        """Looks at the next bytes, which must not reach beyond the file's end.

        Raises:
            LoraError: E_NONFINITE, naming the tensor.
        """
        while piece:
            part = piece[: self._tensor.end - self._at]
            self._look_at_part(self._tensor, part)
            self._at += len(part)
            piece = piece[len(part) :]
            if self._at == self._tensor.end:
                self._tensor = next(self._waiting, self._tensor)

    def _look_at_part(self, tensor: TensorInfo, part: memoryview) -> None:
        size = DTYPE_BYTES[tensor.dtype]
        if self._split:
            missing = size - len(self._split)
            self._split += part[:missing]
            part = part[missing:]
            if len(self._split) == size:
                self._look_at(tensor, self._split)
                self._split = bytearray()
        whole = len(part) - len(part) % size
        if whole:
            self._look_at(tensor, part[:whole])
        self._split += part[whole:]

    def _look_at(self, tensor: TensorInfo, numbers: bytearray | memoryview) -> None:
        found = extremes(numbers, tensor.dtype)
        if found.fault:
            raise refusal(Code.E_NONFINITE, f"tensor {tensor.name} holds {found.fault}", tensor.name)
        if found.nonzero:
            self.nonzero.add(tensor.name)
        if tensor.elements == 1:
            self.scalars[tensor.name] = float(decode(numbers, tensor.dtype)[0])

"""Decides whether an adapter may be published for a base, from its bytes as they arrive.

One implementation serves uploads and files: bytes are hashed, the header is judged as soon as it is complete, and the
data pass through once. An adapter that passes loads with every key applied.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from looksmith.lora.canonical import LoraModule, Plan, canonicalise
from looksmith.lora.dialects import Dialect
from looksmith.lora.errors import Code, Problem, refusal
from looksmith.lora.header import LENGTH_BYTES, Header, header_length, parse_header
from looksmith.lora.limits import Limits
from looksmith.lora.lineage import read_lineage
from looksmith.lora.scan import DataScan
from looksmith.lora.tables import ModuleTable
from looksmith.nouns import Lineage

_PIECE = 1 << 20  # bytes looked at in one go; arrays made on the way are no larger


@dataclass(frozen=True)
class Inspection:
    """What is known of an adapter that has passed."""

    sha256: str  # of the file's bytes, in lower case hex: the adapter's digest
    file_bytes: int
    family: str
    base_digest: str  # of the base whose table it was checked against
    dialect: Dialect
    modules: tuple[LoraModule, ...]  # sorted by component and path
    warnings: tuple[Problem, ...]
    lineage: Lineage = field(default_factory=Lineage)  # as the file's metadata have it

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(module.component for module in self.modules))

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted({module.rank for module in self.modules}))

    @property
    def rank_map(self) -> dict[str, int]:
        return {module.name: module.rank for module in self.modules}

    @property
    def alpha_map(self) -> dict[str, float]:
        return {module.name: module.alpha for module in self.modules}

    @property
    def parameters(self) -> int:
        return sum(module.parameters for module in self.modules)


class Inspector:
    """Takes a file's bytes in order, in pieces of any size, and refuses it as early as it can.

    After it has raised, an inspector is spent.
    """

    def __init__(
        self, file_bytes: int, table: ModuleTable, *, limits: Limits | None = None, declared_base: str = ""
    ) -> None:
        """Prepares for a file of file_bytes bytes.

        Args:
            file_bytes: the length that the file will have.
            table: of the base that the adapter is published for.
            limits: how much a file may bring; the defaults of Limits if None.
            declared_base: digest of the base that the adapter was trained on; empty if its publisher does not say.

        Raises:
            LoraError: E_SIZE, if the file is too large.
        """
        self._limits = limits or Limits()
        if file_bytes > self._limits.file_bytes:
            raise refusal(Code.E_SIZE, f"the file has {file_bytes} bytes; at most {self._limits.file_bytes} are kept")
        self._file_bytes = file_bytes
        self._table = table
        self._declared_base = declared_base
        self._sha256 = hashlib.sha256()
        self._seen = 0
        self._head = bytearray()
        self._judged: tuple[Header, Plan, DataScan] | None = None

    @property
    def header(self) -> Header | None:
        """The header, once it has arrived and passed."""
        return self._judged[0] if self._judged else None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            LoraError: the bytes so far suffice to refuse the file.
        """
        view = memoryview(chunk).cast("B")
        self._sha256.update(view)
        self._seen += len(view)
        if self._seen > self._file_bytes:
            raise refusal(Code.E_SIZE, f"more bytes came than the {self._file_bytes} that were announced")
        while view:
            if self._judged is None:
                view = self._collect_header(view)
            else:
                self._judged[2].feed(view[:_PIECE])
                view = view[_PIECE:]

    def _collect_header(self, view: memoryview) -> memoryview:
        """Takes what belongs to the header and returns the rest."""
        wanted = LENGTH_BYTES
        if len(self._head) >= LENGTH_BYTES:
            wanted += header_length(self._head[:LENGTH_BYTES], self._file_bytes)
        missing = wanted - len(self._head)
        self._head += view[:missing]
        if len(self._head) == LENGTH_BYTES:
            header_length(self._head, self._file_bytes)  # refuses before the next byte is asked for
        elif len(self._head) == wanted:
            text = bytes(memoryview(self._head)[LENGTH_BYTES:])
            self._head = bytearray()  # parsing takes memory enough
            header = parse_header(text, self._file_bytes)
            plan = canonicalise(header, self._table, self._limits)
            if not plan.alpha_tensors:
                plan.settle({}, self._limits)
            self._judged = header, plan, DataScan(header)
        return view[missing:]

    def finish(self) -> Inspection:
        """The result, after the last byte.

        Raises:
            LoraError: bytes are missing, or what the data hold is refused.
        """
        if self._seen != self._file_bytes:
            raise refusal(Code.E_SIZE, f"only {self._seen} of {self._file_bytes} bytes came")
        if self._judged is None:
            raise refusal(Code.E_SIZE, f"the file has {self._seen} bytes, too few for any safetensors file")
        header, plan, scan = self._judged
        modules = plan.settle(scan.scalars, self._limits)
        return Inspection(
            sha256=self._sha256.hexdigest(),
            file_bytes=self._file_bytes,
            family=self._table.family,
            base_digest=self._table.digest,
            dialect=plan.dialect,
            modules=modules,
            warnings=tuple(_warnings(modules, scan.nonzero, self._table, self._declared_base)),
            lineage=read_lineage(header.metadata),
        )


def inspect(path: Path, table: ModuleTable, *, limits: Limits | None = None, declared_base: str = "") -> Inspection:
    """Inspects the file at path; the arguments are Inspector's. Memory stays flat however large the file.

    Raises:
        LoraError: the file is refused.
        OSError: the file cannot be read.
    """
    inspector = Inspector(path.stat().st_size, table, limits=limits, declared_base=declared_base)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            inspector.feed(piece)
    return inspector.finish()


def _warnings(
    modules: tuple[LoraModule, ...], nonzero: set[str], table: ModuleTable, declared_base: str
) -> Iterator[Problem]:
    if not any(module.down in nonzero and module.up in nonzero for module in modules):
        yield Problem(Code.W_ALLZERO, "the adapter changes nothing: in every module A or B is all zeros")
    if wide := [module for module in modules if module.rank > _useful_rank(module)]:
        what = f"{len(wide)} modules have a rank above their layer's smaller side, the first of them {wide[0].name}"
        yield Problem(Code.W_RANK, what, wide[0].name)
    if not declared_base:
        yield Problem(Code.W_BASE_UNKNOWN, f"nothing says that the adapter was trained on base {table.family} itself")
    elif table.digest and declared_base != table.digest:
        what = f"the adapter was trained on base {declared_base}, and is published for {table.digest}"
        yield Problem(Code.W_BASE_OTHER, what)


def _useful_rank(module: LoraModule) -> int:
    height, width = module.kernel
    return min(module.in_features * height * width, module.out_features)

"""Who decides whether a file may be published, chosen by what its header announces.

Knows bases and limits; the rules themselves are looksmith.lora's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from looksmith.errors import InvalidField
from looksmith.lora import Inspection, Inspector, Limits, ModuleTable
from services.registry.messages import PublishHeader


class Judge(Protocol):
    """Takes one file's bytes in order. Raises LoraError as soon as they suffice to refuse it."""

    def feed(self, chunk: bytes) -> None: ...

    def finish(self) -> Inspection: ...


Judging = Callable[[PublishHeader], Judge]


def judging(tables: Mapping[str, ModuleTable], limits: Limits) -> Judging:
    """Judges that check a file against the base of its family.

    The function returned raises InvalidField where the header alone is reason enough to refuse.
    """

    def judge(header: PublishHeader) -> Judge:
        if header.family not in tables:
            known = ", ".join(sorted(tables)) or "none"
            raise InvalidField(
                "family", f"{header.family!r} is not known; known families: {known}", reason="FAMILY_UNKNOWN"
            )
        if not 1 <= header.size_bytes <= limits.file_bytes:
            wanted = f"must be 1 to {limits.file_bytes}, not {header.size_bytes}"
            raise InvalidField("size_bytes", wanted, reason="E_SIZE")
        return Inspector(header.size_bytes, tables[header.family], limits=limits, declared_base=header.base_digest)

    return judge

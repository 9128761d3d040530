"""How a base is named: store://bases/NAME@SHA256. Knows nothing about what is behind the name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from looksmith.nouns import Malformed, check_digest, check_name

PREFIX = "store://bases/"
_FIELD = "reference"


@dataclass(frozen=True)
class Reference:
    """``digest``: SHA-256 of the manifest's canonical JSON, and so of every byte of the base."""

    name: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that ``text`` is.

        Raises:
            Malformed: it is none; the description says what is wrong with it.
        """
        if not text.startswith(PREFIX):
            raise Malformed(_FIELD, f"must be {PREFIX}NAME@SHA256, not {text[:120]!r}")
        name, at, digest = text.removeprefix(PREFIX).partition("@")
        check_name(_FIELD, name)
        if not at or not digest:
            raise Malformed(_FIELD, f"{text[:120]!r} has no digest; `looksmith base list` shows whole references")
        if len(digest) < 64:
            raise Malformed(_FIELD, f"the digest of {text[:120]!r} has {len(digest)} of 64 digits")
        return cls(name, check_digest(_FIELD, digest))

    @property
    def folder(self) -> str:
        """Name of the folder that holds a copy."""
        return f"{self.name}-{self.digest[:12]}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.digest}"

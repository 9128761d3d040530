"""What a parser is to a fuzzer: bytes go in, and a result or one of a few errors comes out.

Knows no parser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: stable, with a "/" after its group.
        parse: takes any bytes.
        refusals: what it may raise; all else is a finding.
        seeds: inputs to begin with, most of them good.
        words: what inputs are made of, beyond single bytes.
        longest: bytes that an input may have.
        share: how many inputs it gets, beside those of others.
        by_bytes: its inputs have no tokens.
    """

    name: str
    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...] = (b"",)
    words: tuple[bytes, ...] = ()
    longest: int = 4096
    share: float = 1.0
    by_bytes: bool = False

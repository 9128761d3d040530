"""Changes a text by its tokens, so that most of it still reads well: a number becomes a list, a key comes twice.

What single bytes can be changed into is left to libFuzzer. Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

_TOKEN = re.compile(rb'"[^"\n]{0,300}"|[\w.+-]{1,100}|\s+|.', re.DOTALL)
#: Values of all kinds that formats have, to stand where others stood.
ODD = (
    b"0", b"1", b"-1", b"0.5", b"1e999", b"-0.0", b"9223372036854775808", b"9" * 40, b"9" * 5000, b"true", b"null",
    b"NaN", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"..\\\\x"', b'"' + b"x" * 3000 + b'"', b"[]", b"{}", b"[[1]]",
    b'{"a":1}', b"[" * 2000, b"nan", b"inf", b"0x10", b"''", b"_", b"\xf0\x9f\x8d\x8e", b"\xff",
)  # fmt: skip
#: Tokens that move together: an entry, with its commas.
_LONGEST_RUN = 24
_MOST_CHANGES = 3


def changed(data: bytes, draws: Random, words: Sequence[bytes]) -> bytes:
    """The text with a few of its tokens replaced, removed, repeated or moved."""
    tokens = _TOKEN.findall(data)
    for _ in range(draws.randint(1, _MOST_CHANGES)):
        at = draws.randrange(len(tokens) + 1)
        run = tokens[at : at + draws.choice((1, 1, 2, 3, _LONGEST_RUN))]
        match draws.randrange(6):
            case 0 | 1:
                tokens[at : at + 1] = [draws.choice(ODD)]
            case 2:
                tokens[at : at + draws.randrange(2)] = [draws.choice(words or ODD)]
            case 3:
                del tokens[at : at + len(run)]
            case 4:
                tokens[at:at] = run
            case _:
                there = draws.randrange(len(tokens) + 1)
                tokens[there : there + len(run)] = run
    return b"".join(tokens)

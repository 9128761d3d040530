"""The prompt that a text encoder gets: trigger words of the adapters, the brand's template, and what the caller wrote.

Pure; which adapters are used, and whether a request wants its prompt raw, is painting.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from looksmith.nouns import Brand


def final_prompt(prompt: str, *, brand: Brand, trigger_words: Iterable[str]) -> str:
    """``prompt`` in the brand's template, behind those of ``trigger_words`` that are not in it yet.

    Each is put there once, in the order in which they come, comma separated.
    """
    made = brand.final_prompt(prompt)
    missing: list[str] = []
    for word in trigger_words:
        if not _holds(", ".join((*missing, made)), word):
            missing.append(word.strip())
    return ", ".join((*missing, made))


def _holds(text: str, word: str) -> bool:
    """Whether ``word``, which may be several, is in ``text`` as a whole; case and kind of space make no difference."""
    pattern = r"\s+".join(map(re.escape, word.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None

"""Files of who may do what, for tests that need one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from looksmith.nouns import Action

#: Every action.
ALL = tuple(Action)


def tokens_file(
    folder: Path,
    *tokens: tuple[str, Iterable[str], Iterable[str]],
    certificates: Iterable[str] = (),
    called: Callable[[str], str] = str,
) -> Path:
    """A file of (token, actions, brands). Of ``certificates`` the token is a name; ``called`` is what logs call it."""
    tables = []
    for token, actions, brands in tokens:
        known = (
            {"certificate": token} if token in certificates else {"sha256": hashlib.sha256(token.encode()).hexdigest()}
        )
        entry = {"name": called(token), **known, "actions": [*actions], "brands": [*brands]}
        tables.append("\n".join(["[[token]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]))
    file = folder / "tokens.toml"
    file.write_text("\n\n".join(tables) + "\n")
    return file

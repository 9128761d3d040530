"""Faults that are put into parsers to see that they are found: what a careless change could have left there.

One for each kind of finding; none is in the code that ships.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from looksmith.nouns import check_name


@dataclass(frozen=True)
class Plant:
    """``instead`` takes the place of ``name`` in ``module``. ``shows``: how the line of its finding begins."""

    target: str
    module: str
    name: str
    instead: object
    shows: str

    def put(self) -> None:
        """For as long as the process lives."""
        setattr(importlib.import_module(self.module), self.name, self.instead)


def _numbers(value: object) -> bool:
    """Takes what can be compared with 0 for a number, and asks before it knows that it can."""
    return isinstance(value, list) and all(item >= 0 for item in value)


def _name_with_room(field: str, name: str) -> str:
    """As much memory as a name is long, a hundred thousand times over."""
    room = b"-" * (len(name) * 100_000)
    return check_name(field, name) if room or not name else name


PLANTS: Mapping[str, Plant] = {
    "unchecked_numbers": Plant("adapters/header", "looksmith.lora.header", "_naturals", _numbers, "TypeError"),
    # The names that it reads are the same, and the time doubles with each character of one that it does not.
    "backtracking": Plant(
        "adapters/config",
        "looksmith.lora.peft_config",
        "_PATTERN_KEY",
        re.compile(r"(\^?)((?:[A-Za-z0-9_]+|\\?\.)+)\$?"),
        "it does not end",
    ),
    "room_for_names": Plant(
        "calls/ImageGenerationService.Generate",
        "services.chassis.painting_pb",
        "check_name",
        _name_with_room,
        "it takes much memory",
    ),
}

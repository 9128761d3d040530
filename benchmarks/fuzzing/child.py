"""A process that fuzzes one target: `python -m benchmarks.fuzzing.child TARGET --count N --folder FOLDER`.

Says on standard output, in JSON lines, how far it is and what it has found, and ends with its last input. Hangs and
deaths are for its overseer to see, who finds the input of that moment in the folder.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import json
import logging
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import atheris
import structlog

from benchmarks.fuzzing.groups import target_named
from benchmarks.fuzzing.mutation import changed
from benchmarks.fuzzing.target import Target
from benchmarks.fuzzing.trial import Finding, Trials

#: The input of this moment: its length in four bytes, then itself. What it has led to before is in CORPUS.
NOW, CORPUS, WORDS = "now", "corpus", "words"
_NOW_BYTES = 1 << 16
_TELL_EVERY_S = 0.5
#: Inputs that are given up; after those a target's other inputs are not waited for.
MOST_GIVEN_UP = 20
#: Beyond what the process takes when it begins: an input that wants more gets a MemoryError, and not all of a machine.
_ROOM_BYTES = 2 << 30


class Child:
    """Runs ``count`` inputs and ends the process: libFuzzer's loop has no other way out."""

    def __init__(self, target: Target, *, count: int, until: str, folder: Path) -> None:
        """``until``: what the line of a finding begins with that is enough; empty: none is."""
        self._trials, self._count, self._until = Trials(target), count, until
        self._given_up = 0
        self._done, self._told_at = 0, time.monotonic()
        self._seen: dict[str, int] = {}
        with (folder / NOW).open("wb+") as file:
            file.truncate(_NOW_BYTES)
            self._now = mmap.mmap(file.fileno(), _NOW_BYTES)

    def one(self, data: bytes) -> None:
        kept = data[: _NOW_BYTES - 4]
        self._now[: 4 + len(kept)] = len(kept).to_bytes(4, "little") + kept
        found = self._trials.run(data)
        self._done += 1
        if found:
            self._note(found)
        over = self._done >= self._count or self._given_up >= MOST_GIVEN_UP or self._enough(found)
        if over or time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._tell()
        if over:
            os._exit(0)

    def _enough(self, found: Finding | None) -> bool:
        return bool(found and self._until and found.what.startswith(self._until))

    def _note(self, found: Finding) -> None:
        """Tells of each cause once, and again when a shorter input shows it."""
        self._given_up += found.given_up
        shortest = self._seen.get(found.what)
        if shortest is None or len(found.data) < shortest:
            self._seen[found.what] = len(found.data)
            self._say(finding={**asdict(found), "data": base64.b64encode(found.data).decode()})

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        self._say(done=self._done, slowest_s=self._trials.slowest_s, largest_bytes=self._trials.largest_bytes)

    def _say(self, **fields: Any) -> None:  # noqa: ANN401  # whatever JSON takes
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


def held(folder: Path) -> bytes:
    """The input that a child was at, when it ended or was ended."""
    data = (folder / NOW).read_bytes()
    return data[4 : 4 + int.from_bytes(data[:4], "little")]


def _mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    """By tokens or by bytes, in turn as libFuzzer's seeds have it."""

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        draws = Random(seed)
        if target.by_bytes or draws.random() < 0.4:
            mutated: bytes = atheris.Mutate(data, longest)
            return mutated
        return changed(data, draws, target.words)[:longest]

    return mutate


def _words(target: Target, file: Path) -> Path:
    """As libFuzzer reads them."""
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in target.words)
    file.write_text("\n".join(lines) + "\n")
    return file


def _imported(name: str, plant: str) -> Target:
    """The target, and the parser behind it with what atheris needs to follow it."""
    with atheris.instrument_imports(include=["looksmith", "services"]):
        if plant:
            importlib.import_module("benchmarks.fuzzing.plants").PLANTS[plant].put()
        return target_named(name)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="for what its inputs led to; read again next time")
    parser.add_argument("--plant", default="")
    parser.add_argument("--until", default="", help="end with a finding whose line begins so")
    asked = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target = _imported(asked.target, asked.plant)
    corpus = asked.folder / CORPUS
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    flags = [
        f"-seed={asked.seed}",
        f"-max_len={target.longest}",
        f"-dict={_words(target, asked.folder / WORDS)}",
        f"-artifact_prefix={asked.folder}/",
        "-timeout=600",  # the overseer is quicker
        "-rss_limit_mb=4096",
        "-len_control=0",  # good inputs are long, and all that is reached is behind them
        "-reload=0",
        "-verbosity=0",
        str(corpus),
    ]
    child = Child(target, count=asked.count, until=asked.until, folder=asked.folder)
    atheris.Setup([sys.argv[0], *flags], child.one, custom_mutator=_mutator(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])

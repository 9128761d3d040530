"""Starts the children that fuzz, sees one hang or die and starts the next, and keeps a file of each cause they find.

Knows how a child talks; nothing of what it fuzzes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.child import held
from benchmarks.fuzzing.trial import Finding

CHECKOUT = Path(__file__).parents[2]
#: Where files cost no disk, if there is such a place: children write one for each input of some parsers.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a new folder in it
#: Seconds of silence after which a child hangs; it speaks twice a second, and gives an input up after two of its own.
SILENT_S = 30.0
#: Before its first word it imports, perhaps on a busy machine.
STARTS_WITHIN_S = 180.0
#: Children of one target; a parser that ends so many is left alone.
MOST_CHILDREN = 5


@dataclass
class Told:
    """What is known of one target. ``findings``: by their line, each with the shortest input."""

    target: str
    inputs: int = 0
    slowest_s: float = 0.0
    largest_bytes: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)
    over: bool = False  # a child has ended by itself

    def note(self, finding: Finding) -> None:
        known = self.findings.get(finding.what)
        if known is None or len(finding.data) < len(known.data):
            self.findings[finding.what] = finding


async def fuzz(
    target: str,
    *,
    count: int,
    seed: int,
    folder: Path,
    plant: str = "",
    until: str = "",
    on_progress: Callable[[int], None] = lambda _: None,
) -> Told:
    """Runs so many inputs, in as many children as it takes; ``on_progress`` hears of each few that are done.

    ``until``: what the line of a finding begins with that is enough.
    """
    told = Told(target)
    own = folder / target.replace("/", "-")
    own.mkdir(parents=True, exist_ok=True)
    for number in range(MOST_CHILDREN):
        if told.inputs >= count or told.over:
            break
        options = [
            f"--count={count - told.inputs}",
            f"--seed={seed + number}",
            f"--folder={own}",
            f"--plant={plant}",
            f"--until={until}",
        ]
        with tempfile.TemporaryDirectory(prefix="fuzzing-", dir=_MEMORY) as scratch:
            await _one_child(told, options, own=own, scratch=scratch, on_progress=on_progress)
    return told


async def _one_child(
    told: Told, options: list[str], *, own: Path, scratch: str, on_progress: Callable[[int], None]
) -> None:
    before = told.inputs
    with (own / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.fuzzing.child", told.target, *options,
            cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE, stderr=log, limit=1 << 22,
            env={**os.environ, "TMPDIR": scratch},
        )  # fmt: skip
    try:
        problem = await _heard(process, told, before, on_progress)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if not problem and process.returncode:
        problem = f"its process ended with {process.returncode}"
    if problem:
        tail = (own / "log").read_text(errors="replace")[-4000:]
        told.note(Finding(told.target, problem, tail, held(own) if (own / "now").exists() else b""))
        told.inputs += 1  # the one that it was
    else:
        told.over = True


async def _heard(
    process: asyncio.subprocess.Process, told: Told, before: int, on_progress: Callable[[int], None]
) -> str:
    """Follows a child to its end; what went wrong, if it had to be seen from outside."""
    if process.stdout is None:
        raise AssertionError("it was started with a pipe")
    patience = STARTS_WITHIN_S
    while True:
        try:
            async with asyncio.timeout(patience):
                line = await process.stdout.readline()
        except TimeoutError:
            return "it hangs"
        if not line:
            await process.wait()
            return ""
        if not line.startswith(b"{"):
            continue
        said: dict[str, Any] = json.loads(line)
        patience = SILENT_S
        if found := said.get("finding"):
            told.note(Finding(found["target"], found["what"], found["told"], base64.b64decode(found["data"])))
            continue
        on_progress(before + said["done"] - told.inputs)
        told.inputs = before + said["done"]
        told.slowest_s = max(told.slowest_s, said["slowest_s"])
        told.largest_bytes = max(told.largest_bytes, said["largest_bytes"])


def keep(finding: Finding, folder: Path) -> Path:
    """Writes the input, and beside it what became of it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{finding.target.replace('/', '-')}-{finding.id}"
    file.write_bytes(finding.data)
    again = f"python -m benchmarks.fuzzing --reproduce {file} --only {finding.target}"
    file.with_suffix(".txt").write_text(f"{finding.target}: {finding.what}\n{again}\n\n{finding.told}\n")
    return file

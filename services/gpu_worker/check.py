"""Examines recipe files as a worker would serve them: `python -m services.gpu_worker.check`, JSON on standard output.

Exit code 0: all can be served; 4: not so; 2: the command line is wrong. `looksmith recipe check` shows it to people.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from services.gpu_worker.engine.examination import Examined, examine
from services.gpu_worker.engine.ledger import ledger_of, shown
from services.gpu_worker.engine.recipe import Recipe, RecipeError, weight_files
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.sources import Sources
from services.gpu_worker.recipe_report import (
    Json,
    digest_of,
    memory_report,
    recipe_report,
    refusal_report,
    sources_of,
)
from services.gpu_worker.settings import Sizes, Slots, WorkerSettings

REFUSED = 4


def main() -> None:
    options = _options()
    sources = Sources(bases=options.bases)
    recipes: list[Recipe] = []
    refused: dict[Path, Json] = {}
    for file in dict.fromkeys(options.files):
        try:
            recipes.append(read_recipe(file, sources))
        except RecipeError as error:
            refused[file] = refusal_report(error)
    examined = examine(recipes)
    digest = None if options.quick else cache(_digest)
    found = {each.recipe.file: _report(each, digest) for each in examined}
    reports = [refused.get(file) or found[file] for file in dict.fromkeys(options.files)]
    ledger = ledger_of(examined, slots=options.slots, rows=max(options.batch_sizes))
    memory = memory_report(ledger, budget=options.device_memory) if ledger.bases else None
    sys.stdout.write(json.dumps({"recipes": reports, "memory": memory}) + "\n")
    if any(report["mistakes"] for report in reports) or (memory and memory["refusal"]):
        sys.exit(REFUSED)


def _report(examined: Examined, digest: Callable[[Path], str] | None) -> Json:
    recipe = examined.recipe
    is_there = examined.base and (recipe.distill is None or recipe.distill.path.is_file())
    return recipe_report(examined, sources_of(recipe, digest=digest) if is_there else ())


def _digest(path: Path) -> str:
    size = sum(file.stat().st_size for file in weight_files(path))
    sys.stderr.write(f"reading {shown(size)} for their sha256: {path}\n")
    return digest_of(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check", usage=argparse.SUPPRESS, description=__doc__)
    defaults = WorkerSettings.model_fields
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--slots", type=_reads(Slots), default=defaults["slots"].default, help="as WORKER_SLOTS")
    parser.add_argument(
        "--batch-sizes", type=_reads(Sizes), default=defaults["batch_sizes"].default, help="as WORKER_BATCH_SIZES"
    )
    parser.add_argument("--bases", type=Path, help="as WORKER_BASES")
    parser.add_argument("--device-memory", type=_reads(ByteSize), default=0, help="such as 24GiB")
    parser.add_argument("--quick", action="store_true", help="leaves sha256 out")
    return parser.parse_args()


def _reads(kind: Any) -> Callable[[str], Any]:  # noqa: ANN401  # whatever pydantic takes for a type
    """Reads an option as the setting of its type is read."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def read(text: str) -> Any:  # noqa: ANN401  # of that type
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(error.errors()[0]["msg"]) from None

    return read


if __name__ == "__main__":
    main()

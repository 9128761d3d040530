"""What was found of recipes, as JSON can hold it: `looksmith recipe check --json` prints it, and shows it to people.

Finds nothing itself; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.gpu_worker.engine.examination import Examined
from services.gpu_worker.engine.ledger import RANKS, DeviceTooSmall, Ledger
from services.gpu_worker.engine.recipe import Mistake, Recipe, RecipeError, base_digest, file_digest, weight_files

Json = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Weights that a recipe names."""

    table: str  # of the recipe, that names it and can pin it
    path: Path
    files: tuple[tuple[Path, int], ...]  # with their bytes
    sha256: str | None  # what stands for all of it; None: not asked
    wanted: str  # what the recipe says it must be; empty: whatever it is


def sources_of(recipe: Recipe, *, digest: Callable[[Path], str] | None) -> list[Source]:
    """The weights of a recipe whose base and distillation are there.

    Args:
        recipe: examined, and nothing missing.
        digest: of a base, or of a distillation's file; None: leaves digests out, as it takes a while to read them.
    """
    named = [("base", recipe.base.path, recipe.base.sha256)]
    if recipe.distill:
        named.append(("distill", recipe.distill.path, recipe.distill.sha256))
    return [
        Source(
            table,
            path,
            tuple((file, file.stat().st_size) for file in weight_files(path)),
            digest(path) if digest else None,
            wanted,
        )
        for table, path, wanted in named
    ]


def digest_of(path: Path) -> str:
    """What a recipe pins a base or a distillation by."""
    return file_digest(path) if path.is_file() else base_digest(path)


def recipe_report(examined: Examined, sources: Sequence[Source]) -> Json:
    """One recipe; wrong digests are told with its other mistakes."""
    recipe, base = examined.recipe, examined.base
    mistakes = [*examined.mistakes, *(_misfit(recipe, source) for source in sources if _differs(source))]
    return _report(
        recipe.file,
        mistakes,
        name=recipe.name,
        family=recipe.family,
        sources=[_source(source) for source in sources],
        found={
            "pipeline": base.pipeline.kind.__name__,
            "layout": "single file" if base.pipeline.is_original else "diffusers folder",
            "parameters": base.parameters,
            "fused_layers": examined.fused_layers,
        }
        if base
        else None,
        dtype=recipe.dtype,
        sizes=[list(size) for size in recipe.sizes],
        steps=list(recipe.steps),
        default_steps=recipe.default_steps,
        guidance={"default": recipe.default_guidance, "max": recipe.max_guidance},
        clip_skip=recipe.clip_skip,
        safety="checker" if recipe.safety else "off",
        sampler={
            "class": recipe.sampler.name,
            "eta": recipe.sampler.eta,
            "tables": {str(steps): asdict(table) for steps, table in examined.tables.items()},
        },
        licence=recipe.licence,
    )


def refusal_report(error: RecipeError) -> Json:
    """A recipe whose file has mistakes, so that nothing more can be told of it."""
    return _report(error.file, error.mistakes)


def memory_report(ledger: Ledger, *, budget: int) -> Json:
    """What the recipes take on a device of ``budget`` bytes; 0: of unknown size."""
    refusal = ""
    try:
        if budget:
            ledger.check(budget)
    except DeviceTooSmall as error:
        refusal = str(error)
    return {
        "bases": [
            {
                "source": str(base.source),
                "family": base.family,
                "dtype": base.dtype,
                "recipes": list(base.recipes),
                "models": dict(base.models),
                "bytes": base.size,
            }
            for base in ledger.bases
        ],
        "banks": [
            {
                "family": bank.family,
                "slots": {str(rank): count for rank, count in bank.slots.items()},
                "bytes": bank.size,
                "adapter_bytes": {str(rank): bank.blocks[rank] for rank in RANKS},
                "brands": {str(rank): ledger.brands(bank, rank, budget) for rank in RANKS} if budget else None,
            }
            for bank in ledger.banks
        ],
        "reserve_bytes": ledger.reserve,
        "total_bytes": ledger.total,
        "device_bytes": budget or None,
        "refusal": refusal or None,
    }


def _report(file: Path, mistakes: Sequence[Mistake], **found: object) -> Json:
    in_order = sorted(mistakes, key=lambda mistake: mistake.line)
    return {"file": str(file), "mistakes": [asdict(mistake) for mistake in in_order], **found}


def _source(source: Source) -> Json:
    return {
        "table": source.table,
        "path": str(source.path),
        "files": [{"path": str(file), "bytes": size} for file, size in source.files],
        "bytes": sum(size for _, size in source.files),
        "sha256": source.sha256,
        "pinned": bool(source.wanted),
    }


def _differs(source: Source) -> bool:
    return bool(source.wanted) and source.sha256 not in {None, source.wanted}


def _misfit(recipe: Recipe, source: Source) -> Mistake:
    problem = f"is {source.wanted}, but the weights' is {source.sha256}: another version, or a broken copy"
    return recipe.mistake(f"{source.table}.sha256", problem).mistakes[0]

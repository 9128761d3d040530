"""Writes the pages that are tables of what the code says: ``make docs``. A test fails while a page lags behind."""

from __future__ import annotations

import tomllib
from pathlib import Path

from looksmith.lora import Code
from services.chassis.settings import ServiceSettings
from services.gpu_worker.settings import WorkerSettings
from services.registry.settings import RegistrySettings
from services.router.settings import RouterSettings

DOCS = Path(__file__).parent
RECIPES = DOCS.parent / "deploy" / "recipes"


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _settings_table(settings: type[ServiceSettings], names: list[str], prefix: str) -> list[str]:
    rows = [_row("variable", "default", "meaning"), "|---|---|---|"]
    for name in names:
        field = settings.model_fields[name]
        default = "required" if field.is_required() else f"`{field.get_default()}`"
        if field.default_factory:
            default = "computed"
        rows.append(_row(f"`{prefix}{name.upper()}`", default, field.description or ""))
    return rows


def configuration() -> str:
    """docs/configuration.md."""
    shared = list(ServiceSettings.model_fields)
    lines = [
        "# Configuration",
        "",
        "Every server reads its settings from the environment, once, at its start. A missing or bad one ends it with a",
        "line that names each variable. Telemetry follows the standard `OTEL_*` variables; spans are exported where",
        "`OTEL_EXPORTER_OTLP_ENDPOINT` is set. This page is written by `make docs` from the code.",
        "",
        "## Every server",
        "",
        "With the server's own prefix in place of `*`.",
        "",
        *_settings_table(ServiceSettings, shared, "*_"),
    ]
    for title, settings in (("Registry", RegistrySettings), ("Router", RouterSettings), ("GPU worker", WorkerSettings)):
        own = [name for name in settings.model_fields if name not in shared]
        lines += ["", f"## {title}", "", *_settings_table(settings, own, settings.env_prefix)]
    return "\n".join(lines) + "\n"


def adapter_errors() -> str:
    """docs/adapter-errors.md."""
    lines = [
        "# Why an adapter was refused",
        "",
        "Codes are stable. A refusal is INVALID_ARGUMENT with one BadRequest violation a finding, whose `reason` is",
        "the code; codes that begin with W only warn. `looksmith publish --check FILE --family FAMILY` finds the same",
        "without a server, in a file or a PEFT folder. This page is written by `make docs` from the code.",
        "",
        _row("code", "why it matters", "what to do"),
        "|---|---|---|",
        *(_row(f"`{code.name}`", code.why, code.fix) for code in Code),
    ]
    return "\n".join(lines) + "\n"


def shipped_recipes() -> str:
    """docs/shipped-recipes.md."""
    lines = [
        "# Recipes that ship",
        "",
        "Each is a file in `deploy/recipes`, with what its distillation needs: sampler, timesteps, steps, guidance.",
        "Weights are yours to fetch into `bases`, at the top of the checkout: [recipes.md](recipes.md) says how. This",
        "page is written by `make docs` from the files.",
    ]
    for family in ("sd15", "sdxl"):
        lines += [
            "",
            f"## {family}",
            "",
            _row("recipe", "what it is", "weights in `bases`", "steps", "sampler", "guidance"),
        ]
        lines.append("|---|---|---|---|---|---|")
        for file in sorted((RECIPES / family).glob("*.toml")):
            lines.append(_recipe_row(file))
    return "\n".join(lines) + "\n"


def _recipe_row(file: Path) -> str:
    text = file.read_text()
    recipe = tomllib.loads(text)
    steps, guidance, sampler = recipe["steps"], recipe.get("guidance"), recipe["sampler"]
    weights = [table["source"] for table in (recipe["base"], recipe.get("distill")) if table]
    notes = [f"eta {sampler['eta']:g}"] if "eta" in sampler else []
    notes += [spacing] if (spacing := sampler["config"].get("timestep_spacing")) else []
    notes += [f"timesteps {', '.join(map(str, given))}" for given in sampler.get("timesteps", {}).values()]
    comments = [line.removeprefix("# ") for line in text.splitlines()[:3] if line.startswith("#")]
    return _row(
        f"[`{recipe['name']}`](../deploy/recipes/{file.parent.name}/{file.name})",
        " ".join(comments),
        "<br>".join(f"`{source.partition('/bases/')[2]}`" for source in weights),
        f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}",
        ", ".join([sampler["class"].removesuffix("Scheduler"), *notes]),
        f"{guidance['default']:g}, up to {guidance['max']:g}" if guidance else "none",
    )


PAGES = {
    "configuration.md": configuration,
    "adapter-errors.md": adapter_errors,
    "shipped-recipes.md": shipped_recipes,
}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())

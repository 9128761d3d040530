"""Writes the pages that are tables of what the code says: ``make docs``. A test fails while a page lags behind."""

from __future__ import annotations

from pathlib import Path

from looksmith.lora import Code
from services.chassis.settings import ServiceSettings
from services.gpu_worker.settings import WorkerSettings
from services.registry.settings import RegistrySettings
from services.router.settings import RouterSettings

DOCS = Path(__file__).parent


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


PAGES = {"configuration.md": configuration, "adapter-errors.md": adapter_errors}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())

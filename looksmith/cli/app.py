"""The ``looksmith`` command: each subcommand calls the public API and prints what it answers."""

from __future__ import annotations

import typer

from looksmith.cli import (
    access,
    bases,
    brand_records,
    brand_training,
    demo,
    doctor,
    fleet,
    history,
    loadtest,
    painting,
    publishing,
    recipes,
    top,
    up,
    upkeep,
    worker,
)

HELP = """Publish brands' LoRA adapters, paint with them, and see where and how fast it was done.

No servers yet? `looksmith demo` shows everything in a minute; `looksmith up` starts a stack to play with.
"""
EXIT_CODES = (
    "Exit codes: 0 done; 2 the command line is wrong; 3 not found; 4 refused, it would be again; 5 not allowed; "
    "6 unreachable or busy, try again; 7 out of time; 130 and 143 stopped by a signal; 1 anything else. "
    "Errors are one line on standard error; with --json, standard output is one JSON document."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=HELP, epilog=EXIT_CODES)

for command, example in (
    (demo.demo, "looksmith demo --out pictures"),
    (up.up, "looksmith up --workers 1"),
    (loadtest.loadtest, "looksmith loadtest --duration 120 --chaos --plot loadtest.svg"),
    (publishing.publish, "looksmith publish inkwell/house-style ./house-style.safetensors --alias production"),
    (painting.generate, "looksmith generate inkwell 'a red mug on a sky background' -n 2 --show --trace"),
    (publishing.brands, "looksmith brands --json"),
    (publishing.adapters, "looksmith adapters inkwell"),
    (publishing.promote, "looksmith promote inkwell/house-style@2 --warm --reason 'the client signed it off'"),
    (publishing.yank, "looksmith yank inkwell/house-style@2 --reason 'the old logo' --replacement 3"),
    (history.rollback, "looksmith rollback inkwell/house-style --reason 'too dark in print'"),
    (history.history, "looksmith history inkwell/house-style --at '2026-11-22 14:00:00'"),
    (access.token, "looksmith token acme-studio --brand 'acme-*' --action read --action publish"),
    (upkeep.fsck, "looksmith fsck --brand inkwell --read-files"),
    (upkeep.collect, "looksmith collect --dry-run"),
    (fleet.workers, "looksmith workers --routers 127.0.0.1:7400"),
    (fleet.explain, "looksmith explain inkwell"),
    (fleet.warm, "looksmith warm inkwell/house-style@2"),
    (fleet.drain, "looksmith drain worker-0 --reason 'a new driver'"),
    (fleet.evict, "looksmith evict inkwell/house-style@1 --worker worker-0"),
    (fleet.usage, "looksmith usage inkwell --since '2026-11-22 14:00:00'"),
    (worker.worker, "looksmith worker worker-0"),
    (worker.reset, "looksmith reset worker-0 --reason 'pictures of noise'"),
    (top.top, "looksmith top --routers 127.0.0.1:7400,127.0.0.1:7500"),
    (doctor.doctor, "looksmith doctor --paint"),
):
    app.command(epilog=f"Example: {example}")(command)

_PUT = "Example: looksmith brand put inkwell --recipe studio --size 128x128"
_DELETE = "Example: looksmith brand delete inkwell --confirm inkwell"
_TRAIN = "Example: looksmith brand train mine ./my-pictures --minutes 6"
brand = typer.Typer(no_args_is_help=True, help="Change, make or erase a brand.", epilog=_PUT)
brand.command(epilog=_PUT)(brand_records.put)
brand.command(epilog=_DELETE)(upkeep.delete)
brand.command(epilog=_TRAIN)(brand_training.train)
app.add_typer(brand, name="brand")
app.add_typer(bases.base, name="base")
app.add_typer(recipes.recipe, name="recipe")


if __name__ == "__main__":
    app()

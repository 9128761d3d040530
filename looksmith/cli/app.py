"""The ``looksmith`` command: each subcommand calls the public API and prints what it answers."""

from __future__ import annotations

import typer

from looksmith.cli import demo, fleet, painting, publishing, up

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Hundreds of brands' LoRAs on one GPU.")

for command in (
    demo.demo,
    up.up,
    publishing.publish,
    painting.generate,
    publishing.brands,
    publishing.adapters,
    publishing.promote,
    fleet.workers,
    fleet.explain,
):
    app.command()(command)


if __name__ == "__main__":
    app()

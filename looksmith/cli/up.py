"""Command that starts the local stack: up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from looksmith.cli.calls import PORT, run
from looksmith.cli.stack import Ports, Stack, local_stack
from looksmith.cli.terminal import one_line_errors, say


def up(
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of GPU workers.")] = 2,
    port: Annotated[
        int, typer.Option(min=1024, max=65_000, help="First port; registry, store, traces, workers follow.")
    ] = PORT,
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".looksmith"),
) -> None:
    """Start a stack on this machine: store, registry, router and workers. Ctrl-C stops all of it.

    What was published stays in the folder for the next time. Needs a checkout.
    """
    with one_line_errors():
        folder.mkdir(parents=True, exist_ok=True)
    say(f"Starting the local stack; data and logs are in {folder.resolve()}")
    run(_until_stopped(folder.resolve(), Ports.from_base(port), workers))
    say("Stopped.")


async def _until_stopped(folder: Path, ports: Ports, workers: int) -> None:
    with suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM, which is how a stack is meant to end
        async with local_stack(folder, ports=ports, workers=workers, on_phase=lambda text: say(f"  {text}")) as stack:
            say(f"Ready. Ctrl-C stops everything. In another terminal{_settings(stack)}:")
            say("  .venv/bin/looksmith publish inkwell/house-style models/studio/brands/inkwell/house-style")
            say("  .venv/bin/looksmith generate inkwell 'a red mug on a sky background' --trace")
            await stack.during(asyncio.Event().wait())


def _settings(stack: Stack) -> str:
    """What another terminal needs to know where the ports are not the usual ones."""
    if stack.ports.router == PORT:
        return ""
    return (
        f", after `export LOOKSMITH_ROUTERS={stack.router} LOOKSMITH_REGISTRY={stack.registry} "
        f"LOOKSMITH_TRACES=http://127.0.0.1:{stack.ports.traces} "
        f"LOOKSMITH_STORE_ENDPOINT=127.0.0.1:{stack.ports.store}`"
    )

"""Command that starts the local stack: up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from looksmith.cli.calls import PORT, run
from looksmith.cli.stack import Ports, local_stack
from looksmith.cli.terminal import Problem, one_line_errors, out


def up(
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of GPU workers.")] = 2,
    port: Annotated[int, typer.Option(help="First port; registry, store, traces and workers follow it.")] = PORT,
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".looksmith"),
) -> None:
    """Start the local stack: store, registry, router, workers. Ctrl-C stops all of it. Needs a checkout."""
    with one_line_errors():
        folder.mkdir(parents=True, exist_ok=True)
    out.print(f"Starting the local stack (data and logs in {folder}) ...")
    run(_until_stopped(folder.resolve(), Ports.from_base(port), workers))
    out.print("Stopped.")


async def _until_stopped(folder: Path, ports: Ports, workers: int) -> None:
    with suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM, which is how a stack is meant to end
        await _hold(folder, ports, workers)


async def _hold(folder: Path, ports: Ports, workers: int) -> NoReturn:
    """Runs the stack until this task is cancelled; a part that ends by itself is a problem."""
    phase = lambda text: out.print(f"  [green]✓[/] {text}")  # noqa: E731  # one line, used once
    async with local_stack(folder, ports=ports, workers=workers, on_phase=phase) as stack:
        out.print("Ready. Ctrl-C stops everything. In another terminal:")
        out.print("  .venv/bin/looksmith generate inkwell 'a red mug on a sky background' --trace")
        ended = await stack.wait_for_an_end()
        raise Problem(f"{ended} ended by itself; see {folder / 'logs' / ended}.log")

"""Command that starts the local stack: up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from looksmith.cli.calls import PORT, run
from looksmith.cli.stack import STUDIO, Ports, Stack, local_stack
from looksmith.cli.terminal import one_line_errors, say


def up(
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of GPU workers.")] = 2,
    port: Annotated[
        int, typer.Option(min=1024, max=65_000, help="First port; registry, store, traces, workers follow.")
    ] = PORT,
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".looksmith"),
    recipe: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Recipe file; may be repeated. Default: the studio model's."),
    ] = None,
    device: Annotated[str, typer.Option(help="What workers paint on: cpu or cuda.")] = "cpu",
) -> None:
    """Start a stack on this machine: store, registry, router and workers. Ctrl-C stops all of it.

    What was published stays in the folder for the next time. Needs a checkout.
    """
    with one_line_errors():
        folder.mkdir(parents=True, exist_ok=True)
    say(f"Starting the local stack; data and logs are in {folder.resolve()}")
    recipes = [file.resolve() for file in recipe or [STUDIO]]
    run(_until_stopped(folder.resolve(), Ports.from_base(port), workers, recipes, device))
    say("Stopped.")


async def _until_stopped(folder: Path, ports: Ports, workers: int, recipes: list[Path], device: str) -> None:
    with suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM, which is how a stack is meant to end
        async with local_stack(
            folder,
            ports=ports,
            workers=workers,
            recipes=recipes,
            device=device,
            on_phase=lambda text: say(f"  {text}"),
        ) as stack:
            say(f"Ready. Ctrl-C stops everything. In another terminal{_settings(stack)}:")
            for example in _STUDIO_EXAMPLES if STUDIO in recipes else _OTHER_EXAMPLES:
                say(f"  .venv/bin/looksmith {example}")
            await stack.during(asyncio.Event().wait())


_STUDIO_EXAMPLES = (
    "publish inkwell/house-style models/studio/brands/inkwell/house-style",
    "generate inkwell 'a red mug on a sky background' --trace",
)
_OTHER_EXAMPLES = ("publish BRAND/ADAPTER FILE --family FAMILY", "generate BRAND 'a prompt' --trace")


def _settings(stack: Stack) -> str:
    """What another terminal needs to know where the ports are not the usual ones."""
    if stack.ports.router == PORT:
        return ""
    return (
        f", after `export LOOKSMITH_ROUTERS={stack.router} LOOKSMITH_REGISTRY={stack.registry} "
        f"LOOKSMITH_TRACES=http://127.0.0.1:{stack.ports.traces} "
        f"LOOKSMITH_STORE_ENDPOINT=127.0.0.1:{stack.ports.store}`"
    )

"""Command that runs the talk's test: loadtest. Needs a checkout, whose benchmark it starts as a process.

Passes on what was asked; users, chaos and verdict are benchmarks/loadtest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from looksmith.cli.calls import REGISTRY_DEFAULT
from looksmith.cli.stack import CHECKOUT, check_platform
from looksmith.cli.terminal import Problem, note, one_line_errors


def loadtest(
    users: Annotated[int, typer.Option(min=1, max=1000, help="Who each ask for one picture after another.")] = 10,
    brands: Annotated[int, typer.Option(min=2, max=250, help="Brands, made from the looks that ship.")] = 100,
    duration: Annotated[float, typer.Option(min=10, help="Seconds of load.")] = 1200,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request has failed.")] = 180,
    seed: Annotated[int, typer.Option(help="Other seeds: other brands, other requests, other moments of chaos.")] = 0,
    *,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill, stop and scale parts of the system meanwhile; this machine's only.")
    ] = False,
    capacity: Annotated[
        bool, typer.Option(help="First measure 1, 2 and 4 workers undisturbed: goodput is compared with that.")
    ] = True,
    routers: Annotated[
        str, typer.Option(help="Routers of a system that runs already: HOST:PORT,... Unset: one of its own.")
    ] = "",
    registry: Annotated[str, typer.Option(help="That system's registry, which gets the brands.")] = REGISTRY_DEFAULT,
    json: Annotated[Path | None, typer.Option(help="Keep the report here.", metavar="FILE")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it here, as .svg or .png.", metavar="FILE")] = None,
) -> None:
    """Load a system as the talk did, for twenty minutes, and tell whether any request failed.

    Users ask without a pause; every picture is compared afterwards with what the plain engine paints for its brand.
    Exits with 1 if anything fell short. Needs a checkout with the studio model; a system that runs already must serve
    that model too.
    """
    with one_line_errors():
        check_platform()
        if not (CHECKOUT / "benchmarks").is_dir():
            raise Problem("the load test needs a checkout of Looksmith: clone it and run `make setup`")
        if chaos and routers:
            raise Problem("--chaos strikes processes of this machine; a system that runs already is left alone")
    given = {
        "--users": users,
        "--brands": brands,
        "--seconds": duration,
        "--timeout": timeout,
        "--seed": seed,
        "--routers": routers,
        "--registry": registry if routers else "",
        "--json": json and json.resolve(),
        "--plot": plot and plot.resolve(),
    }
    argv = [sys.executable, "-m", "benchmarks.loadtest", *(f"{k}={v}" for k, v in given.items() if v not in {"", None})]
    argv += ["--chaos"] * chaos + ["--no-capacity"] * (not capacity)
    note(f"starts: python {' '.join(argv[1:])}")
    raise typer.Exit(subprocess.run(argv, cwd=CHECKOUT, env=os.environ, check=False).returncode)

"""Command about recipe files: recipe check. Needs a checkout, whose worker it starts to examine them.

Shows what that finds, for people or as JSON; imports no service.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from looksmith.cli.calls import Json
from looksmith.cli.stack import CHECKOUT
from looksmith.cli.terminal import Problem, err, note, one_line_errors, print_json, say

_EXAMPLE = "Example: looksmith recipe check deploy/recipes/studio.toml --device-memory 24GiB"
_REFUSED = 4
_ANSWERS = (0, _REFUSED)  # exit codes of an examination that came to its end

recipe = typer.Typer(no_args_is_help=True, help="Look into recipe files.", epilog=_EXAMPLE)


@recipe.command(epilog=_EXAMPLE)
def check(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, help="Recipes for one worker, together.", metavar="FILE"),
    ],
    *,
    slots: Annotated[
        str,
        typer.Option(envvar="WORKER_SLOTS", metavar="RANK:SLOTS,...", help="The bank. Unset: the worker's default."),
    ] = "",
    batch_sizes: Annotated[
        str, typer.Option(envvar="WORKER_BATCH_SIZES", help="Rows, as in 1,2,4,8. Unset: the worker's default.")
    ] = "",
    device_memory: Annotated[
        str, typer.Option(envvar="WORKER_DEVICE_BYTES", help="What it must fit into, as in 24GiB.")
    ] = "",
    bases: Annotated[
        str, typer.Option(envvar="WORKER_BASES", help="Folder of copies, where recipes name store://bases/NAME@SHA256.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Leave sha256 out, for which all weights are read.")] = False,
    json: Json = False,
) -> None:
    """Tell whether a worker can serve recipes, and what they take of its memory.

    Every mistake is named with its file, line and key. Headers are read, and no weights are loaded; what lies at the
    hub is fetched first, as a worker would. Exit code 4: one can't be served, or they do not fit together. Needs a
    checkout.
    """
    given = {"--slots": slots, "--batch-sizes": batch_sizes, "--device-memory": device_memory, "--bases": bases}
    options = [f"{name}={value}" for name, value in given.items() if value] + ["--quick"] * quick
    with one_line_errors():
        found, code = examined(files, options)
        if json:
            print_json(found)
        else:
            for each in found["recipes"]:
                _show_recipe(each)
            if found["memory"]:
                _show_memory(found["memory"])
    raise typer.Exit(code)


def examined(files: Sequence[Path], options: Sequence[str]) -> tuple[dict[str, Any], int]:
    """What the worker's examination says, and its exit code.

    Raises:
        Problem: this is no checkout, or the examination broke off.
        typer.Exit: it takes no such options, and has said so.
    """
    if not (CHECKOUT / "services").is_dir():
        raise Problem("recipe check needs a checkout of Looksmith: clone it and run `make setup`")
    done = subprocess.run(
        [sys.executable, "-m", "services.gpu_worker.check", *options, "--", *map(str, files)],
        env=os.environ
        | {
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONSAFEPATH": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "DIFFUSERS_VERBOSITY": "error",
        },
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to tell
        check=False,
    )
    if done.returncode == 2:
        raise typer.Exit(done.returncode)
    if done.returncode not in _ANSWERS:
        raise Problem(f"the examination ended with {done.returncode}; what it said last is above")
    found: dict[str, Any] = json_module.loads(done.stdout)
    return found, done.returncode


def _show_recipe(found: Mapping[str, Any]) -> None:
    for mistake in found["mistakes"]:
        place = f"{found['file']}:{mistake['line']}" if mistake["line"] else found["file"]
        _complain(f"{place}: {mistake['key']} {mistake['problem']}")
    if "name" not in found:  # its file could not be read to the end
        return
    say(f"{found['file']}: {found['name']}, {'refused' if found['mistakes'] else 'can be served'}")
    for source in found["sources"]:
        _show_source(source)
    if base := found["found"]:
        models = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in base["parameters"].items())
        say(f"  found     {found['family']}, {base['pipeline']}, in a {base['layout']}: {models}")
        if base["fused_layers"]:
            say(f"            the distillation is fused into {base['fused_layers']} layers")
    say(f"  sizes     {', '.join(f'{width}x{height}' for width, height in found['sizes'])} in {found['dtype']}")
    say(f"  steps     {', '.join(map(str, found['steps']))}; {found['default_steps']} unless asked for others")
    guidance = found["guidance"]
    say(f"  guidance  {guidance['default']:g} unless asked for other, at most {guidance['max']:g}")
    say(f"  safety    {found['safety']}")
    _show_sampler(found["sampler"], str(found["default_steps"]))
    if found["licence"]:
        say(f"  licence   {found['licence']}")
    say("")


def _show_source(source: Mapping[str, Any]) -> None:
    for file in source["files"]:
        say(f"  {source['table']:8}{_size(file['bytes'])}  {file['path']}")
    if source["sha256"]:
        say(f'{"":14}sha256 = "{source["sha256"]}"')
        if not source["pinned"]:
            say(f"{'':14}with that line under [{source['table']}], other weights are refused")
    elif source["pinned"]:
        say(f"{'':14}sha256 not compared (--quick)")


def _show_sampler(sampler: Mapping[str, Any], steps: str) -> None:
    say(f"  sampler   {sampler['class']}, eta {sampler['eta']:g}")
    if shown := sampler["tables"].get(steps):
        say(f"{'':6}step  timestep      keep      move     noise")
        for number, step in enumerate(shown["steps"], start=1):
            numbers = "".join(f"{step[name]:10.4f}" for name in ("keep", "move", "noise"))
            say(f"{number:10}{step['timestep']:10g}{numbers}")


def _show_memory(memory: Mapping[str, Any]) -> None:
    say("memory of the device")
    for base in memory["bases"]:
        models = ", ".join(f"{name} {_size(size).strip()}" for name, size in base["models"].items())
        say(f"  {_size(base['bytes'])}  {', '.join(base['recipes'])} in {base['dtype']}: {models}")
    for bank in memory["banks"]:
        slots = ",".join(f"{rank}:{count}" for rank, count in bank["slots"].items())
        say(f"  {_size(bank['bytes'])}  bank of {bank['family']}, slots {slots}")
    say(f"  {_size(memory['reserve_bytes'])}  reserve, to decode pictures")
    device = memory["device_bytes"]
    say(f"  {_size(memory['total_bytes'])}  together" + (f", of {_size(device).strip()}" if device else ""))
    for bank in memory["banks"]:
        say(f"adapters of {bank['family']}, each" + (", and how many fit beside all else" if device else ""))
        for rank, size in bank["adapter_bytes"].items():
            say(f"  {_size(size)}  of rank {rank}" + (f": {bank['brands'][rank]} brands" if device else ""))
    if memory["refusal"]:
        _complain(memory["refusal"])
    elif not device:
        note("with --device-memory, as in 24GiB, this tells how many brands fit")


def _complain(lines: str) -> None:
    err.print(f"error: {lines}", markup=False, soft_wrap=True)


def _size(count: int) -> str:
    """Bytes in powers of two, as devices are sold; ten characters wide."""
    for exponent, unit in ((3, "GiB"), (2, "MiB")):
        if count >= 1024**exponent:
            return f"{count / 1024**exponent:6.1f} {unit}"
    return f"{count / 1024:6.1f} KiB"

"""Commands about bases in the object store: base push, list, pull, delete. Leaves the work to looksmith.bases."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from looksmith import bases
from looksmith.bases import BaseStore, Malformed, Reference, StoredBase, StoreSettings
from looksmith.bases.reference import PREFIX
from looksmith.bases.settings import LOCAL_ENDPOINT
from looksmith.cli.calls import Json
from looksmith.cli.terminal import Problem, err, one_line_errors, print_json, progress, say

Store = Annotated[
    str,
    typer.Option(
        envvar="LOOKSMITH_STORE_ENDPOINT",
        help="Object store, HOST:PORT; its keys, bucket and region are LOOKSMITH_STORE_*.",
        show_default=True,
    ),
]
Named = Annotated[str, typer.Argument(help="store://bases/NAME@SHA256, as `base list` shows it.", metavar="REFERENCE")]

#: From how many bytes on a log shall show how far it is.
_LONG_BYTES = 100_000_000

base = typer.Typer(
    no_args_is_help=True,
    help="Bases in the object store: push, list, pull, delete.",
    epilog="Example: looksmith base push ./stable-diffusion-xl --name sdxl",
)


@base.command(epilog="Example: looksmith base push ./stable-diffusion-xl --name sdxl")
def push(
    path: Annotated[Path, typer.Argument(exists=True, help="A diffusers folder, or one .safetensors file.")],
    *,
    name: Annotated[str, typer.Option(help="What it is called: lower-case letters, digits and '-'.")],
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Send also what the store has, which mends a damaged file.")
    ] = False,
    store: Store = LOCAL_ENDPOINT,
    json: Json = False,
) -> None:
    """Bring a base into the store, and print the reference that recipes name it by.

    Nothing shows before all of it is there. Where it broke off, repeat it: what the store has is not sent again.
    """
    with _at(store) as opened:
        with _bar(quiet=json) as tell:
            done = bases.push(opened, path, name=name, rewrite=rewrite, on_progress=tell)
        if json:
            print_json(
                {
                    "reference": str(done.reference),
                    "files": done.files,
                    "bytes": done.size,
                    "sent_bytes": done.sent_bytes,
                    "skipped": done.skipped,
                    "family": done.family,
                }
            )
            return
        if done.skipped:
            _aside(f"hidden, and left out: {', '.join(done.skipped)}")
        kind = f", {done.family}" if done.family else ""
        _aside(f"{done.files} files, {decimal(done.size)}{kind}; {decimal(done.sent_bytes)} sent")
        say(str(done.reference))


@base.command("list", epilog="Example: looksmith base list --json")
def list_(*, store: Store = LOCAL_ENDPOINT, json: Json = False) -> None:
    """List the bases that the store holds, each with its reference."""
    with _at(store) as opened:
        found = bases.stored_bases(opened)
        if json:
            print_json({"bases": [_as_json(each) for each in found]})
            return
        for each in found:
            kind = f", {each.family}" if each.family else ""
            content = f"{len(each.manifest.files)} files, {decimal(each.manifest.size)}" if each.manifest else "damaged"
            say(f"{each.reference.name}{kind}: {content}, pushed {each.pushed:%Y-%m-%d %H:%M:%S} UTC")
            say(f"  {each.reference}")


@base.command(epilog="Example: looksmith base pull store://bases/sdxl@0123... /var/lib/looksmith/bases")
def pull(
    reference: Named,
    folder: Annotated[Path, typer.Argument(help="Folder of copies; the base gets one of its own in it.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Read a copy that is there, and mend it.")] = False,
    store: Store = LOCAL_ENDPOINT,
    json: Json = False,
) -> None:
    """Copy a base to this disk, and print where it is. A worker's init step.

    Every byte is checked, and nothing shows before all of it is right. Where it broke off, repeat it: it goes on within
    the file. A copy that is there costs nothing, and needs no store.
    """
    with _at(store) as opened:
        wanted = Reference.parse(reference)
        with _bar(quiet=json) as tell:
            copy = bases.pull(
                opened,
                wanted,
                folder,
                verify=verify,
                on_progress=lambda done, total: tell("pulling", done, total),
                on_wait=lambda: _aside("another pull of it is under way; waiting for its end"),
            )
        if json:
            print_json({"reference": str(wanted), "path": str(copy.absolute())})
            return
        say(str(copy.absolute()))


@base.command(epilog="Example: looksmith base delete sdxl@0123... --confirm sdxl")
def delete(
    reference: Annotated[str, typer.Argument(help="NAME@SHA256, or the whole reference.", metavar="REFERENCE")],
    *,
    confirm: Annotated[str, typer.Option(help="Its name once more; asked for where it is not given.")] = "",
    store: Store = LOCAL_ENDPOINT,
    json: Json = False,
) -> None:
    """Delete a base from the store, and the files that no other base holds. Copies on disks stay."""
    with _at(store) as opened:
        leaving = Reference.parse(reference if reference.startswith(PREFIX) else PREFIX + reference)
        asks = err.is_terminal and not confirm
        again = typer.prompt(f"Type {leaving.name} to delete it", err=True) if asks else confirm
        done = bases.delete(opened, leaving, confirm=again)
        if json:
            print_json({"freed_bytes": done.freed_bytes, "kept_bytes": done.kept_bytes})
            return
        kept = f"; {decimal(done.kept_bytes)} stay, which other bases hold" if done.kept_bytes else ""
        say(f"{leaving.name} is deleted; {decimal(done.freed_bytes)} are gone{kept}")


@contextmanager
def _at(endpoint: str) -> Iterator[BaseStore]:
    """The store, and errors as one line each. A signal unwinds what runs, even in a container's first process."""
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with one_line_errors():
        try:
            with bases.open_store(StoreSettings.from_environ(os.environ, endpoint=endpoint)) as store:
                yield store
        except Malformed as error:
            raise Problem(str(error), 2) from None
        except KeyboardInterrupt:
            raise Problem("stopped before it was done", 128 + told[0]) from None  # the code that shells have for it
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _aside(line: str) -> None:
    """A remark on standard error: standard output is what a script reads."""
    err.print(f"note: {line}", markup=False, soft_wrap=True)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase; where nobody watches, such as in a log, a line for each tenth of what takes its time."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, Any] = {}
    tenths: dict[str, int] = {}
    with progress(*columns, quiet=quiet) as bar:

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)
            tenth = done * 10 // max(total, 1)
            if bar.disable and not quiet and total >= _LONG_BYTES and tenth > tenths.get(phase, 0):
                tenths[phase] = tenth
                err.print(f"{phase}: {decimal(done)} of {decimal(total)}")

        yield tell


def _as_json(found: StoredBase) -> dict[str, Any]:
    return {
        "name": found.reference.name,
        "reference": str(found.reference),
        "files": len(found.manifest.files) if found.manifest else 0,
        "bytes": found.manifest.size if found.manifest else 0,
        "pushed": found.pushed.isoformat(),
        "family": found.family,
        "damaged": found.manifest is None,
    }

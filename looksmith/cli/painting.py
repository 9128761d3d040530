"""Command that paints: generate."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from looksmith.cli.calls import (
    ROUTER_DEFAULT,
    TRACES_DEFAULT,
    Brand,
    Json,
    Router,
    as_dict,
    parse_ref,
    reaching,
    run,
    shown,
)
from looksmith.cli.terminal import Problem, half_blocks, note, out, print_json, progress, say
from looksmith.cli.waterfall import fetch_trace, waterfall
from looksmith.client import Blocked, Looksmith, Painting
from looksmith.nouns import SAFETY_CHECKER
from looksmith.v1 import generation_pb2 as pb


def generate(
    brand: Brand,
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=16, help="Number of images.")] = 1,
    steps: Annotated[int, typer.Option(min=0, max=1000, help="Denoising steps; 0: the recipe's.")] = 0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the first image; the same seed paints the same picture."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Instead of the brand's own: ADAPTER, ADAPTER@VERSION or ADAPTER:ALIAS. Up to three."),
    ] = None,
    plain: Annotated[bool, typer.Option("--no-adapters", help="Paint with the base alone, without any look.")] = False,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the images go.")] = Path("out"),
    trace: Annotated[bool, typer.Option("--trace", help="Show where the time went, span by span.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the pictures in the terminal.")] = False,
    routers: Router = ROUTER_DEFAULT,
    traces: Annotated[str, typer.Option(envvar="LOOKSMITH_TRACES", help="Jaeger's query address.")] = TRACES_DEFAULT,
    json: Json = False,
) -> None:
    """Paint pictures for a brand, in its look, and say where and how fast that was done."""

    async def work() -> None:
        request = pb.GenerateRequest(
            brand=brand, prompt=prompt, count=count, steps=steps, no_adapters=plain, report_steps=True
        )
        if seed is not None:
            if seed >= 2**64:
                raise Problem("--seed must be below 2^64", 2)
            request.seed = seed
        for text in adapter or []:
            ref = parse_ref(f"{brand}/{text}")
            use = request.adapters.add(adapter=ref.adapter)
            pick = ref.WhichOneof("pick") or "alias"
            setattr(use, pick, getattr(ref, pick))
        trace_id = secrets.token_hex(16)
        with reaching(routers):
            painting = await _paint(request, routers.split(","), trace_id, quiet=json)
        files = _save(painting, folder, brand)
        if json:
            print_json(_as_json(painting, files, trace_id))
            _check_delivered(painting)
            return
        if show and painting.images:
            out.print(half_blocks([i.data for i in painting.images[:4]], columns=32, width=out.width))
        _tell(painting, files)
        if trace:
            spans = await fetch_trace(traces, trace_id, names=("looksmith.generate", "worker.generate"))
            if not spans:
                raise Problem(f"no trace {trace_id} at {traces}", 6)
            say(f"trace {trace_id}")
            out.print(waterfall(spans, width=out.width))
        _check_delivered(painting)

    run(work())


async def _paint(request: pb.GenerateRequest, routers: list[str], trace_id: str, *, quiet: bool) -> Painting:
    """Paints with a bar on standard error; the whole call is one trace, named by ``trace_id``."""
    who = shown()
    bar = progress(TextColumn("{task.description}"), BarColumn(), quiet=quiet)
    task = bar.add_task("asked", total=None)
    parent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    with bar:
        async with Looksmith(routers, token=who.token, credentials=who.credentials) as client:
            return await client.paint(
                request, on_event=_shower(bar, task, request.count), metadata=[("traceparent", parent)]
            )


def _shower(bar: Progress, task: TaskID, count: int) -> Callable[[pb.GenerateResponse], None]:
    def on_event(event: pb.GenerateResponse) -> None:
        match event.WhichOneof("event"):
            case "queued":
                bar.update(task, description=f"waits: {event.queued.reason}")
            case "placed":
                bar.update(task, description=f"{event.placed.worker}: {event.placed.reason}")
            case "step":
                bar.update(task, total=event.step.steps * count, advance=1)

    return on_event


def _save(painting: Painting, folder: Path, brand: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for image in painting.images:
        file = folder / f"{brand}-{painting.accepted.request_id[:8]}-{image.index}.png"
        file.write_bytes(image.data)
        files.append(file)
    return files


def _as_json(painting: Painting, files: list[Path], trace_id: str) -> dict[str, object]:
    return {
        "files": [str(f) for f in files],
        "seeds": [str(i.seed) for i in painting.images],
        "blocked": [{"image": b.index, "seed": str(b.seed), "reason": b.reason} for b in painting.blocked],
        "trace_id": trace_id,
        "accepted": as_dict(painting.accepted),
        "placed": as_dict(painting.placed),
        "swapped": as_dict(painting.swapped),
        "finished": as_dict(painting.finished),
    }


def _tell(painting: Painting, files: list[Path]) -> None:
    done = painting.finished
    used = ", ".join(f"{a.adapter}@{a.version}" for a in done.adapters) or "the base alone"
    shared = sorted({placed.worker for placed in painting.placements if placed.images})
    where = ", ".join(shared) if len(shared) > 1 else f"{done.worker} ({painting.placed.reason})"
    for file in files:
        say(str(file))
    for blocked in painting.blocked:
        note(_in_words(blocked))
    say(
        f"{used} on {where}; "
        f"swap {done.timings.swap_visible.ToMilliseconds()} ms visible, "
        f"denoise {done.timings.denoise.ToMilliseconds()} ms, total {done.timings.total.ToMilliseconds()} ms"
    )
    for warning in dict.fromkeys((*painting.accepted.warnings, *done.warnings)):
        note(warning)


def _in_words(blocked: Blocked) -> str:
    """The same words whatever is printed; a reason of a newer server is told as it came."""
    by = "the safety checker" if blocked.reason == SAFETY_CHECKER else blocked.reason or "its worker"
    return f"image {blocked.index} was blocked by {by}"


def _check_delivered(painting: Painting) -> None:
    """The request went well, and yet there is nothing to see: scripts must be able to tell.

    Raises:
        Problem: every picture was blocked.
    """
    if painting.blocked and not painting.images:
        raise Problem("nothing was delivered: every image was blocked", 4)

"""Command that shows everything once: demo. Starts a stack on free ports, publishes four brands, paints, cleans up."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from PIL import Image

from looksmith import convert
from looksmith.cli.calls import Shown, answer, connected, reaching, run, tier_name
from looksmith.cli.sheet import contact_sheet
from looksmith.cli.stack import CHECKOUT, Ports, Stack, check_platform, local_stack
from looksmith.cli.tables import Listing, table
from looksmith.cli.terminal import Problem, half_blocks, one_line_errors, out, say
from looksmith.client import Looksmith, Painting
from looksmith.nouns import AdapterUse, Brand
from looksmith.publisher import publish
from looksmith.v1 import brand_pb2, brand_pb2_grpc
from looksmith.v1 import generation_pb2 as pb

PROMPTS = ("a red mug on a sky background", "a yellow car on a lilac background", "a green tree on a cream background")
BASE = "base"
BRANDS = CHECKOUT / "models/studio/brands"
SEED = 7
#: Free disk space below which the demo does not begin: a store that runs full fails later and less clearly.
DISK_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Painted:
    """One picture of the demo and the figures that go with it."""

    brand: str
    prompt: str
    version: int
    digest: str
    worker: str
    reason: str
    tier: str
    swap_visible_ms: float
    denoise_ms: float
    total_ms: float
    seed: int


@dataclass(frozen=True)
class Publication:
    """A brand's record and its adapters' files, as models/studio/brands holds them."""

    brand: Brand
    adapters: dict[str, Path]


def publications(folder: Path) -> list[Publication]:
    """Every brand below ``folder`` that has a ``brand.toml``."""
    found = []
    for file in sorted(folder.glob("*/brand.toml")):
        record = tomllib.loads(file.read_text())
        uses = tuple(AdapterUse(name) for name in record["default_adapters"])
        brand = Brand(file.parent.name, display_name=record["display_name"], default_adapters=uses)
        found.append(Publication(brand, {name: file.parent / path for name, path in record["adapters"].items()}))
    return found


@dataclass(frozen=True)
class Pictures:
    """What the demo painted: every brand with every prompt, and one brand's first picture twice."""

    by_brand_and_prompt: dict[tuple[str, str], Painting]
    asked_twice: str
    cold: Painting
    warm: Painting


class Clock:
    """Prints phases with the time since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def phase(self, text: str) -> None:
        say(f"{self.seconds:6.1f} s  {text}")


def check(folder: Path, brands: Sequence[Publication]) -> None:
    """Makes ``folder``, and finds what would fail later and less clearly.

    Raises:
        Problem: names the platform, the disk, or the file that is missing.
    """
    check_platform()
    for file in (path for publication in brands for path in publication.adapters.values()):
        if not file.exists():
            raise Problem(f"{file} is missing: check out the whole repository, or rebuild it with `make studio`")
    if not brands:
        raise Problem(f"no brands in {BRANDS}: check out the whole repository")
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < DISK_BYTES:
        raise Problem(f"disk: {free / 1e9:.1f} GB free at {folder}, the demo needs {DISK_BYTES / 1e9:.0f}")


def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where pictures and figures go.")] = Path("out"),
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of GPU workers.")] = 2,
) -> None:
    """Show everything in a minute: a stack of its own, four brands published, placed and painted.

    Then a contact sheet, a table of where the time went, and nothing left running. Needs a checkout.
    """
    clock = Clock()
    brands = publications(BRANDS)
    with one_line_errors():
        check(folder, brands)
    pictures = run(_demo(folder.resolve() / "stack", brands, workers, clock))
    with one_line_errors():
        _report(folder, pictures)
    clock.phase("done")
    say(f"\n{folder / 'contact-sheet.png'}")
    say("Next:")
    say("  make up                                    # and then, in another terminal:")
    say("  .venv/bin/looksmith publish inkwell/house-style models/studio/brands/inkwell/house-style")
    say("  .venv/bin/looksmith generate inkwell 'a blue boat on a rose background' --trace")


async def _demo(data: Path, brands: Sequence[Publication], workers: int, clock: Clock) -> Pictures:
    """Paints with a stack that keeps its data and logs in ``data``, and clears them away unless something fails."""
    shutil.rmtree(data, ignore_errors=True)
    clock.phase("starting store, registry, router and workers")
    async with local_stack(data, ports=Ports.free(workers), workers=workers, on_phase=clock.phase) as stack:
        pictures = await stack.during(_publish_and_paint(stack, brands, clock))
    shutil.rmtree(data, ignore_errors=True)
    clock.phase("all stopped")
    return pictures


async def _publish_and_paint(stack: Stack, brands: Sequence[Publication], clock: Clock) -> Pictures:
    await _publish(stack, brands, clock)
    with reaching(stack.router):
        async with Looksmith([stack.router]) as client:
            names = [publication.brand.name for publication in brands]
            cold, warm = await _twice(client, names[0], clock)
            return Pictures(await _paint_all(client, [BASE, *names], clock), names[0], cold, warm)


async def _publish(stack: Stack, brands: Sequence[Publication], clock: Clock) -> None:
    async with connected(stack.registry, as_who=Shown()) as channel:
        stub = brand_pb2_grpc.BrandServiceStub(channel)
        for record in (Brand(BASE, display_name="The base itself"), *(p.brand for p in brands)):
            await answer(stub.PutBrand(brand_pb2.PutBrandRequest(brand=convert.brand_to_pb(record)), timeout=10))
        for publication in brands:
            for name, path in publication.adapters.items():
                await _publish_one(channel, publication.brand.name, name, path, clock)


async def _publish_one(channel: grpc.aio.Channel, brand: str, name: str, path: Path, clock: Clock) -> None:
    version = (await publish(channel, path, brand=brand, adapter=name, family="studio")).version
    manifest = version.manifest
    clock.phase(
        f"published {brand}/{name} version {version.version}: {manifest.dialect}, "
        f"rank {manifest.ranks[0]}, {version.size_bytes / 1e3:.0f} kB, sha256 {version.digest[:12]}"
    )


async def _paint(client: Looksmith, brand: str, prompt: str) -> Painting:
    return await client.paint(pb.GenerateRequest(brand=brand, prompt=prompt, seed=SEED))


async def _twice(client: Looksmith, brand: str, clock: Clock) -> tuple[Painting, Painting]:
    """The same picture before and after the worker has the brand's adapter."""
    cold = await _paint(client, brand, PROMPTS[0])
    clock.phase(f"first picture: {brand}, {PROMPTS[0]}")
    warm = await _paint(client, brand, PROMPTS[0])
    clock.phase("the same again, now that the adapter is there")
    pictures = [p.images[0].data for p in (cold, warm)]
    out.print(half_blocks(pictures, columns=32, width=out.width, captions=(f"{brand}, cold", f"{brand}, warm")))
    return cold, warm


async def _paint_all(client: Looksmith, brands: Sequence[str], clock: Clock) -> dict[tuple[str, str], Painting]:
    """Every brand with every prompt, a column at a time, as concurrent requests."""
    painted: dict[tuple[str, str], Painting] = {}
    for prompt in PROMPTS:
        column = await asyncio.gather(*(_paint(client, brand, prompt) for brand in brands))
        painted |= {(brand, prompt): painting for brand, painting in zip(brands, column, strict=True)}
        clock.phase(f"painted for base and {len(brands) - 1} brands: {prompt}")
        out.print(half_blocks([p.images[0].data for p in column], columns=24, width=out.width, captions=brands))
    return painted


def figures(brand: str, prompt: str, painting: Painting) -> Painted:
    done, timings = painting.finished, painting.finished.timings
    used = done.adapters[0] if done.adapters else None
    return Painted(
        brand=brand,
        prompt=prompt,
        version=used.version if used else 0,
        digest=used.digest if used else "",
        worker=done.worker,
        reason=painting.placed.reason,
        tier=tier_name(painting.swapped.tier) or "-",
        swap_visible_ms=timings.swap_visible.ToNanoseconds() / 1e6,
        denoise_ms=timings.denoise.ToNanoseconds() / 1e6,
        total_ms=timings.total.ToNanoseconds() / 1e6,
        seed=painting.images[0].seed,
    )


def _report(folder: Path, pictures: Pictures) -> None:
    """The sheet, the figures as JSON, and two tables of them."""
    paintings = pictures.by_brand_and_prompt
    brands = list(dict.fromkeys(brand for brand, _ in paintings))
    opened = {key: Image.open(io.BytesIO(p.images[0].data)) for key, p in paintings.items()}
    rows = [(brand, [opened[brand, prompt] for prompt in PROMPTS]) for brand in brands]
    contact_sheet(rows, PROMPTS).save(folder / "contact-sheet.png")
    images = [figures(brand, prompt, painting) for (brand, prompt), painting in paintings.items()]
    (folder / "demo.json").write_text(json.dumps({"images": [asdict(i) for i in images]}, indent=2) + "\n")
    out.print(figures_table(images))
    out.print()
    cold, warm = (figures(pictures.asked_twice, PROMPTS[0], p) for p in (pictures.cold, pictures.warm))
    out.print(twice_table(cold, warm))


def figures_table(images: Sequence[Painted]) -> Listing:
    """A row a picture. Of the reason only the place: where the adapter was stands beside it."""
    columns = ("brand", "version", "worker", "why there", "tier", "visible\nswap ms", "denoise\nms", "total\nms")
    cells = [
        (
            i.brand,
            i.version or None,
            i.worker,
            i.reason.partition(",")[0],
            i.tier,
            i.swap_visible_ms,
            i.denoise_ms,
            i.total_ms,
        )
        for i in images
    ]
    return table(columns, cells)


def twice_table(cold: Painted, warm: Painted) -> Listing:
    """One brand asked twice, side by side."""
    lines: dict[str, Callable[[Painted], object]] = {
        "worker": lambda i: i.worker,
        "tier": lambda i: i.tier,
        "visible swap ms": lambda i: f"{i.swap_visible_ms:.1f}",
        "denoise ms": lambda i: f"{i.denoise_ms:.1f}",
        "total ms": lambda i: f"{i.total_ms:.1f}",
    }
    return table(
        (f"{cold.brand} asked twice", "cold", "warm"), [(name, of(cold), of(warm)) for name, of in lines.items()]
    )

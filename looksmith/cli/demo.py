"""Command that shows everything once: demo. Starts a stack on free ports, publishes four brands, paints, cleans up."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from PIL import Image

from looksmith import convert
from looksmith.cli import terminal
from looksmith.cli.calls import answer, connected, run
from looksmith.cli.sheet import contact_sheet
from looksmith.cli.stack import CHECKOUT, Ports, Stack, local_stack
from looksmith.cli.terminal import Problem, one_line_errors, out, table
from looksmith.client import Looksmith, Painting
from looksmith.nouns import AdapterUse, Brand
from looksmith.publisher import publish
from looksmith.v1 import brand_pb2, brand_pb2_grpc
from looksmith.v1 import generation_pb2 as pb

PROMPTS = ("a red mug on a sky background", "a yellow car on a lilac background", "a green tree on a cream background")
BASE = "base"
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


class Clock:
    """Prints phases with the time since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def phase(self, text: str) -> None:
        out.print(f"[dim]{self.seconds:6.1f} s[/]  {text}")


def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where pictures and figures go.")] = Path("out"),
    workers: Annotated[int, typer.Option(min=1, max=8, help="Number of GPU workers.")] = 2,
) -> None:
    """Show it all: four brands published, placed, painted; where the time went; nothing left running."""
    with one_line_errors():
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < DISK_BYTES:
            raise Problem(f"disk: {free / 1e9:.1f} GB free at {folder}, the demo needs {DISK_BYTES / 1e9:.0f}")
    run(_demo(folder, workers))


async def _demo(folder: Path, workers: int) -> None:
    clock = Clock()
    brands = publications(CHECKOUT / "models/studio/brands")
    data = folder / "stack"
    shutil.rmtree(data, ignore_errors=True)
    clock.phase("starting store, registry, router and workers")
    async with local_stack(data, ports=Ports.free(workers), workers=workers, on_phase=clock.phase) as stack:
        await _publish(stack, brands, clock)
        async with Looksmith([stack.router]) as client:
            cold, warm = await _twice(client, brands[0].brand.name, clock)
            paintings = await _paint_all(client, [BASE, *(p.brand.name for p in brands)], clock)
    clock.phase("all stopped")
    shutil.rmtree(data, ignore_errors=True)
    _report(folder, paintings, cold, warm)
    out.print(f"\n{folder / 'contact-sheet.png'}")
    out.print("Next:\n  make up\n  .venv/bin/looksmith generate inkwell 'a blue boat on a rose background' --trace")
    out.print("  .venv/bin/looksmith explain inkwell")


async def _publish(stack: Stack, brands: Sequence[Publication], clock: Clock) -> None:
    async with connected(stack.registry) as channel:
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
    cold = await _paint(client, brand, PROMPTS[0])
    clock.phase(f"first picture: {brand}, {PROMPTS[0]}")
    out.print(terminal.half_blocks([cold.images[0].data], columns=32))
    return cold, await _paint(client, brand, PROMPTS[0])


async def _paint_all(client: Looksmith, brands: Sequence[str], clock: Clock) -> dict[tuple[str, str], Painting]:
    """Every brand with every prompt, a column at a time, as concurrent requests."""
    painted: dict[tuple[str, str], Painting] = {}
    for prompt in PROMPTS:
        column = await asyncio.gather(*(_paint(client, brand, prompt) for brand in brands))
        painted |= {(brand, prompt): painting for brand, painting in zip(brands, column, strict=True)}
        clock.phase(f"painted for base and {len(brands) - 1} brands: {prompt}")
        out.print(terminal.half_blocks([p.images[0].data for p in column], columns=20))
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
        tier=pb.Tier.Name(painting.swapped.tier).removeprefix("TIER_").lower() if used else "-",
        swap_visible_ms=timings.swap_visible.ToNanoseconds() / 1e6,
        denoise_ms=timings.denoise.ToNanoseconds() / 1e6,
        total_ms=timings.total.ToNanoseconds() / 1e6,
        seed=painting.images[0].seed,
    )


def _report(folder: Path, paintings: dict[tuple[str, str], Painting], cold: Painting, warm: Painting) -> None:
    """The sheet, the table, and the same figures as JSON."""
    brands = list(dict.fromkeys(brand for brand, _ in paintings))
    pictures = {key: Image.open(io.BytesIO(p.images[0].data)) for key, p in paintings.items()}
    rows = [(brand, [pictures[brand, prompt] for prompt in PROMPTS]) for brand in brands]
    contact_sheet(rows, PROMPTS).save(folder / "contact-sheet.png")
    images = [figures(brand, prompt, painting) for (brand, prompt), painting in paintings.items()]
    (folder / "demo.json").write_text(json.dumps({"images": [asdict(i) for i in images]}, indent=2) + "\n")
    columns = ("brand", "version", "worker", "why there", "tier", "visible swap ms", "denoise ms", "total ms")
    cells = [
        (i.brand, i.version or "-", i.worker, i.reason, i.tier, i.swap_visible_ms, i.denoise_ms, i.total_ms)
        for i in images
    ]
    out.print(table(columns, cells))
    first, again = (figures("cold", PROMPTS[0], p) for p in (cold, warm))
    sides = [(i.brand, i.worker, i.tier, i.swap_visible_ms, i.denoise_ms, i.total_ms) for i in (first, again)]
    out.print(table(("asked twice", "worker", "tier", "visible swap ms", "denoise ms", "total ms"), sides))

"""Command that makes a brand from pictures: brand train. Needs a checkout, whose trainer it starts as a process.

Publishes what that made and paints with it; how a look is learned is models/studio's.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageOps

from looksmith.channel import dial
from looksmith.cli.calls import (
    PORT,
    REGISTRY_DEFAULT,
    ROUTER_DEFAULT,
    Registry,
    Router,
    Shown,
    connected,
    reaching,
    run,
    shown,
)
from looksmith.cli.publishing import ensure_brand
from looksmith.cli.sheet import contact_sheet
from looksmith.cli.stack import CHECKOUT, Ports, check_platform, check_ports, is_serving, local_stack
from looksmith.cli.terminal import Problem, note, say
from looksmith.client import Looksmith
from looksmith.nouns import Malformed, check_name
from looksmith.publisher import publish
from looksmith.v1 import generation_pb2 as pb

ADAPTER = "house-style"
#: What the model that ships knows to paint, each with a colour and a background.
PROMPTS = (
    "a red mug on a sky background",
    "a yellow car on a lilac background",
    "a green tree on a cream background",
    "a blue house on a mint background",
    "an orange fish on a navy background",
)
SEED = 7
#: Levels, of 255, that the model's autoencoder may take from pictures: twice what the look of Voltage loses, 6.7, the
#: hardest of those that ship.
BLURRED = 13.0
_REFUSED = 4


@dataclass(frozen=True)
class Place:
    """Where the brand goes. ``own``: nothing runs there yet, and a stack is started for it."""

    registry: str
    routers: str
    own: bool


def train(
    name: Annotated[str, typer.Argument(help="Name of the brand, new or not.")],
    pictures: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="5 to 200 png, jpg or webp files; X.txt describes X.png."),
    ],
    *,
    minutes: Annotated[float, typer.Option(min=0.05, max=600, help="Most minutes that training may take.")] = 6,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Steps, where the minutes are enough.")] = 900,
    seed: Annotated[int, typer.Option(min=0, max=2**32, help="Another one trains a little otherwise.")] = 0,
    trigger_word: Annotated[str, typer.Option(help="Word that goes before every prompt. Unset: none is needed.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of what is made. Unset: out/NAME.")] = None,
    registry: Registry = REGISTRY_DEFAULT,
    routers: Router = ROUTER_DEFAULT,
) -> None:
    """Make a brand from your own pictures: train an adapter of the model that ships, publish it, paint with it.

    Where no stack runs, one is started for it in .looksmith, as by `looksmith up`, and stopped again; the brand stays
    there. Repeated, it makes the brand's next version, which goes into production when you promote it. Needs a
    checkout.
    """
    folder, data = (out or Path("out") / name).resolve(), Path(".looksmith").resolve()
    options = [
        f"--pictures={pictures.resolve()}", f"--name={name}", f"--out={folder / ADAPTER}.safetensors",
        f"--trigger-word={trigger_word}", f"--minutes={minutes}", f"--steps={steps}", f"--seed={seed}",
    ]  # fmt: skip

    async def work() -> None:
        _check(name)
        await _told("models.studio.own_pictures", str(pictures.resolve()))
        place = await _place(registry, routers)
        folder.mkdir(parents=True, exist_ok=True)
        made = json.loads(await _told("models.studio.own_brand", *options))
        _tell(made, steps)
        if not place.own:
            await _shown_on(place, name, made, folder, shown())
            return
        say("No stack runs: one is started, for now, in .looksmith")
        async with local_stack(data, ports=Ports.from_base(PORT), workers=1) as stack:
            await stack.during(_shown_on(place, name, made, folder, Shown()))

    run(work())


def _check(name: str) -> None:
    """Raises: Problem, for what would otherwise come up after minutes of training."""
    if not (CHECKOUT / "models").is_dir():
        raise Problem("brand train needs a checkout of Looksmith: clone it and run `make setup`")
    try:
        check_name("NAME", name)
    except Malformed as error:
        raise Problem(str(error), 2) from None


async def _place(registry: str, routers: str) -> Place:
    """Raises: Problem, where another stack was meant than the usual one, or nothing could be started in its place."""
    who = shown()
    async with dial(registry, credentials=who.credentials) as channel:
        if await is_serving(channel):
            return Place(registry, routers, own=False)
    if (registry, routers) != (REGISTRY_DEFAULT, ROUTER_DEFAULT):
        raise Problem(f"no answer from the registry at {registry}; without --registry and --routers one is started", 6)
    check_platform()
    check_ports(Ports.from_base(PORT), 1)
    return Place(registry, routers, own=True)


async def _told(module: str, *options: str) -> str:
    """What a module of the checkout prints, run as a process; its errors and its progress are seen as they come.

    Raises:
        typer.Exit: the pictures won't do, and it has said why.
        Problem: it broke off.
    """
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *options),
        cwd=CHECKOUT,
        env=os.environ | quiet | {"PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1"},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to tell
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _REFUSED:
        raise typer.Exit(_REFUSED)
    if process.returncode:
        raise Problem(f"training ended with {process.returncode}; what it said last is above")
    return told.decode()


def _tell(made: dict[str, Any], wanted: int) -> None:
    say(
        f"Trained on {len(made['pictures'])} pictures: {made['steps']} steps in {made['seconds'] / 60:.1f} minutes, "
        f"loss {made['first_loss']:.3f} to {made['last_loss']:.3f}"
    )
    say(made["file"])
    if made["steps"] < wanted:
        note(
            f"the time was up after {made['steps']} of {wanted} steps; more --minutes, or a calmer machine, learn more"
        )
    if made["levels_lost"] > BLURRED:
        note(
            f"the model's autoencoder shows your pictures {made['levels_lost']:.0f} of 255 levels off, before any "
            "training: fine lines and colours beyond those of models/studio stay out of its reach"
        )


async def _shown_on(place: Place, name: str, made: dict[str, Any], folder: Path, who: Shown) -> None:
    """Publishes, paints before and after, and says where that is and what to type next."""
    async with connected(place.registry, as_who=who) as channel:
        await ensure_brand(channel, name, ADAPTER)
        file, base = Path(made["file"]), made["base_digest"]
        done = await publish(channel, file, brand=name, adapter=ADAPTER, family="studio", base_digest=base)
    version = done.version.version
    names = f", now {' and '.join(done.aliases)}" if done.aliases else ""
    say(f"Published {name}/{ADAPTER} as version {version}{names}")
    before, after = pb.GenerateRequest(no_adapters=True), pb.GenerateRequest()
    after.adapters.add(adapter=ADAPTER, version=version)
    with reaching(place.routers):
        async with Looksmith(place.routers.split(","), token=who.token, credentials=who.credentials) as client:
            rows = [
                ("the base", await _painted(client, name, before)),
                (f"{name}, version {version}", await _painted(client, name, after)),
            ]
    files = [Path(made["folder"]) / each for each in made["pictures"][: len(PROMPTS)]]
    rows.append(("some of what it was trained on", [_square(each, rows[0][1][0].size) for each in files]))
    sheet = folder / "contact-sheet.png"
    contact_sheet(rows, PROMPTS).save(sheet)
    say(str(sheet))
    say("Next:")
    if place.own:
        say("  make up                                    # and then, in another terminal:")
    if not done.aliases and not done.already_existed:
        say(f"  .venv/bin/looksmith promote {name}/{ADAPTER}@{version}      # if you like it better")
    say(f"  .venv/bin/looksmith generate {name} '{PROMPTS[0]}' --show")


async def _painted(client: Looksmith, name: str, how: pb.GenerateRequest) -> list[Image.Image]:
    async def one(prompt: str) -> Image.Image:
        request = pb.GenerateRequest(brand=name, prompt=prompt, seed=SEED)
        request.MergeFrom(how)
        painting = await client.paint(request)
        return Image.open(io.BytesIO(painting.images[0].data))

    return list(await asyncio.gather(*map(one, PROMPTS)))


def _square(file: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(file) as picture:
        return ImageOps.fit(picture.convert("RGB"), size)

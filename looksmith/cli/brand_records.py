"""Command that changes a brand's record: brand put.

Changes what it was told and nothing else, unless somebody else was faster; what a record may hold is the registry's to
say.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from looksmith.cli.calls import REGISTRY_DEFAULT, Brand, Json, Registry, answer, as_dict, parse_ref, run, to_registry
from looksmith.cli.terminal import Problem, print_json, say
from looksmith.errors import Aborted, NotFound
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc

_SIZE = re.compile("([0-9]{1,5})x([0-9]{1,5})")


def put(
    name: Brand,
    *,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of requests that name none; '': the fleet's default.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of requests that name no size; 0x0: the recipe's first.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="What prompts are put into: holds {prompt} once; '': nothing.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Negative prompt of requests that give none.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Of requests that name none: ADAPTER, ADAPTER@VERSION or ADAPTER:ALIAS, and =WEIGHT. Up to three."
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--no-adapters", help="Such requests get the base's own look.")] = False,
    share: Annotated[float | None, typer.Option(help="Share of the fleet relative to other brands.")] = None,
    display_name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Change what the options name in a brand's record, and nothing else. A brand without a record gets one.

    Tells what each setting was, and the command that puts it back. Requests that have been accepted are painted as they
    were. Which recipes are served, workers know: another one is refused when the brand paints, not here.
    """

    async def work() -> None:
        if plain and adapter:
            raise Problem("--no-adapters contradicts --adapter", 2)
        said: dict[str, Any] = {
            "recipe": recipe,
            "prompt_template": template,
            "negative_prompt": negative_prompt,
            "fair_share_weight": share,
            "display_name": display_name,
            "default_adapters": [_parse_use(name, text) for text in adapter or ()] if adapter or plain else None,
        }
        if size is not None:
            said["default_width"], said["default_height"] = _parse_size(size)
        changes = {field: value for field, value in said.items() if value is not None}
        async with to_registry(registry) as channel:
            before, after = await change(brand_pb2_grpc.BrandServiceStub(channel), name, changes)
        if json:
            print_json({"brand": as_dict(after), "before": as_dict(before) if before else None})
            return
        for line in _told(before, after, registry):
            say(line)

    run(work())


async def change(
    stub: brand_pb2_grpc.BrandServiceAsyncStub, name: str, changes: Mapping[str, Any]
) -> tuple[brand_pb2.Brand | None, brand_pb2.Brand]:
    """A brand's record before, None if it had none, and with ``changes``, by field; a record that is so already stays.

    Raises:
        Problem: somebody else changed it in between.
        LooksmithError: what the registry refuses.
    """
    try:
        before = (await answer(stub.GetBrand(brand_pb2.GetBrandRequest(name=name), timeout=10))).brand
    except NotFound:
        before = None
    after = brand_pb2.Brand(name=name)
    if before:
        after.CopyFrom(before)  # with fields that only a newer registry knows
    for field in changes:
        after.ClearField(field)  # type: ignore[arg-type]  # put names them
    after.MergeFrom(brand_pb2.Brand(**changes))
    if before and _settings(after) == _settings(before):
        return before, before
    request = brand_pb2.PutBrandRequest(brand=after, expected_version=before.version if before else 0)
    try:
        return before, (await answer(stub.PutBrand(request, timeout=10))).brand
    except Aborted as error:
        raise Problem(f"{name} was changed by somebody else just now, and not by this: {error.message}", 6) from None


def _told(before: brand_pb2.Brand | None, after: brand_pb2.Brand, registry: str) -> list[str]:
    if before is None:
        return [f"{after.name} is new, version {after.version}"]
    was, now = _settings(before), _settings(after)
    changed = [option for option in was if was[option] != now[option]]
    if not changed:
        return [f"{after.name} is so already, version {after.version}"]
    back = ["looksmith", "brand", "put", after.name]
    for option in changed:
        back += [part for value in was[option] for part in (option, value)] or ["--no-adapters"]
    if registry != REGISTRY_DEFAULT:
        back += ["--registry", registry]
    return [
        f"{after.name} is now version {after.version} (was {before.version})",
        *(f"  {o.removeprefix('--')}: {_listed(now[o])} (was {_listed(was[o])})" for o in changed),
        f"to put it back: {shlex.join(back)}",
    ]


def _settings(record: brand_pb2.Brand) -> dict[str, list[str]]:
    """What the options would have to say to make a record so; no adapter: none."""
    return {
        "--recipe": [record.recipe],
        "--size": [f"{record.default_width}x{record.default_height}"],
        "--template": [record.prompt_template],
        "--negative-prompt": [record.negative_prompt],
        "--adapter": [_use_text(use) for use in record.default_adapters],
        "--share": [str(record.fair_share_weight or 1.0)],
        "--display-name": [record.display_name],
    }


def _listed(values: Sequence[str]) -> str:
    return ", ".join(value or "unset" for value in values) or "none"


def _parse_size(text: str) -> tuple[int, int]:
    size = _SIZE.fullmatch(text)
    if not size:
        raise Problem(f"{text!r} is no size: write WIDTHxHEIGHT, such as 1024x768", 2)
    return int(size[1]), int(size[2])


def _parse_use(brand: str, text: str) -> adapter_pb2.AdapterUse:
    """ADAPTER, ADAPTER@3, ADAPTER:staging or ADAPTER@sha256:HEX, and =WEIGHT."""
    named, given, weight = text.partition("=")
    ref = parse_ref(f"{brand}/{named}")
    use = adapter_pb2.AdapterUse(adapter=ref.adapter)
    pick = ref.WhichOneof("pick") or "alias"
    setattr(use, pick, getattr(ref, pick))
    if given:
        try:
            use.weight = float(weight)
        except ValueError:
            raise Problem(f"{weight!r} is no weight: write {named}=0.8", 2) from None
    return use


def _use_text(use: adapter_pb2.AdapterUse) -> str:
    """As _parse_use reads it."""
    pick = {
        "version": f"@{use.version}",
        "digest": f"@sha256:{use.digest}",
        "alias": f":{use.alias}" if use.alias != "production" else "",
    }
    weight = f"={use.weight!r}" if use.HasField("weight") and use.weight != 1 else ""
    return use.adapter + pick.get(use.WhichOneof("pick") or "", "") + weight

"""Commands about what is published: publish, brands, adapters, promote, yank."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import grpc
import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn

from looksmith.cli import checking
from looksmith.cli.calls import (
    REGISTRY_DEFAULT,
    ROUTER_DEFAULT,
    AdapterName,
    Json,
    Registry,
    Router,
    answer,
    as_dict,
    parse_ref,
    run,
    to_registry,
)
from looksmith.cli.fleet import warmed
from looksmith.cli.tables import table
from looksmith.cli.terminal import Problem, err, note, one_line_errors, out, print_json, progress, say
from looksmith.convert import lineage_from_pb
from looksmith.errors import DeadlineExceeded, Unavailable, error_from_rpc
from looksmith.lora import LoraError
from looksmith.nouns import MAX_CLIP_SKIP, Lineage
from looksmith.publisher import publish as publish_adapter
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc, registry_pb2, registry_pb2_grpc

#: Records asked for at a time: the most that the registry gives.
PAGE = 1000
#: Adapters whose versions are asked for at the same time.
LISTS_AT_ONCE = 8
#: Seconds that workers get to fetch a version before it is promoted.
WARM_S = 60.0


def publish(
    adapter: Annotated[str, typer.Argument(help="BRAND/ADAPTER.")] = "",
    path: Annotated[Path | None, typer.Argument(exists=True, help="A .safetensors file or a peft folder.")] = None,
    *,
    check: Annotated[
        Path | None,
        typer.Option(exists=True, help="Only say what this file or folder is, or why it would be refused; no server."),
    ] = None,
    family: Annotated[str, typer.Option(help="Family of the base it was trained for.")] = "studio",
    alias: Annotated[
        list[str] | None, typer.Option(help="Alias that shall name this version; may be repeated.")
    ] = None,
    remark: Annotated[str, typer.Option("--note", help="Note for the history.")] = "",
    trigger_word: Annotated[
        list[str] | None, typer.Option(help="Word that a prompt needs for the adapter to show; may be repeated.")
    ] = None,
    clip_skip: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_CLIP_SKIP, help="Last layers of the text encoder that training left out; 0: not known."
        ),
    ] = 0,
    prediction_type: Annotated[str, typer.Option(help="What the network predicts: epsilon or v_prediction.")] = "",
    trained_from: Annotated[str, typer.Option(help="Name of the checkpoint that it was trained from.")] = "",
    request_id: Annotated[
        str, typer.Option(help="Goes on with an upload that broke off; or names this one, in case it does.")
    ] = "",
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Publish an adapter's next version.

    The registry checks the file and numbers the version; the same bytes again make no new one. The first version goes
    into production; a later one goes there with --alias production, or with promote. A brand that has no record gets
    one, with this adapter as its look. Where the adapter comes from is read from the file, unless the options say it.
    """
    if check:
        with one_line_errors():
            if adapter:
                raise Problem("--check takes the file or folder, and no BRAND/ADAPTER beside it", 2)
            checking.check(check, family=family, json=json)
        return

    request = request_id or uuid4().hex

    async def work() -> None:
        if path is None:
            raise Problem("write BRAND/ADAPTER and the file or folder to publish, or --check and the file", 2)
        ref = parse_ref(adapter)
        if {"@", ":"} & set(adapter):
            raise Problem(f"write {ref.brand}/{ref.adapter}: the registry numbers versions, --alias names them", 2)
        bar = progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), quiet=json)
        async with to_registry(registry) as channel:
            await ensure_brand(channel, ref.brand, ref.adapter)
            with bar, _saying_how_to_go_on(request):
                task = bar.add_task(f"{ref.brand}/{ref.adapter}", total=None)
                try:
                    done = await publish_adapter(
                        channel,
                        path,
                        brand=ref.brand,
                        adapter=ref.adapter,
                        family=family,
                        aliases=alias or [],
                        note=remark,
                        lineage=Lineage(tuple(trigger_word or ()), clip_skip, prediction_type, trained_from),
                        request_id=request,
                        on_progress=lambda sent, size: bar.update(task, completed=sent, total=size),
                    )
                except LoraError as error:
                    raise Problem(f"{path}: {error}", 4) from None
        if json:
            print_json(as_dict(done))
            return
        word = "already there as" if done.already_existed else "published as"
        v = done.version
        names = f", now {' and '.join(done.aliases)}" if done.aliases else ""
        manifest = f"{v.manifest.dialect}, rank {'/'.join(map(str, v.manifest.ranks))}, {v.manifest.modules} modules"
        say(f"{v.brand}/{v.adapter} {word} version {v.version}{names} ({manifest}, sha256 {v.digest[:12]})")
        if lineage := checking.in_words(lineage_from_pb(v.manifest.lineage)):
            say(f"  {lineage}")
        for warning in v.manifest.warnings:
            note(warning)

    run(work())


@contextmanager
def _saying_how_to_go_on(request_id: str) -> Iterator[None]:
    try:
        yield
    except (Unavailable, DeadlineExceeded, asyncio.CancelledError):
        hint = f"the registry keeps what it has got of a large file for a while: --request-id {request_id} goes on"
        err.print(f"note: {hint}", soft_wrap=True)
        raise


async def ensure_brand(channel: grpc.aio.Channel, brand: str, adapter: str) -> None:
    """A record for a brand that has none: its first adapter becomes its default one."""
    stub = brand_pb2_grpc.BrandServiceStub(channel)
    try:
        await stub.GetBrand(brand_pb2.GetBrandRequest(name=brand), timeout=10)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise error_from_rpc(error) from None
        record = brand_pb2.Brand(name=brand, default_adapters=[adapter_pb2.AdapterUse(adapter=adapter)])
        await answer(stub.PutBrand(brand_pb2.PutBrandRequest(brand=record, expected_version=0), timeout=10))


def brands(*, registry: Registry = REGISTRY_DEFAULT, json: Json = False) -> None:
    """List the brands, each with the adapters that its pictures get unless a request names others."""

    async def work() -> None:
        async with to_registry(registry) as channel:
            stub = brand_pb2_grpc.BrandServiceStub(channel)
            request = brand_pb2.ListBrandsRequest(page_size=PAGE)
            listed = await answer(stub.ListBrands(request, timeout=10))
            while token := listed.next_page_token:
                request.page_token = token
                page = await answer(stub.ListBrands(request, timeout=10))
                listed.brands.extend(page.brands)
                listed.next_page_token = page.next_page_token
        if json:
            print_json(as_dict(listed))
            return
        rows = [
            (
                b.name,
                b.display_name,
                ", ".join(f"{u.adapter} x{u.weight:g}" for u in b.default_adapters),
                b.recipe,
                f"{b.default_width}x{b.default_height}" if b.default_width else "",
            )
            for b in listed.brands
        ]
        columns = ("brand", "for people", "default adapters", "recipe", "size")
        shown = len(columns) if any(size for *_, size in rows) else len(columns) - 1
        out.print(table(columns[:shown], [row[:shown] for row in rows], expendable=("for people",)))

    run(work())


def adapters(
    brand: Annotated[str, typer.Argument(help="Only this brand's adapters.")] = "",
    *,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """List adapters, their newest versions, which version each alias names, and the versions that were withdrawn."""

    async def work() -> None:
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            request = registry_pb2.ListAdaptersRequest(brand=brand, page_size=PAGE)
            listed = await answer(stub.ListAdapters(request, timeout=10))
            while token := listed.next_page_token:
                request.page_token = token
                page = await answer(stub.ListAdapters(request, timeout=10))
                listed.adapters.extend(page.adapters)
                listed.next_page_token = page.next_page_token
            turns = asyncio.Semaphore(LISTS_AT_ONCE)
            yanked = await asyncio.gather(*(_yanked(stub, each, turns) for each in listed.adapters))
        if json:
            document = as_dict(listed)
            for each, versions in zip(document["adapters"], yanked, strict=True):
                each["yanked_versions"] = versions
            print_json(document)
            return
        rows = [
            (
                f"{a.brand}/{a.name}",
                a.latest_version,
                ", ".join(f"{x.name}={x.version}{' (yanked)' if x.version in versions else ''}" for x in a.aliases),
                ", ".join(map(str, versions)),
            )
            for a, versions in zip(listed.adapters, yanked, strict=True)
        ]
        columns = ("adapter", "newest", "aliases", "yanked")
        shown = len(columns) if any(yanked) else len(columns) - 1
        out.print(table(columns[:shown], [row[:shown] for row in rows]))

    run(work())


async def _yanked(
    stub: registry_pb2_grpc.AdapterRegistryServiceAsyncStub, adapter: adapter_pb2.Adapter, turns: asyncio.Semaphore
) -> list[int]:
    """The withdrawn versions of an adapter, oldest first."""
    request = registry_pb2.ListAdapterVersionsRequest(brand=adapter.brand, adapter=adapter.name, page_size=PAGE)
    found: list[int] = []
    async with turns:
        while True:
            page = await answer(stub.ListAdapterVersions(request, timeout=10))
            found += (v.version for v in page.versions if v.state == adapter_pb2.ADAPTER_VERSION_STATE_YANKED)
            request.page_token = page.next_page_token
            if not request.page_token:
                return sorted(found)


def promote(
    adapter: AdapterName,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    warm: Annotated[
        bool, typer.Option("--warm", help="First bring it to the memory of the workers that will paint with it.")
    ] = False,
    registry: Registry = REGISTRY_DEFAULT,
    routers: Router = ROUTER_DEFAULT,
) -> None:
    """Put a version into production: what the brand's next pictures are painted with.

    With --warm nothing is promoted unless the brand's workers hold the version within a minute.
    """

    async def work() -> None:
        if warm:
            held = await warmed(parse_ref(adapter), homes=0, timeout_s=WARM_S, routers=routers)
            say(f"{adapter} is in the memory of {', '.join(held.workers)}")
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            request = registry_pb2.PromoteAdapterRequest(ref=parse_ref(adapter), reason=reason)
            done = await answer(stub.PromoteAdapter(request, timeout=30))
        say(f"production is now version {done.alias.version} (was {done.previous_version or 'unset'})")

    run(work())


def yank(
    adapter: Annotated[str, typer.Argument(help="BRAND/ADAPTER@VERSION.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for the history.")],
    replacement: Annotated[
        int | None, typer.Option(min=1, help="Version that the aliases of the withdrawn one shall name instead.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Withdraw it though aliases name it, and from accepted requests too.")
    ] = False,
    registry: Registry = REGISTRY_DEFAULT,
) -> None:
    """Withdraw a version: no new request is painted with it, and no alias can be moved to it.

    Requests that were accepted before are finished, unless --force is given: of those, only the pictures that have
    begun. The file stays, and so does the version in lists and the history. A version that an alias names is withdrawn
    only with --replacement or --force; its aliases are refused from then on where there is no replacement.
    """

    async def work() -> None:
        ref = parse_ref(adapter)
        if ref.WhichOneof("pick") != "version":
            raise Problem(f"{adapter!r} names no version by its number: write {ref.brand}/{ref.adapter}@VERSION", 2)
        request = registry_pb2.YankAdapterVersionRequest(
            brand=ref.brand,
            adapter=ref.adapter,
            version=ref.version,
            replacement=replacement or 0,
            force=force,
            reason=reason,
        )
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            done = await answer(stub.YankAdapterVersion(request, timeout=30))
        v = done.version
        aliases = f"; its aliases name version {replacement}" if replacement else ""
        say(f"{v.brand}/{v.adapter}@{v.version} is withdrawn{aliases}")

    run(work())

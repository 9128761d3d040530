"""Commands about what is published: publish, brands, adapters, promote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn

from looksmith.cli.calls import (
    REGISTRY_DEFAULT,
    AdapterName,
    Json,
    Registry,
    answer,
    as_dict,
    connected,
    parse_ref,
    run,
)
from looksmith.cli.tables import table
from looksmith.cli.terminal import Problem, note, out, print_json, progress, say
from looksmith.errors import error_from_rpc
from looksmith.lora import LoraError
from looksmith.publisher import publish as publish_adapter
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc, registry_pb2, registry_pb2_grpc

#: Records asked for at a time: the most that the registry gives.
PAGE = 1000


def publish(
    adapter: Annotated[str, typer.Argument(help="BRAND/ADAPTER.")],
    path: Annotated[Path, typer.Argument(exists=True, help="A .safetensors file or a peft folder.")],
    *,
    family: Annotated[str, typer.Option(help="Family of the base it was trained for.")] = "studio",
    alias: Annotated[
        list[str] | None, typer.Option(help="Alias that shall name this version; may be repeated.")
    ] = None,
    remark: Annotated[str, typer.Option("--note", help="Note for the history.")] = "",
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Publish an adapter's next version.

    The registry checks the file and numbers the version; the same bytes again make no new one. The first version goes
    into production; a later one goes there with --alias production, or with promote. A brand that has no record gets
    one, with this adapter as its look.
    """

    async def work() -> None:
        ref = parse_ref(adapter)
        if {"@", ":"} & set(adapter):
            raise Problem(f"write {ref.brand}/{ref.adapter}: the registry numbers versions, --alias names them", 2)
        bar = progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), quiet=json)
        async with connected(registry) as channel:
            await ensure_brand(channel, ref.brand, ref.adapter)
            with bar:
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
        for warning in v.manifest.warnings:
            note(warning)

    run(work())


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
        async with connected(registry) as channel:
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
            (b.name, b.display_name, ", ".join(f"{u.adapter} x{u.weight:g}" for u in b.default_adapters), b.recipe)
            for b in listed.brands
        ]
        out.print(table(("brand", "for people", "default adapters", "recipe"), rows, expendable=("for people",)))

    run(work())


def adapters(
    brand: Annotated[str, typer.Argument(help="Only this brand's adapters.")] = "",
    *,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """List adapters, their newest versions, and which version each alias names."""

    async def work() -> None:
        async with connected(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            request = registry_pb2.ListAdaptersRequest(brand=brand, page_size=PAGE)
            listed = await answer(stub.ListAdapters(request, timeout=10))
            while token := listed.next_page_token:
                request.page_token = token
                page = await answer(stub.ListAdapters(request, timeout=10))
                listed.adapters.extend(page.adapters)
                listed.next_page_token = page.next_page_token
        if json:
            print_json(as_dict(listed))
            return
        rows = [
            (f"{a.brand}/{a.name}", a.latest_version, ", ".join(f"{x.name}={x.version}" for x in a.aliases))
            for a in listed.adapters
        ]
        out.print(table(("adapter", "newest", "aliases"), rows))

    run(work())


def promote(
    adapter: AdapterName,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    registry: Registry = REGISTRY_DEFAULT,
) -> None:
    """Put a version into production: what the brand's next pictures are painted with."""

    async def work() -> None:
        async with connected(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            request = registry_pb2.PromoteAdapterRequest(ref=parse_ref(adapter), reason=reason)
            done = await answer(stub.PromoteAdapter(request, timeout=30))
        say(f"production is now version {done.alias.version} (was {done.previous_version or 'unset'})")

    run(work())

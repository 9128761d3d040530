"""Commands about what was and shall be again: history, rollback."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from looksmith.cli.calls import REGISTRY_DEFAULT, Json, Registry, answer, as_dict, parse_ref, run, to_registry
from looksmith.cli.tables import table
from looksmith.cli.terminal import Problem, out, print_json, say
from looksmith.v1 import adapter_pb2, registry_pb2, registry_pb2_grpc

_KIND = "ADAPTER_EVENT_KIND_"

Named = Annotated[str, typer.Argument(help="BRAND/ADAPTER.")]


def rollback(
    adapter: Named,
    *,
    alias: Annotated[str, typer.Option(help="Alias that shall name again what it named before.")] = "production",
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    registry: Registry = REGISTRY_DEFAULT,
) -> None:
    """Move an alias back to the version that it named before its last move. Twice is back where it was."""

    async def work() -> None:
        ref = _named(adapter)
        request = registry_pb2.RollbackAdapterRequest(brand=ref.brand, adapter=ref.adapter, alias=alias, reason=reason)
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            done = await answer(stub.RollbackAdapter(request, timeout=30))
        say(f"{done.alias.name} is version {done.alias.version} again (was {done.previous_version})")

    run(work())


def history(
    adapter: Named,
    *,
    at: Annotated[
        datetime | None,
        typer.Option(help="Begin with what was in force at this time, in UTC."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Most events to show.")] = 20,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Tell what happened to an adapter, newest first, and what each alias named after it."""

    async def work() -> None:
        ref = _named(adapter)
        request = registry_pb2.GetAdapterHistoryRequest(brand=ref.brand, adapter=ref.adapter, page_size=count)
        if at:
            request.at_time.FromDatetime(at if at.tzinfo else at.replace(tzinfo=UTC))
        async with to_registry(registry) as channel:
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
            found = await answer(stub.GetAdapterHistory(request, timeout=30))
        if json:
            print_json(as_dict(found))
            return
        rows = [
            (
                event.seq,
                event.time.ToDatetime(UTC).isoformat(" ", "seconds").removesuffix("+00:00"),
                _told(event),
                ", ".join(f"{each.name}={each.version}" for each in event.aliases),
                event.actor or None,
                event.reason or None,
            )
            for event in found.events
        ]
        headings = ("#", "time (UTC)", "event", "aliases", "by", "reason")
        out.print(table(headings, rows, expendable=("reason", "by", "aliases")))

    run(work())


def _named(adapter: str) -> adapter_pb2.AdapterRef:
    ref = parse_ref(adapter)
    if {"@", ":"} & set(adapter):
        raise Problem(f"write {ref.brand}/{ref.adapter}, without a version or an alias", 2)
    return ref


def _told(event: registry_pb2.AdapterEvent) -> str:
    kind = registry_pb2.AdapterEventKind.Name(event.kind).removeprefix(_KIND)
    if kind == "ALIAS_SET":
        return f"{event.alias}: {event.previous_version or 'unset'} to {event.version}"
    return f"{kind.lower()} {event.version or 'with the brand'}"

"""Command that looks a running system over: doctor.

Shows what findings.py and worker_findings.py make of the facts that rounds.py gathers.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from looksmith.cli import rounds
from looksmith.cli.calls import REGISTRY_DEFAULT, ROUTER_DEFAULT, Json, Registry, Router, run, shown
from looksmith.cli.findings import (
    Finding,
    Level,
    RouterFacts,
    of_brands,
    of_certificates,
    of_pictures,
    of_registry,
    of_routers,
)
from looksmith.cli.terminal import Problem, err, out, print_json
from looksmith.cli.worker_findings import of_workers
from looksmith.errors import LooksmithError
from looksmith.v1 import fleet_pb2

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_INDENT = " " * 6


def doctor(
    *,
    paint: Annotated[bool, typer.Option("--paint", help="Have every worker paint one picture, too.")] = False,
    traces: Annotated[
        str,
        typer.Option(
            envvar="LOOKSMITH_TRACES", help="Jaeger's query endpoint, where --paint looks for the pictures' traces."
        ),
    ] = "",
    routers: Router = ROUTER_DEFAULT,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Look a running system over, end to end, and say in words what is wrong and what to do. Exits with 1 on a FAIL.

    Asks the registry and its store, every router that is named, every worker that they know, each brand's production
    adapters, and with LOOKSMITH_TLS_CA the servers' certificates. Changes nothing.
    """

    async def work() -> None:
        with err.status("asking everyone"):
            findings = await examined(routers.split(","), registry.split(","), paint=paint, traces=traces)
        counts = Counter(finding.level for finding in findings)
        if json:
            levels = {level.value: counts[level] for level in Level}
            print_json({"findings": [asdict(finding) for finding in findings], "counts": levels})
        else:
            _show(findings)
        if counts[Level.FAIL]:
            raise Problem(f"{counts[Level.FAIL]} of {len(findings)} findings are bad", 1)

    run(work())


async def examined(
    routers: Sequence[str], registries: Sequence[str], *, paint: bool = False, traces: str = ""
) -> list[Finding]:
    """All findings about the system behind these addresses."""
    who = shown()
    asked, seen, uses = await rounds.all_facts(registries, routers, who)
    findings = [finding for facts in asked for finding in of_registry(facts)]
    findings += [*of_routers(seen), *of_workers(seen), *of_brands(uses, _families(seen))]
    if os.environ.get("LOOKSMITH_TLS_CA"):
        addresses = dict.fromkeys([*registries, *routers, *(w.registration.address for w in _workers(seen))])
        certificates = await asyncio.gather(*map(rounds.certificate_facts, addresses))
        findings += of_certificates(certificates, datetime.now(UTC))
    if paint:
        findings += await _painted(seen, registries[0], traces)
    return findings


async def _painted(seen: Sequence[RouterFacts], registry: str, traces: str) -> list[Finding]:
    who = shown()
    try:
        brand = await rounds.first_brand(registry, who)
    except LooksmithError:
        brand = ""
    if not brand:
        return [Finding(Level.WARN, "pictures", "none was painted, as no brand could be found")]
    painted = await asyncio.gather(*(rounds.painted_facts(w, brand, who, traces) for w in _workers(seen)))
    return [*of_pictures(painted)]


def _workers(seen: Sequence[RouterFacts]) -> list[fleet_pb2.Worker]:
    """Each once."""
    known = {w.registration.name: w for facts in seen if facts.listed for w in facts.listed.workers}
    return [known[name] for name in sorted(known)]


def _families(seen: Sequence[RouterFacts]) -> set[str]:
    return {recipe.family for worker in _workers(seen) for recipe in worker.registration.recipes}


def _show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        line = Text(f"{finding.level.value:<{len(_INDENT)}}", style=_STYLES[finding.level])
        out.print(line + Text(f"{finding.subject}: ", style="bold") + Text(finding.what), soft_wrap=True)
        if finding.todo:
            out.print(Text(f"{_INDENT}-> {finding.todo}", style="dim"), soft_wrap=True)

"""Command about who may do what: token."""

from __future__ import annotations

import hashlib
import json as json_module
import secrets
from typing import Annotated

import typer

from looksmith.cli.calls import Json
from looksmith.cli.terminal import note, print_json, say
from looksmith.nouns import Action

_BYTES = 32


def token(
    name: Annotated[str, typer.Argument(help="What logs call whoever shows it.")],
    *,
    brand: Annotated[list[str], typer.Option(help='Brand, or pattern such as "acme-*"; may be repeated.')],
    action: Annotated[list[Action], typer.Option(help="What it allows; may be repeated.")],
    certificate: Annotated[
        str, typer.Option(help="Instead of a token: a name in the certificate that is shown under mutual TLS.")
    ] = "",
    json: Json = False,
) -> None:
    """Make a token, and the lines by which servers know it.

    The lines hold its hash alone and belong into the file that REGISTRY_TOKENS, ROUTER_TOKENS or WORKER_TOKENS names.
    The token is shown this once: people and callers keep it in LOOKSMITH_TOKEN, routers in ROUTER_REGISTRY_TOKEN (read)
    and ROUTER_WORKER_TOKEN (generate), workers in WORKER_REGISTRY_TOKEN (read) and WORKER_ROUTER_TOKEN (serve).
    """
    made = "" if certificate else secrets.token_urlsafe(_BYTES)
    known = {"certificate": certificate} if certificate else {"sha256": hashlib.sha256(made.encode()).hexdigest()}
    entry = {
        "name": name,
        **known,
        "actions": [allowed.value for allowed in action],
        "brands": brand,
    }
    if json:
        print_json(({"token": made} if made else {}) | entry)
        return
    if made:
        note("The token, shown this once:")
        say(made)
    note("For the servers' file of tokens:")
    say("\n".join(["[[token]]", *(f"{key} = {json_module.dumps(value)}" for key, value in entry.items())]))

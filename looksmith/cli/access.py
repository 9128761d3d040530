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
    json: Json = False,
) -> None:
    """Make a token, and the lines by which a registry knows it.

    The lines hold its hash alone and belong into the file that REGISTRY_TOKENS names. The token is shown this once:
    publishers keep it in LOOKSMITH_TOKEN, workers and routers in WORKER_REGISTRY_TOKEN and ROUTER_REGISTRY_TOKEN.
    """
    made = secrets.token_urlsafe(_BYTES)
    entry = {
        "name": name,
        "sha256": hashlib.sha256(made.encode()).hexdigest(),
        "actions": [allowed.value for allowed in action],
        "brands": brand,
    }
    if json:
        print_json({"token": made, **entry})
        return
    note("The token, shown this once:")
    say(made)
    note("For the registry's file of tokens:")
    say("\n".join(["[[token]]", *(f"{key} = {json_module.dumps(value)}" for key, value in entry.items())]))

"""Tokens and the file that knows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from looksmith.cli.app import app
from looksmith.nouns import Action
from services.chassis import access
from services.chassis.access import Caller, NotAllowed, TokenUnknown
from services.chassis.tokens import AccessFileError, TokenFile, Tokens
from tests.unit.chassis.token_files import ALL, tokens_file


def test_a_token_allows_its_actions_on_the_brands_that_its_patterns_match(tmp_path: Path) -> None:
    tokens = Tokens.read(tokens_file(tmp_path, ("t1", ["read", "publish"], ["acme", "bolt-*"])))
    caller = tokens.caller("Bearer t1")
    assert caller == Caller("t1", frozenset({Action.READ, Action.PUBLISH}), ("acme", "bolt-*"))
    assert caller.may(Action.READ, "acme")
    assert caller.may(Action.PUBLISH, "bolt-eu")
    assert not caller.may(Action.PROMOTE, "acme")
    assert not caller.may(Action.READ, "acme2")
    assert not caller.may(Action.READ, "bolt")
    assert tokens.caller("bearer t1") == caller, "schemes have no case"


@pytest.mark.parametrize("header", ["", "t1", "Bearer", "Bearer ", "Bearer t2", "Basic t1", "Bearer t1 t1"])
def test_what_is_no_known_token_is_refused(header: str, tmp_path: Path) -> None:
    tokens = Tokens.read(tokens_file(tmp_path, ("t1", ALL, ["*"])))
    with pytest.raises(TokenUnknown):
        tokens.caller(header)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "token"),
        ("[[token]\n", "Expected"),
        ("a = " + "[" * 3000, "recursion"),
        ("a = " + "9" * 5000, "digits"),
        ('[[token]]\nname = "a"\nsha256 = "abc"\nactions = ["read"]\nbrands = ["*"]', "token.0.sha256"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nactions = ["write"]\nbrands = ["*"]', "token.0.actions"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nactions = ["read"]\nbrands = ["A"]', "token.0.brands"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nactions = ["read"]\nbrands = []', "token.0.brands"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nactions = ["read"]\nbrands = ["*"]\ntoken = "x"', "token.0"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nactions = ["read"]\nbrands = ["*"]\n' * 2, "two tokens"),
        ('[[token]]\nname = "a"\nactions = ["read"]\nbrands = ["*"]', "sha256 or certificate"),
        (
            f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\ncertificate = "a"\nactions = ["read"]\nbrands = ["*"]',
            "sha256 or certificate",
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(AccessFileError, match=says):
        Tokens.read(file)


def test_a_replaced_file_counts_at_once_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    held = TokenFile(tokens_file(tmp_path, ("old", ALL, ["*"])))
    assert held.caller("Bearer old").name == "old"
    replacement = tokens_file(tmp_path, ("new", ALL, ["*"]))
    os.utime(replacement, ns=(1, 1))
    assert held.caller("Bearer new").name == "new"
    with pytest.raises(TokenUnknown):
        held.caller("Bearer old")
    replacement.write_text("[[token")
    assert held.caller("Bearer new").name == "new"
    replacement.unlink()
    assert held.caller("Bearer new").name == "new"


def test_without_tokens_anyone_may_do_everything() -> None:
    for action in Action:
        access.check(action, "acme")


def test_the_refusal_is_the_same_whether_a_brand_exists_or_not() -> None:
    assert str(NotAllowed(Action.READ, "acme")).replace("acme", "b") == str(NotAllowed(Action.READ, "b"))


def test_servers_know_the_token_that_the_command_made(tmp_path: Path) -> None:
    arguments = ["token", "studio", "--brand", "acme-*", "--action", "read", "--action", "generate"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    start = lines.index("[[token]]")
    file = tmp_path / "tokens.toml"
    file.write_text("\n".join(lines[start:]))
    made = lines[1]
    assert made not in file.read_text()
    known = Tokens.read(file).caller(f"Bearer {made}")
    assert known == Caller("studio", frozenset({Action.READ, Action.GENERATE}), ("acme-*",))


def test_servers_know_the_certificate_that_the_command_named(tmp_path: Path) -> None:
    arguments = ["token", "keda", "--brand", "*", "--action", "operate", "--certificate", "keda.keda.svc"]
    printed = CliRunner().invoke(app, arguments).stdout
    file = tmp_path / "tokens.toml"
    file.write_text(printed[printed.index("[[token]]") :])
    assert Tokens.read(file).caller("", ["keda.keda.svc"]) == Caller("keda", frozenset({Action.OPERATE}), ("*",))


def test_without_a_token_a_certificate_is_known_by_the_first_of_its_names_that_the_file_has(tmp_path: Path) -> None:
    file = tokens_file(
        tmp_path,
        ("t1", ["read"], ["acme"]),
        ("keda.svc", ["operate"], ["*"]),
        ("router", ["generate"], ["*"]),
        certificates=["keda.svc", "router"],
    )
    tokens = Tokens.read(file)
    assert tokens.caller("", ["other", "keda.svc", "router"]).name == "keda.svc"
    assert tokens.caller("Bearer t1", ["keda.svc"]).name == "t1"
    for authorization, names in (("", []), ("", ["other"]), ("Bearer t2", ["keda.svc"]), ("Bearer keda.svc", [])):
        with pytest.raises(TokenUnknown):
            tokens.caller(authorization, names)

from __future__ import annotations

import shlex

import pytest
import typer
from typer.testing import CliRunner

from looksmith.cli import bases
from looksmith.cli.app import app

COMMANDS = typer.main.get_command(bases.base).commands  # type: ignore[attr-defined]  # a group, as it has subcommands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_gives_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    _, group, called, *arguments = shlex.split(command.epilog.removeprefix("Example: "))
    assert (group, called) == ("base", name)
    command.make_context(name, [__file__ if argument.startswith("./") else argument for argument in arguments])
    assert CliRunner().invoke(app, ["base", name, "--help"]).exit_code == 0


def test_a_log_gets_a_line_for_each_tenth_of_a_long_phase_and_none_of_a_short_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bases._bar(quiet=False) as tell:
        for done in range(0, 200_000_001, 1_000_000):
            tell("sending", done, 200_000_000)
            tell("reading", done // 100, 2_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"sending: {20 * i}.0 MB of 200.0 MB" for i in range(1, 11)]
    with bases._bar(quiet=True) as tell:
        tell("sending", 200_000_000, 200_000_000)
    assert capsys.readouterr().err == ""

"""What a person sees who debugs with grpcurl: every service described, plain requests served, errors in words."""

from __future__ import annotations

import doctest
import json
import re
import shlex

import pytest

from tests.e2e.system import ROOT, System

GENERATE = "looksmith.v1.ImageGenerationService/Generate"
#: What docs/debugging.md shows: a command, and what it prints.
SHOWN = re.findall(
    r"```console\n\$ grpcurl -plaintext (.+?)\n(.+?)```", (ROOT / "docs/debugging.md").read_text("utf-8"), re.DOTALL
)
SERVICES = {
    "registry": ("looksmith.v1.AdapterRegistryService", "looksmith.v1.BrandService"),
    "router": (
        "externalscaler.ExternalScaler",
        "looksmith.v1.FleetService",
        "looksmith.v1.ImageGenerationService",
    ),
    "worker": ("looksmith.v1.ImageGenerationService",),
}


def address(system: System, server: str) -> str:
    return {"registry": system.registry, "router": system.router, "worker": system.workers[0]}[server]


@pytest.mark.parametrize("server", SERVICES)
def test_lists_and_describes_every_service(system: System, server: str) -> None:
    listed = system.grpcurl(address(system, server), "list").stdout.split()
    assert {*SERVICES[server], "grpc.health.v1.Health"} <= set(listed)
    for service in SERVICES[server]:
        described = system.grpcurl(address(system, server), f"describe {service}")
        assert f"service {service.rpartition('.')[2]}" in described.stdout, described.stderr


@pytest.mark.parametrize("server", ["router", "worker"])
def test_brand_and_prompt_alone_paint(system: System, server: str) -> None:
    asked = json.dumps({"brand": "inkwell", "prompt": "a red mug on a sky background", "omit_image_bytes": True})
    done = system.grpcurl(address(system, server), "-d", asked, GENERATE)
    assert done.returncode == 0, done.stderr
    for event in ("accepted", "placed", "swapped", "image_done", "finished"):
        assert f'"{event}"' in done.stdout
    assert len(done.stdout) < 20_000, "omit_image_bytes keeps a terminal clean"


@pytest.mark.parametrize("server", ["router", "worker"])
def test_error_details_print_as_words(system: System, server: str) -> None:
    asked = json.dumps({"brand": "inkwell", "prompt": "a red mug", "steps": 99})
    done = system.grpcurl(address(system, server), "-d", asked, GENERATE)
    assert done.returncode != 0
    assert "InvalidArgument" in done.stderr
    assert "STEPS_UNSUPPORTED" in done.stderr
    assert "BadRequest" in done.stderr
    assert "allows 1, 2, 4, 8" in done.stderr


def test_health_says_serving(system: System) -> None:
    for server in SERVICES:
        answer = system.grpcurl(address(system, server), "grpc.health.v1.Health/Check")
        assert '"status": "SERVING"' in answer.stdout, answer.stderr


def test_the_page_about_debugging_shows_six_commands() -> None:
    assert len(SHOWN) == 6


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command.rpartition("/")[2] for command, _ in SHOWN])
def test_commands_print_what_the_page_about_debugging_shows(system: System, command: str, printed: str) -> None:
    *options, at, verb = shlex.split(command)
    done = system.grpcurl({"127.0.0.1:7400": system.router, "127.0.0.1:7401": system.registry}[at], *options, verb)
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    differs = checker.output_difference(doctest.Example("", printed), done.stdout, flags)
    assert checker.check_output(printed, done.stdout, flags), done.stderr + differs

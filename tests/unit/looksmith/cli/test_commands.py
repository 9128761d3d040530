"""Every command against a registry and a router on port 0: what it prints, and what it exits with."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from looksmith.cli.app import app
from looksmith.errors import DeadlineExceeded, InvalidField, LooksmithError, NotFound, ResourceExhausted
from looksmith.v1 import adapter_pb2, brand_pb2, fleet_pb2, registry_pb2
from looksmith.v1 import generation_pb2 as pb
from tests.unit.looksmith.cli.fake_servers import PICTURE, FakeServers, serving

LONG = "a-brand-whose-name-is-as-long-as-a-name-may-be-sixty-three-char"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group, as it has subcommands
Looksmith = Callable[..., Result]


def brand(name: str) -> brand_pb2.Brand:
    uses = [adapter_pb2.AdapterUse(adapter=f"adapter-{i}", weight=0.5) for i in range(3)]
    return brand_pb2.Brand(
        name=name, display_name="Marigold & Company, Florists", default_adapters=uses, recipe="studio"
    )


def adapter(brand: str) -> adapter_pb2.Adapter:
    aliases = [adapter_pb2.Alias(name=name, version=12) for name in ("production", "staging", "winter-campaign")]
    return adapter_pb2.Adapter(brand=brand, name="house-style", latest_version=12, aliases=aliases)


def worker(name: str) -> fleet_pb2.Worker:
    recipes = [fleet_pb2.WorkerRecipe(name=f"recipe-{i}") for i in range(4)]
    return fleet_pb2.Worker(
        registration=fleet_pb2.WorkerRegistration(name=name, engine="reference", device="NVIDIA H200", recipes=recipes),
        state=fleet_pb2.WORKER_STATE_READY,
        heartbeat=fleet_pb2.WorkerHeartbeat(slots=128, slots_used=127, queued_jobs=10, running_jobs=4),
    )


def candidate(rank: int) -> fleet_pb2.PlacementCandidate:
    return fleet_pb2.PlacementCandidate(
        worker=f"gpu-worker-{rank}.looksmith",
        rank=rank,
        eligible=rank < 2,
        expected_seconds=12.3456 if rank < 2 else 0,
        booked_seconds=1.5,
        tier=pb.TIER_STORE,
        reason="sooner than home, adapter on its way" if rank < 2 else "does not serve recipe studio (0123456789ab)",
    )


@pytest.fixture
def fakes() -> Iterator[FakeServers]:
    names = ("harbour", "inkwell", LONG)
    made = FakeServers(  # type: ignore[abstract]  # the commands under test call no other methods
        brands=[brand(name) for name in names],
        adapters=[adapter(name) for name in names],
        workers=[worker(f"gpu-worker-{i}.looksmith") for i in range(3)],
        candidates=[candidate(rank) for rank in range(3)],
    )
    with serving(made) as served:
        yield served


@pytest.fixture
def looksmith(fakes: FakeServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looksmith:
    """Runs a command with the fakes' address, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, width: int = 80) -> Result:
        environ = {"LOOKSMITH_ROUTERS": fakes.address, "LOOKSMITH_REGISTRY": fakes.address, "COLUMNS": str(width)}
        return CliRunner().invoke(app, arguments, env=environ)

    return run


def document(result: Result) -> Any:  # noqa: ANN401  # JSON is what it is
    """Standard output, which must be one JSON document and nothing else."""
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("command", "above", "rows"),
    [
        (("brands",), 1, ("harbour ", "inkwell ", LONG[:40])),
        (("adapters",), 1, ("harbour/house-style ", "inkwell/house-style ", LONG[:40])),
        (("workers",), 2, ("gpu-worker-0.looksmith ", "gpu-worker-1.looksmith ", "gpu-worker-2.looksmith ")),
        (("explain", "inkwell"), 3, ("gpu-worker-0.looksmith ", "gpu-worker-1.looksmith ", "gpu-worker-2.looksmith ")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_tables_fit_the_terminal_and_no_row_wraps(
    looksmith: Looksmith, command: tuple[str, ...], above: int, rows: tuple[str, ...], width: int
) -> None:
    result = looksmith(*command, width=width)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    table = lines[-len(rows) :]
    assert len(lines) == above + len(rows), result.stdout
    assert all(line.startswith(row) for line, row in zip(table, rows, strict=True)), result.stdout
    assert max(map(len, table)) <= width


def test_brands_as_json_are_all_of_them_though_they_come_in_pages(looksmith: Looksmith) -> None:
    listed = document(looksmith("brands", "--json"))
    assert [b["name"] for b in listed["brands"]] == ["harbour", "inkwell", LONG]
    assert listed["brands"][0]["default_adapters"][0] == {"adapter": "adapter-0", "weight": 0.5}


def test_brands_show_default_sizes_where_any_brand_has_one(looksmith: Looksmith, fakes: FakeServers) -> None:
    assert "size" not in looksmith("brands").stdout.splitlines()[0]
    fakes.brands[1].default_width, fakes.brands[1].default_height = 768, 512
    head, harbour, inkwell, _ = looksmith("brands").stdout.splitlines()
    assert head.split()[-1] == "size"
    assert (harbour.split()[-1], inkwell.split()[-1]) == ("studio", "768x512")


def test_adapters_as_json_are_a_brand_s_or_all_of_them(looksmith: Looksmith) -> None:
    assert len(document(looksmith("adapters", "--json"))["adapters"]) == 3
    (listed,) = document(looksmith("adapters", "inkwell", "--json"))["adapters"]
    assert (listed["brand"], listed["latest_version"], listed["aliases"][0]["name"]) == ("inkwell", 12, "production")


def test_adapters_show_which_versions_were_withdrawn_and_which_aliases_name_them(
    looksmith: Looksmith, fakes: FakeServers
) -> None:
    fakes.yanked |= {("inkwell", 3), ("inkwell", 12), ("harbour", 1)}
    harbour, inkwell = looksmith("adapters", width=200).stdout.splitlines()[1:3]
    assert harbour.split()[-2:] == ["winter-campaign=12", "1"]
    assert inkwell.rstrip().endswith("winter-campaign=12 (yanked)  3, 12")
    listed = document(looksmith("adapters", "--json"))["adapters"]
    assert [each["yanked_versions"] for each in listed] == [[1], [3, 12], []]


def test_rollback_tells_where_the_alias_is_and_was(looksmith: Looksmith) -> None:
    result = looksmith("rollback", "inkwell/house-style", "--alias", "canary")
    assert (result.exit_code, result.stdout) == (0, "canary is version 1 again (was 2)\n")


def test_history_tells_what_happened_and_what_was_in_force_at_a_time(looksmith: Looksmith, fakes: FakeServers) -> None:
    kinds = (
        registry_pb2.ADAPTER_EVENT_KIND_YANKED,
        registry_pb2.ADAPTER_EVENT_KIND_ALIAS_SET,
        registry_pb2.ADAPTER_EVENT_KIND_PUBLISHED,
    )
    for seq, kind in zip((3, 2, 1), kinds, strict=True):
        event = registry_pb2.AdapterEvent(seq=seq, kind=kind, version=2, actor="studio", reason="signed off")
        event.time.FromSeconds(1_700_000_000 + seq)
        if kind == registry_pb2.ADAPTER_EVENT_KIND_ALIAS_SET:
            event.alias, event.previous_version = "production", 1
        event.aliases.add(name="production", version=2)
        fakes.events.append(event)
    _, *lines = looksmith("history", "inkwell/house-style", width=120).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "2", "1"]
    told = ("yanked 2", "production: 1 to 2", "published 2")
    assert all(text in line for text, line in zip(told, lines, strict=True))
    assert all("2023-11-14 22:13:2" in line and "studio" in line and "production=2" in line for line in lines)
    found = json.loads(looksmith("history", "inkwell/house-style", "--at", "2023-11-14 22:13:22", "--json").stdout)
    assert [event["seq"] for event in found["events"]] == ["2", "1"]
    assert len(looksmith("history", "inkwell/house-style", "-n", "1").stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "replacement", "force", "said"),
    [
        ((), 0, False, "inkwell/house-style@12 is withdrawn\n"),
        (("--force",), 0, True, "inkwell/house-style@12 is withdrawn\n"),
        (("--replacement", "11"), 11, False, "inkwell/house-style@12 is withdrawn; its aliases name version 11\n"),
    ],
)
def test_yank_asks_for_what_it_was_told(
    looksmith: Looksmith, fakes: FakeServers, *, options: tuple[str, ...], replacement: int, force: bool, said: str
) -> None:
    result = looksmith("yank", "inkwell/house-style@12", "--reason", "the old logo", *options)
    assert (result.exit_code, result.stdout) == (0, said)
    (asked,) = fakes.yanks
    assert (asked.brand, asked.adapter, asked.version, asked.reason) == ("inkwell", "house-style", 12, "the old logo")
    assert (asked.replacement, asked.force) == (replacement, force)


def test_promote_with_warm_promotes_once_the_version_is_warm(looksmith: Looksmith, fakes: FakeServers) -> None:
    result = looksmith("promote", "inkwell/house-style@2", "--warm")
    assert (result.exit_code, result.stdout) == (
        0,
        "inkwell/house-style@2 is in the memory of worker-0, worker-1\nproduction is now version 2 (was 1)\n",
    )
    warmed, promoted = fakes.asked
    ref = adapter_pb2.AdapterRef(brand="inkwell", adapter="house-style", version=2)
    assert warmed == fleet_pb2.WarmAdapterRequest(ref=ref)
    assert isinstance(promoted, registry_pb2.PromoteAdapterRequest) and promoted.ref == ref


def test_promote_leaves_production_alone_where_a_version_did_not_get_warm(
    looksmith: Looksmith, fakes: FakeServers
) -> None:
    fakes.refusal = DeadlineExceeded("not in the memory of worker-1 yet", reason="NOT_WARM_IN_TIME")
    result = looksmith("promote", "inkwell/house-style@2", "--warm")
    assert (result.exit_code, result.stderr) == (7, "error: not in the memory of worker-1 yet [NOT_WARM_IN_TIME]\n")
    assert fakes.asked == []


def test_promote_without_warm_asks_no_router(looksmith: Looksmith, fakes: FakeServers) -> None:
    assert looksmith("promote", "inkwell/house-style@2").exit_code == 0
    assert [type(each) for each in fakes.asked] == [registry_pb2.PromoteAdapterRequest]


def test_warm_asks_for_the_homes_it_was_told_and_says_who_holds_it(looksmith: Looksmith, fakes: FakeServers) -> None:
    result = looksmith("warm", "inkwell/house-style:canary", "--homes", "3")
    assert (result.exit_code, result.stdout) == (
        0,
        "inkwell/house-style:canary is in the memory of worker-0, worker-1\n",
    )
    ref = adapter_pb2.AdapterRef(brand="inkwell", adapter="house-style", alias="canary")
    assert fakes.asked == [fleet_pb2.WarmAdapterRequest(ref=ref, homes=3)]
    assert document(looksmith("warm", "inkwell/house-style", "--json")) == {"workers": ["worker-0", "worker-1"]}


def test_drain_names_the_worker_the_reason_and_the_jobs_left(looksmith: Looksmith, fakes: FakeServers) -> None:
    result = looksmith("drain", "worker-0", "--reason", "a new driver")
    assert (result.exit_code, result.stdout) == (0, "worker-0 takes no more jobs; 2 are left\n")
    assert fakes.asked == [fleet_pb2.DrainWorkerRequest(name="worker-0", reason="a new driver")]
    assert document(looksmith("drain", "worker-0", "--json")) == {"jobs_left": 2}


@pytest.mark.parametrize(
    ("named", "digest"),
    [
        ("inkwell/house-style@1", "0f" * 32),
        (f"inkwell/house-style@sha256:{'ab' * 32}", "ab" * 32),
        ("cd" * 32, "cd" * 32),
    ],
)
def test_evict_names_a_file_by_reference_or_by_digest(
    looksmith: Looksmith, fakes: FakeServers, named: str, digest: str
) -> None:
    result = looksmith("evict", named, "--worker", "worker-1")
    assert (result.exit_code, result.stdout) == (0, "told to forget it: worker-1\n")
    assert fakes.asked == [fleet_pb2.EvictAdapterRequest(worker="worker-1", digest=digest)]
    assert document(looksmith("evict", named, "--json")) == {"workers": ["worker-0", "worker-1"]}


def test_usage_is_summed_over_the_routers_named(looksmith: Looksmith, fakes: FakeServers) -> None:
    fakes.usage = [
        fleet_pb2.BrandUsage(images=1),
        fleet_pb2.BrandUsage(brand="harbour", images=3, gpu_seconds=4.25),
        fleet_pb2.BrandUsage(brand="inkwell", images=12, gpu_seconds=18),
    ]
    both = ("--routers", f"{fakes.address},{fakes.address}")
    lines = looksmith("usage", *both).stdout.splitlines()
    assert [line.split() for line in lines[-3:]] == [
        ["(all", "others)", "2", "0.0"],
        ["harbour", "6", "8.5"],
        ["inkwell", "24", "36.0"],
    ]
    told = document(looksmith("usage", "--json", *both))["usage"]
    assert told[1] == {"brand": "harbour", "images": "6", "gpu_seconds": 8.5}


def test_usage_asks_for_one_brand_and_from_a_time_on(looksmith: Looksmith, fakes: FakeServers) -> None:
    assert looksmith("usage", "inkwell", "--since", "2026-11-22 14:00:00").exit_code == 0
    assert looksmith("usage").exit_code == 0
    timed, plain = fakes.asked
    assert isinstance(timed, fleet_pb2.GetUsageRequest) and isinstance(plain, fleet_pb2.GetUsageRequest)
    assert (timed.brand, timed.since.ToJsonString()) == ("inkwell", "2026-11-22T14:00:00Z")
    assert (plain.brand, plain.HasField("since")) == ("", False)


def test_lists_that_are_empty_have_their_keys_in_json(looksmith: Looksmith, fakes: FakeServers) -> None:
    fakes.brands, fakes.adapters, fakes.workers, fakes.candidates = [], [], [], []
    assert document(looksmith("brands", "--json"))["brands"] == []
    assert document(looksmith("adapters", "--json"))["adapters"] == []
    assert document(looksmith("workers", "--json"))["workers"] == []
    assert document(looksmith("explain", "inkwell", "--json"))["candidates"] == []


def test_workers_as_json_have_their_zeros(looksmith: Looksmith) -> None:
    first = document(looksmith("workers", "--json"))["workers"][0]
    assert first["registration"]["name"] == "gpu-worker-0.looksmith"
    assert (first["heartbeat"]["slots_used"], first["heartbeat"]["draining"]) == (127, False)


def test_explain_as_json_names_the_home_by_its_rank_of_zero(looksmith: Looksmith) -> None:
    told = document(looksmith("explain", "inkwell", "--json"))
    assert [c["rank"] for c in told["candidates"]] == [0, 1, 2]
    assert told["placed"]["worker"] == "gpu-worker-0.looksmith"


def test_explain_says_where_and_with_what_first(looksmith: Looksmith) -> None:
    first = looksmith("explain", "inkwell").stdout.splitlines()[0]
    assert first == (
        "inkwell with house-style@3 (sha256 0f0f0f0f0f0f): "
        "gpu-worker-0.looksmith (sooner than home, adapter on its way)"
    )


def test_explain_says_that_nobody_can_paint_it(looksmith: Looksmith, fakes: FakeServers) -> None:
    fakes.candidates = []
    assert looksmith("explain", "inkwell").stdout.splitlines()[0].endswith(": nobody could paint it")


def test_generate_as_json_names_the_files_that_it_wrote(looksmith: Looksmith) -> None:
    told = document(looksmith("generate", "inkwell", "a mug", "-n", "2", "--seed", "5", "--json", "--trace", "--show"))
    assert [Path(file).read_bytes() for file in told["files"]] == [PICTURE, PICTURE]
    assert (told["seeds"], told["finished"]["worker"], len(told["trace_id"])) == (["5", "6"], "worker-0", 32)


def test_generate_says_where_the_file_is_and_who_painted_it(looksmith: Looksmith) -> None:
    result = looksmith("generate", "inkwell", "a mug")
    file, told = result.stdout.splitlines()
    assert Path(file).read_bytes() == PICTURE
    assert told.startswith("house-style@3 on worker-0 (home, adapter on device); swap 0 ms visible")
    assert result.stderr == ""


def test_generate_names_every_worker_that_shared_the_images(looksmith: Looksmith, fakes: FakeServers) -> None:
    fakes.sharing = True
    *_, told = looksmith("generate", "inkwell", "a mug", "-n", "2").stdout.splitlines()
    assert told.startswith("house-style@3 on worker-0, worker-1; swap")
    alone = document(looksmith("generate", "inkwell", "a mug", "-n", "2", "--json"))
    assert alone["placed"]["reason"] == "home, adapter on device"


def test_generate_names_the_images_that_were_blocked_and_saves_the_others(
    looksmith: Looksmith, fakes: FakeServers
) -> None:
    fakes.blocked = {2}
    arguments = ("generate", "inkwell", "a mug", "-n", "3", "--seed", "5")
    result = looksmith(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    *files, note, _ = result.stdout.splitlines()
    assert note == "note: image 2 was blocked by the safety checker"
    assert [Path(file).stem[-2:] for file in files] == ["-0", "-1"]
    told = document(looksmith(*arguments, "--json"))
    assert told["blocked"] == [{"image": 2, "seed": "7", "reason": "SAFETY_CHECKER"}]
    assert (len(told["files"]), told["seeds"]) == (2, ["5", "6"])


@pytest.mark.parametrize("option", [(), ("--json",), ("--show",)])
def test_generate_exits_with_4_where_every_image_was_blocked(
    looksmith: Looksmith, fakes: FakeServers, option: tuple[str, ...]
) -> None:
    fakes.blocked = {0, 1}
    result = looksmith("generate", "inkwell", "a mug", "-n", "2", *option)
    assert (result.exit_code, result.stderr) == (4, "error: nothing was delivered: every image was blocked\n")
    if option == ("--json",):
        told = json.loads(result.stdout)
        assert ([each["image"] for each in told["blocked"]], told["files"]) == ([0, 1], [])
    else:
        assert result.stdout.count("was blocked by the safety checker\n") == 2


@pytest.mark.parametrize(
    ("refusal", "code", "line"),
    [
        (NotFound("brand 'x' has no record", reason="BRAND_NOT_FOUND"), 3, "brand 'x' has no record [BRAND_NOT_FOUND]"),
        (InvalidField("steps", "must be 1 to 8", reason="STEPS_UNSUPPORTED"), 4, "steps: must be 1 to 8 [STEPS_"),
        (ResourceExhausted("busy", reason="DEADLINE_TOO_SHORT"), 6, "busy [DEADLINE_TOO_SHORT]"),
    ],
)
def test_a_refusal_is_one_line_on_standard_error_with_json_too(
    looksmith: Looksmith, fakes: FakeServers, refusal: LooksmithError, code: int, line: str
) -> None:
    fakes.refusal = refusal
    result = looksmith("generate", "x", "a mug", "--json")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert result.stderr.startswith(f"error: {line}")


@pytest.mark.parametrize(
    "command",
    [
        ("brands",),
        ("adapters",),
        ("workers",),
        ("explain", "b"),
        ("generate", "b", "p"),
        ("promote", "b/a@1"),
        ("warm", "b/a"),
        ("drain", "w"),
        ("evict", "b/a"),
        ("usage",),
        ("yank", "b/a@1", "--reason", "r"),
        ("publish", "b/a", __file__),
        ("brand", "put", "b", "--recipe", "r"),
    ],
    ids=lambda command: command[0],
)
def test_a_server_that_is_not_up_is_one_line_with_its_address_and_what_to_do(command: tuple[str, ...]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        environ = {"LOOKSMITH_ROUTERS": address, "LOOKSMITH_REGISTRY": address, "COLUMNS": "80"}
        result = CliRunner().invoke(app, command, env=environ)
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr == (
        f"error: no answer from {address}: connection refused; is the stack up? `looksmith up` starts one "
        "[UNAVAILABLE]\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "b", "p", "--adapter", "winter@latest"),
        ("generate", "b", "p", "--seed", str(2**64)),
        ("generate", "b", "p", "-n", "0"),
        ("promote", "inkwell"),
        ("warm", "inkwell"),
        ("warm", "inkwell/house-style", "--homes", "-1"),
        ("usage", "--since", "yesterday"),
        ("rollback", "inkwell/house-style@2"),
        ("history", "inkwell/house-style:canary"),
        ("yank", "inkwell/house-style@2"),
        ("yank", "inkwell/house-style", "--reason", "r"),
        ("yank", "inkwell/house-style:canary", "--reason", "r"),
        ("yank", "inkwell/house-style@2", "--reason", "r", "--replacement", "0"),
        ("publish", "b/a@3", __file__),
        ("publish", "b/a", "no-such-file"),
        ("brand", "put", "b", "--size", "768"),
        ("brand", "put", "b", "--adapter", "look=strong"),
        ("brand", "put", "b", "--adapter", "look", "--no-adapters"),
        ("up", "--port", "80"),
    ],
    ids=shlex.join,
)
def test_a_wrong_command_line_ends_with_2_before_any_call(looksmith: Looksmith, command: tuple[str, ...]) -> None:
    result = looksmith(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)


def test_a_folder_that_cannot_be_written_is_one_line(looksmith: Looksmith, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    result = looksmith("generate", "inkwell", "a mug", "--out", "taken")
    assert (result.exit_code, result.stderr) == (1, "error: taken: File exists\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_gives_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.epilog.startswith("Example: looksmith ")
    _, called, *arguments = shlex.split(command.epilog.removeprefix("Example: "))
    assert called == name
    existing = [__file__ if argument.endswith(".safetensors") else argument for argument in arguments]
    command.make_context(name, existing)
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_help_lists_every_exit_code() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout.split())
    assert all(f" {code} " in shown for code in (0, 1, 2, 3, 4, 5, 6, 7, 130, 143))

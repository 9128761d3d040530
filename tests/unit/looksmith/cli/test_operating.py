"""The commands of whoever runs the system: what they print, and what they exit with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from looksmith.cli.app import app
from looksmith.cli.top import Look, RouterLook, summary
from looksmith.v1 import fleet_pb2
from looksmith.v1 import generation_pb2 as pb
from tests.unit.looksmith.cli.fake_servers import FakeServers, serving

Looksmith = Callable[..., Result]


def worker(name: str = "w1", **heartbeat: object) -> fleet_pb2.Worker:
    beat = fleet_pb2.WorkerHeartbeat(slots=8, slots_used=3, running_jobs=2, **heartbeat)  # type: ignore[arg-type]  # any field
    who = fleet_pb2.WorkerRegistration(name=name, incarnation="i1", version="9.9.9", host_limit_bytes=4_000_000_000)
    return fleet_pb2.Worker(registration=who, state=fleet_pb2.WORKER_STATE_READY, heartbeat=beat)


def record(name: str, second: int = 1, **fields: object) -> fleet_pb2.RequestRecord:
    given = {"brand": "acme", "status": "OK", "ended": Timestamp(seconds=second)} | fields
    return fleet_pb2.RequestRecord(request_id=name, **given)  # type: ignore[arg-type]  # any field


@pytest.fixture
def fakes() -> Iterator[FakeServers]:
    made = FakeServers(workers=[worker()])  # type: ignore[abstract]  # the commands under test call no other methods
    with serving(made) as served:
        yield served


@pytest.fixture
def looksmith(fakes: FakeServers) -> Looksmith:
    def run(*arguments: str) -> Result:
        environ = {"LOOKSMITH_ROUTERS": fakes.address, "LOOKSMITH_REGISTRY": fakes.address, "COLUMNS": "120"}
        return CliRunner().invoke(app, arguments, env=environ)

    return run


@pytest.mark.parametrize(
    ("phase", "problem", "code", "words"),
    [
        ("DONE", "", 0, "w1 has a new engine after 2.5 s; 3 jobs were left to others"),
        ("REFUSED", "studio.toml: no such file", 4, "goes on with the engine that it has: studio.toml"),
        ("PROCESS_ENDS", "its engine's thread does not come back", 1, "the process of w1 ends"),
        ("REBUILDING", "", 7, "w1 is still at it after 2.5 s (rebuilding)"),
    ],
)
def test_reset_says_how_it_ended_and_exits_by_it(
    fakes: FakeServers, looksmith: Looksmith, *, phase: str, problem: str, code: int, words: str
) -> None:
    fakes.reset = fleet_pb2.WorkerReset(number=1, phase=f"RESET_PHASE_{phase}", problem=problem, jobs_dropped=3)  # type: ignore[arg-type]  # protobuf takes names of enum values
    fakes.reset.duration.FromMilliseconds(2500)
    done = looksmith("reset", "w1", "--reason", "noise")
    assert done.exit_code == code, done.output
    assert words in done.output.replace("\n", " ")
    assert fakes.asked == [fleet_pb2.ResetWorkerRequest(name="w1", reason="noise")]
    as_json = looksmith("reset", "w1", "--json")
    assert json.loads(as_json.stdout)["jobs_dropped"] == 3
    assert as_json.exit_code == code


def test_worker_tells_tiers_costs_and_the_last_errors(fakes: FakeServers, looksmith: Looksmith) -> None:
    error = fleet_pb2.WorkerError(reason="DISK_FULL", message="no space left", time=Timestamp(seconds=60))
    told = worker(
        residency=[fleet_pb2.Residency(digest="ab" * 32, tier=pb.TIER_HOST)],
        costs=[fleet_pb2.MeasuredCost(recipe="studio", rows=2, step_seconds=0.25)],
        last_errors=[error],
        memory_free_bytes=2_000_000_000,
    )
    fakes.workers = [told]
    done = looksmith("worker", "w1")
    for words in ("w1 is ready; release 9.9.9", "3 of 8 slots taken; 1 on host", "abababab", "250.0", "DISK_FULL"):
        assert words in done.stdout
    assert "2.0 GB of the machine's are left" in done.stdout
    assert json.loads(looksmith("worker", "w1", "--json").stdout)["heartbeat"]["slots_used"] == 3


def test_workers_shows_how_far_a_reset_is(fakes: FakeServers, looksmith: Looksmith) -> None:
    resetting = worker(reset=fleet_pb2.WorkerReset(number=1, phase=fleet_pb2.RESET_PHASE_REBUILDING))
    resetting.heartbeat.reset.duration.FromSeconds(7)
    resetting.state = fleet_pb2.WORKER_STATE_RESETTING
    fakes.workers = [resetting]
    assert "resetting: rebuilding, 7 s" in looksmith("workers").stdout


def test_usage_lists_the_newest_requests_when_asked(fakes: FakeServers, looksmith: Looksmith) -> None:
    fakes.records = [record("r2", 2, reason="NO_WORKER", status="UNAVAILABLE"), record("r1", images=4, workers=["w1"])]
    shown = looksmith("usage", "--records", "5").stdout
    assert "NO_WORKER" in shown
    assert "r1" in shown
    assert "r1" not in looksmith("usage").stdout
    told = json.loads(looksmith("usage", "--records", "1", "--json").stdout)
    assert [each["request_id"] for each in told["records"]] == ["r2"]


def test_doctor_exits_with_one_and_names_what_does_not_answer() -> None:
    nobody = {"LOOKSMITH_ROUTERS": "127.0.0.1:1", "LOOKSMITH_REGISTRY": "127.0.0.1:1", "COLUMNS": "300"}
    done = CliRunner().invoke(app, ["doctor"], env=nobody)
    assert done.exit_code == 1
    assert "FAIL  registry 127.0.0.1:1: no answer from 127.0.0.1:1: connection refused" in done.output
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"], env=nobody).stdout)
    assert told["counts"] == {"OK": 0, "WARN": 0, "FAIL": 2}
    assert {each["subject"] for each in told["findings"]} == {"registry 127.0.0.1:1", "router 127.0.0.1:1"}


def look(at: float, *routers: RouterLook) -> Look:
    return Look(at, routers)


def router(
    address: str, images: int, gpu_seconds: float, records: Sequence[fleet_pb2.RequestRecord] = ()
) -> RouterLook:
    queues = [fleet_pb2.BrandQueue(brand="zenith", jobs=4)]
    listed = fleet_pb2.ListWorkersResponse(router=address, workers=[worker()], queues=queues)
    return RouterLook(address, listed=listed, usage={"acme": (images, gpu_seconds)}, records=records)


def test_top_adds_routers_up_and_tells_what_happened_between_two_looks() -> None:
    old, new = record("r1", tier=pb.TIER_DEVICE), record("r2", tier=pb.TIER_STORE)
    refused = record("r3", reason="NO_WORKER")
    told = summary(
        look(10, router("a", 5, 1.0, [old]), router("b", 0, 0.0)),
        look(12, router("a", 9, 2.0, [refused, new, old]), router("b", 2, 1.0)),
    )
    assert (told["images_per_second"], told["gpu_seconds_per_second"]) == (3.0, 1.0)
    assert told["refusals"] == {"NO_WORKER": 1}
    assert told["tiers"] == {"store": 1}
    assert [(brand["brand"], brand["waiting_jobs"]) for brand in told["brands"]] == [("acme", 0), ("zenith", 8)]
    assert [each["worker"] for each in told["workers"]] == ["w1"]


def test_top_survives_a_router_that_is_away_and_one_that_begins_anew() -> None:
    away = RouterLook("a", error="connection refused")
    gone = summary(look(0, router("a", 50, 9.0)), look(1, away))
    assert (gone["images_per_second"], gone["routers"][0]["error"]) == (0.0, "connection refused")
    assert summary(look(1, away), look(2, router("a", 3, 1.0)))["images_per_second"] == 0.0, "how many are new?"
    restarted = summary(look(2, router("a", 50, 9.0)), look(3, router("a", 3, 1.0)))
    assert restarted["images_per_second"] == 3.0


def test_top_looks_once_and_prints_one_document(fakes: FakeServers, looksmith: Looksmith) -> None:
    told = json.loads(looksmith("top", "--once", "--json", "--every", "0.2").stdout)
    assert told["workers"][0]["slots_used"] == 3
    assert "w1" in looksmith("top", "--once", "--every", "0.2").stdout
    both = looksmith("top", "--once", "--every", "0.2", "--routers", f"127.0.0.1:1,{fakes.address}")
    assert both.exit_code == 0
    assert "127.0.0.1:1 is away" in both.stdout
    assert looksmith("top", "--once", "--every", "0.2", "--routers", "127.0.0.1:1").exit_code == 6

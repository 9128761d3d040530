"""The compose file: valid, only on loopback, and in step with the servers' settings, with files and with secrets."""

from __future__ import annotations

import functools
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

import looksmith
from looksmith.nouns import Action
from services.chassis.security import check_exposure
from services.chassis.settings import ServiceSettings
from services.chassis.tokens import Tokens
from services.gpu_worker.settings import WorkerSettings
from services.registry.settings import RegistrySettings
from services.router.settings import RouterSettings

DEPLOY = Path(__file__).parents[3] / "deploy"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "looksmith/registry": RegistrySettings,
    "looksmith/router": RouterSettings,
    "looksmith/gpu-worker": WorkerSettings,
}
SECRETS = runpy.run_path(str(DEPLOY / "make_secrets.py"))

Service = dict[str, Any]


@functools.cache
def composed() -> dict[str, Any]:
    """The file with its anchors resolved, and its variables as deploy/.env has them."""
    text = (DEPLOY / "compose.yaml").read_text()
    given = dict(line.split("=", 1) for line in (DEPLOY / ".env").read_text().splitlines() if "=" in line[:20])
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+):-[^}]*\}", lambda name: given[name[1]], text))
    return found


@functools.cache
def secret_files() -> dict[str, str]:
    made: dict[str, str] = SECRETS["files"]()
    return made


def services() -> dict[str, Service]:
    found: dict[str, Service] = composed()["services"]
    return found


def ours() -> Iterator[tuple[str, Service, type[ServiceSettings]]]:
    for name, service in services().items():
        if kind := SETTINGS.get(service["image"].partition(":")[0]):
            yield name, service, kind


def environment(service: Service) -> dict[str, str]:
    """What the container is told, with what its secret files say."""
    lines = [line for file in service.get("env_file", ()) for line in secret_files()[Path(file).name].splitlines()]
    return {**service.get("environment", {}), **dict(line.split("=", 1) for line in lines)}


def test_it_is_what_the_compose_specification_allows() -> None:
    checked = PyCompose.from_json(json.dumps(composed())).to_spec()
    assert set(checked.services or ()) == set(services())


def test_each_server_would_start_with_what_it_is_told() -> None:
    counts: dict[str, int] = {}
    for name, service, kind in ours():
        told = environment(service)
        known = {f"{kind.env_prefix}{field}".upper() for field in kind.model_fields}
        assert {key for key in told if key.startswith(kind.env_prefix)} <= known
        settings = kind.read(told)
        check_exposure(settings)
        assert settings.tokens and not settings.allow_anonymous
        assert told[f"{kind.env_prefix}NAME"] == name
        assert service["healthcheck"]["test"][-1] == str(settings.health_port)
        counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
    assert set(counts.values()) == {2}


def test_a_container_is_killed_no_sooner_than_its_server_has_finished() -> None:
    for _, service, kind in ours():
        settings = kind.read(environment(service))
        drain = settings.drain_s if isinstance(settings, WorkerSettings) else 0
        assert int(service["stop_grace_period"].removesuffix("s")) >= drain + settings.shutdown_grace_s + 10


def test_addresses_are_those_of_services_on_a_network_of_their_own() -> None:
    listening: dict[str, set[str]] = {}
    for name, service, kind in ours():
        aliases = service["networks"]["inside"]["aliases"]
        port = kind.read(environment(service)).port
        listening |= {f"{host}:{port}": set(service["networks"]) for host in (name, *aliases)}
    listening |= {"minio:9000": {"store"}, "seaweedfs:8333": {"store"}}
    for _, service, _ in ours():
        told = environment(service)
        dialled = [
            address
            for key in (
                "ROUTER_REGISTRY",
                "WORKER_REGISTRY",
                "WORKER_ROUTERS",
                "WORKER_ADVERTISE",
                "REGISTRY_STORE_ENDPOINT",
            )
            for address in filter(None, told.get(key, "").split(","))
        ]
        for address in dialled:
            assert listening[address] & set(service["networks"]), address
        assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4317"


def test_prometheus_finds_every_server_by_a_name_that_all_of_its_kind_share() -> None:
    jobs = yaml.safe_load((DEPLOY / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    names = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs}
    for _, service, kind in ours():
        (alias,) = service["networks"]["inside"]["aliases"]
        assert names[alias]["port"] == kind.read(environment(service)).metrics_port
    assert len(names) == 3
    assert "inside" in services()["prometheus"]["networks"]


def test_workers_have_no_way_out_and_only_loopback_has_a_way_in() -> None:
    networks = composed()["networks"]
    for name, service in services().items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        reaches = {network for network in service["networks"] if not networks[network].get("internal")}
        assert bool(reaches) is bool(service.get("ports")) or name in {"registry-1", "router-1"}
        if name.startswith(("gpu-worker", "collector", "minio", "seaweedfs")):
            assert not reaches


def test_what_is_mounted_is_there() -> None:
    volumes = set(composed()["volumes"])
    secrets = {"secrets/tokens", *(f"secrets/{name}" for name in secret_files())}
    for service in services().values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if not source.startswith("./"):
                assert source in volumes, mount
                continue
            assert mount.endswith(":ro"), mount
            assert source.removeprefix("./") in secrets or (DEPLOY / source).exists(), mount
        for file in service.get("env_file", ()):
            assert file in secrets, file


def test_images_are_pinned_and_containers_locked() -> None:
    for service in services().values():
        name, _, tag = service["image"].partition(":")
        assert tag not in {"", "latest"}
        if name in SETTINGS:
            assert tag == looksmith.__version__
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_no_secret_is_in_a_file_that_git_keeps() -> None:
    for service in services().values():
        said = set(service.get("environment", {}))
        assert not {name for name in said if re.search("SECRET|PASSWORD|ROOT|_TOKEN$", name)}
    assert "deploy/secrets/" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_secrets_are_random_and_open_what_they_must(tmp_path: Path) -> None:
    script = shutil.copy(DEPLOY / "make_secrets.py", tmp_path)
    subprocess.run([sys.executable, script], check=True)
    folder = tmp_path / "secrets"
    admin = (folder / "admin.env").read_text().strip().partition("=")[2]
    assert (folder / "admin.env").stat().st_mode & 0o777 == 0o600
    shown = {
        "registry": {"ROUTER_REGISTRY_TOKEN": {Action.READ}, "WORKER_REGISTRY_TOKEN": {Action.READ}},
        "router": {"WORKER_ROUTER_TOKEN": {Action.SERVE}},
        "worker": {"ROUTER_WORKER_TOKEN": {Action.GENERATE}},
    }
    said = "".join(path.read_text() for path in sorted(folder.glob("*.env"))).splitlines()
    values = dict(line.split("=", 1) for line in said)
    for server, callers in shown.items():
        tokens = Tokens.read(folder / "tokens" / f"{server}.toml")
        assert tokens.caller(f"Bearer {admin}").actions == set(Action)
        for variable, actions in callers.items():
            assert tokens.caller(f"Bearer {values[variable]}").actions == actions
    assert len(set(values.values())) >= len(values) - 3  # the store's keys are said twice
    with pytest.raises(SystemExit, match="there already"):
        SECRETS["main"](folder)

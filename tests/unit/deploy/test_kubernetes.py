"""The Kubernetes manifests, as built: valid, consistent with each other, and with what the servers can be told."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # has no stubs
import pytest
import yaml

import looksmith
from looksmith.nouns import Action
from services.chassis.security import check_exposure
from services.chassis.tokens import Tokens
from services.gpu_worker.settings import WorkerSettings
from services.router.settings import RouterSettings
from tests.unit.deploy import keda
from tests.unit.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    SETTINGS,
    Manifest,
    built,
    containers,
    of_kind,
    pod,
    secret_keys,
    servers,
    settings_of,
    values,
    workloads,
)

#: The oldest that the manifests are for: preStop's sleep came with 1.30, as beta.
OLDEST = "1.30"
#: Longest that a request may take whose caller says nothing else.
LONGEST_JOB_S = RouterSettings(name="r", registry="r").default_deadline_s

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@functools.cache
def validated(manifest: str) -> None:
    """By the schema of its kind; once, since overlays share most of theirs."""
    kubernetes_validate.validate(json.loads(manifest), OLDEST, strict=True)


@every_overlay
def test_an_overlay_builds_and_every_manifest_is_valid(overlay: str) -> None:
    for manifest in built(overlay):
        if model := keda.KINDS.get(manifest["kind"]):
            model.model_validate(manifest)
        else:
            validated(json.dumps(manifest, sort_keys=True))
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "looksmith"


def test_how_keda_scales_is_valid_for_kubernetes() -> None:
    (scaled,) = of_kind("keda", "ScaledObject")
    spec = scaled["spec"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "made-by-keda"},
        "spec": {
            "scaleTargetRef": spec["scaleTargetRef"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }
    kubernetes_validate.validate(autoscaler, OLDEST, strict=True)
    assert spec["scaleTargetRef"]["name"] in workloads("keda")
    assert "replicas" not in workloads("keda")["gpu-worker"]["spec"]


@every_overlay
def test_every_selector_finds_pods(overlay: str) -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in workloads(overlay).values()]
    for manifest in of_kind(overlay, "Service"):
        assert sum(manifest["spec"]["selector"].items() <= each.items() for each in labels) == 1, manifest
    for manifest in of_kind(overlay, "PodDisruptionBudget", "Deployment", "StatefulSet"):
        wanted = manifest["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= each.items() for each in labels) == 1, manifest


@every_overlay
def test_every_server_has_a_disruption_budget_that_lets_a_node_be_emptied(overlay: str) -> None:
    budgets = {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "PodDisruptionBudget")}
    assert set(budgets) == set(SETTINGS)
    for name, spec in budgets.items():
        replicas = workloads(overlay)[name]["spec"].get("replicas", 1)
        assert spec.get("maxUnavailable", replicas - spec.get("minAvailable", 0)) >= 1


@every_overlay
def test_every_server_would_start_with_what_it_is_told(overlay: str) -> None:
    for _, container in servers(overlay):
        kind = SETTINGS[container["name"]]
        told = {name for name in values(overlay, container) if name.startswith(kind.env_prefix)}
        known = {f"{kind.env_prefix}{field}".upper() for field in kind.model_fields}
        assert told <= known, told - known
        check_exposure(settings_of(overlay, container))


@every_overlay
def test_only_where_there_is_tls_nobody_has_to_allow_plaintext(overlay: str) -> None:
    for _, container in servers(overlay):
        told = settings_of(overlay, container)
        encrypted = overlay in {"mtls", "keda", "production"}
        assert told.allow_plaintext is not encrypted
        assert (told.tls_cert is not None) is (told.tls_client_ca is not None) is encrypted
        assert (told.tls_ca is not None) is (encrypted and container["name"] != "registry")
        assert told.tokens and not told.allow_anonymous


@every_overlay
def test_ports_are_where_probes_services_and_settings_say(overlay: str) -> None:
    for name, container in servers(overlay):
        told = settings_of(overlay, container)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": told.port, "metrics": told.metrics_port, "health": told.health_port}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"] == {"port": told.health_port}
        (service,) = (each for each in of_kind(overlay, "Service") if each["metadata"]["name"] == name)
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]  # headless: what is dialled is what listens
        assert service["spec"]["clusterIP"] == "None"


def dialled(overlay: str) -> Iterator[str]:
    for _, container in servers(overlay):
        told = values(overlay, container)
        for name in ("ROUTER_REGISTRY", "WORKER_REGISTRY", "WORKER_ROUTERS", "WORKER_ADVERTISE"):
            yield from filter(None, told.get(name, "").split(","))
    for scaled in of_kind(overlay, "ScaledObject"):
        yield from (trigger["metadata"]["scalerAddress"] for trigger in scaled["spec"]["triggers"])


@every_overlay
def test_every_address_that_is_dialled_is_that_of_a_service_or_of_one_of_its_pods(overlay: str) -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "Service")}
    seen = set()
    for address in dialled(overlay):
        host, _, port = address.rpartition(":")
        first, *rest = host.split(".")
        owner = rest[0] if rest else first
        if rest:
            assert rest[1:] == ["looksmith", "svc"], address
            spec = workloads(overlay)[owner]["spec"]
            assert spec["serviceName"] == owner
            ordinal = int(first.removeprefix(f"{owner}-"))
            assert ordinal < spec.get("replicas", 1), f"there is no {first}"
            seen.add((owner, ordinal))
        assert int(port) in [each["port"] for each in services[owner]["ports"]], address
    routers = workloads(overlay)["router"]["spec"]["replicas"]
    assert {ordinal for owner, ordinal in seen if owner == "router"} == set(range(routers)), "a router is left out"


@every_overlay
def test_what_is_stopped_has_time_for_what_it_does(overlay: str) -> None:
    for name, container in servers(overlay):
        told = settings_of(overlay, container)
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = told.drain_s if isinstance(told, WorkerSettings) else 0
        given = pod(workloads(overlay)[name])["terminationGracePeriodSeconds"]
        assert given >= 2 * LONGEST_JOB_S
        assert given >= before + drain + told.shutdown_grace_s + 10
        if name != "registry":
            assert drain + told.shutdown_grace_s >= LONGEST_JOB_S


@every_overlay
def test_pods_may_do_nothing_that_they_need_not(overlay: str) -> None:
    """What Pod Security calls restricted, and a root file system that stays as it was built."""
    for workload in workloads(overlay).values():
        spec = pod(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for _, container in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@every_overlay
def test_what_is_mounted_is_there(overlay: str) -> None:
    maps = {each["metadata"]["name"] for each in of_kind(overlay, "ConfigMap")}
    for workload in workloads(overlay).values():
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = pod(workload).get("volumes", [])
        names = {each["name"] for each in volumes} | {each["metadata"]["name"] for each in claims}
        for container in (*pod(workload).get("initContainers", ()), *pod(workload)["containers"]):
            assert {each["name"] for each in container.get("volumeMounts", ())} <= names
        assert {each["configMap"]["name"] for each in volumes if "configMap" in each} <= maps


@every_overlay
def test_our_images_are_of_this_version_and_others_are_pinned(overlay: str) -> None:
    for _, container in containers(overlay):
        name, _, tag = container["image"].partition(":")
        assert tag not in {"", "latest"}, container["image"]
        if name.startswith("looksmith/"):
            assert tag == looksmith.__version__


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_a_gpu_worker_has_its_device_and_its_base_before_it_starts(overlay: str) -> None:
    worker = pod(workloads(overlay)["gpu-worker"])
    (serving,) = worker["containers"]
    told = settings_of(overlay, serving)
    assert isinstance(told, WorkerSettings)
    assert (told.device, serving["resources"]["limits"]["nvidia.com/gpu"]) == ("cuda", 1)
    assert worker["nodeSelector"]
    (pulling,) = worker["initContainers"]
    assert str(told.bases) in pulling["args"][0]
    assert {"data", "recipes"} <= {mount["name"] for mount in pulling["volumeMounts"]}
    store = {name for name in values(overlay, pulling) if name.startswith("LOOKSMITH_STORE_")}
    assert store == {
        f"LOOKSMITH_STORE_{part}" for part in ("ENDPOINT", "BUCKET", "SECURE", "REGION", "ACCESS_KEY", "SECRET_KEY")
    }
    keys = {ref["name"] for entry in pulling["env"] if (ref := entry["valueFrom"].get("secretKeyRef"))}
    assert keys == {"object-store-bases"}, "a worker must not hold a key that writes"
    (recipes,) = (each["data"] for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"] == "recipes")
    for path in told.recipes:
        recipe = tomllib.loads(recipes[Path(path).name])
        assert recipe["base"]["source"].startswith("store://bases/")


def test_the_gpu_recipe_is_the_shipped_one_but_for_where_its_weights_come_from() -> None:
    def without_sources(path: Path) -> dict[str, Any]:
        recipe = tomllib.loads(path.read_text())
        return recipe | {part: {**recipe[part], "source": ""} for part in ("base", "distill")}

    shipped = KUBERNETES.parent / "recipes" / "sdxl" / "sdxl-hyper.toml"
    assert without_sources(KUBERNETES / "components" / "gpu" / "sdxl.toml") == without_sources(shipped)


def test_the_local_overlay_brings_every_secret_and_its_tokens_open_what_they_must() -> None:
    there: dict[str, Manifest] = {}
    for secret in of_kind("local", "Secret"):
        there[secret["metadata"]["name"]] = secret["data"]
    missing = {(name, key) for name, key in secret_keys("local") if key not in there.get(name, {})}
    assert not missing
    shown = {
        "registry": {"local-router": {Action.READ}, "local-worker": {Action.READ}},
        "router": {"local-worker": {Action.SERVE}},
        "gpu-worker": {"local-router": {Action.GENERATE}},
    }
    folder = KUBERNETES / "overlays" / "local" / "tokens"
    for server, callers in shown.items():
        tokens = Tokens.read(folder / f"{server}.toml")
        for token, actions in callers.items():
            assert tokens.caller(f"Bearer {token}").actions == actions
        assert tokens.caller("Bearer local-admin").actions == set(Action)


@every_overlay
def test_every_secret_is_in_the_guide_with_its_keys(overlay: str) -> None:
    guide = (KUBERNETES.parents[1] / "docs" / "deploy.md").read_text()
    rows = [row for row in guide.splitlines() if row.startswith("| `")]
    for generated, key in secret_keys(overlay):
        name = re.sub(r"-[a-z0-9]{10}$", "", generated)  # the hash that kustomize adds to what it makes itself
        assert any(f"`{name}`" in row and f"`{key}`" in row for row in rows), f"{name}: {key}"


def test_prometheus_looks_for_services_that_there_are() -> None:
    config = yaml.safe_load((KUBERNETES.parent / "observability" / "prometheus.yml").read_text())
    ports = {
        each["metadata"]["name"]: {port["name"]: port["port"] for port in each["spec"]["ports"]}
        for each in of_kind("local", "Service")
    }
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert found["names"] == [job["job_name"]]
        assert ports[job["job_name"]]["metrics"] == found["port"]


def test_store_policies_let_the_registry_write_and_workers_read_bases_alone() -> None:
    found = {}
    for name in ("registry", "bases"):
        policy = json.loads((KUBERNETES / "components" / "local-store" / f"{name}.json").read_text())
        found[name] = {
            (action, where) for each in policy["Statement"] for action in each["Action"] for where in each["Resource"]
        }
    assert ("s3:PutObject", "arn:aws:s3:::looksmith/*") in found["registry"]
    assert {action for action, _ in found["bases"] if not re.match("s3:(Get|List)", action)} == set()
    assert {where for action, where in found["bases"] if action == "s3:GetObject"} == {"arn:aws:s3:::looksmith/bases/*"}

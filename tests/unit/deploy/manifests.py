"""The Kubernetes manifests as kubectl builds them, and what a container of theirs is told. Judges nothing."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.chassis.settings import ServiceSettings
from services.gpu_worker.settings import WorkerSettings
from services.registry.settings import RegistrySettings
from services.router.settings import RouterSettings

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "registry": RegistrySettings,
    "router": RouterSettings,
    "gpu-worker": WorkerSettings,
}

Manifest = dict[str, Any]


def kubectl() -> str:
    """Where it is: `make setup` puts it beside the interpreter. Skips without it; in CI nothing is skipped."""
    beside = Path(sys.executable).with_name("kubectl")
    if found := str(beside) if beside.exists() else shutil.which("kubectl"):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("needs kubectl: run `make setup`")
    pytest.skip("needs kubectl: run `make setup`")


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """All that an overlay makes."""
    done = subprocess.run(
        [kubectl(), "kustomize", KUBERNETES / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecations, among others
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [each for each in built(overlay) if each["kind"] in kinds]


def workloads(overlay: str) -> dict[str, Manifest]:
    """By name, whatever makes pods."""
    return {each["metadata"]["name"]: each for each in of_kind(overlay, "Deployment", "StatefulSet", "Job")}


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Every container with its workload's name, those that come first included."""
    for name, workload in workloads(overlay).items():
        for container in (*pod(workload).get("initContainers", ()), *pod(workload)["containers"]):
            yield name, container


def servers(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Our own containers that serve."""
    for name, container in containers(overlay):
        if container["name"] in SETTINGS:
            yield name, container


def values(overlay: str, container: Manifest) -> dict[str, str]:
    """What a container finds in its environment. Secrets read "secret"; the pod is the first one."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(overlay, "ConfigMap")}
    fields = {"metadata.name": f"{container['name']}-0", "metadata.namespace": "looksmith"}
    found: dict[str, str] = {}
    for entry in container.get("env", ()):
        match entry:
            case {"value": text}:
                found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], text)
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                found[entry["name"]] = fields[path]
            case {"valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}:
                found[entry["name"]] = maps[name][key]
            case {"valueFrom": {"secretKeyRef": _}}:
                found[entry["name"]] = "secret"
    return found


def settings_of(overlay: str, container: Manifest) -> ServiceSettings:
    """Raises: SettingsError, as the server itself would."""
    return SETTINGS[container["name"]].read(values(overlay, container))


def secret_keys(overlay: str) -> set[tuple[str, str]]:
    """Every secret that pods refer to, with the key; a certificate's secret, mounted whole, has the three of TLS."""
    found = set()
    for name, workload in workloads(overlay).items():
        for volume in pod(workload).get("volumes", ()):
            if secret := volume.get("secret"):
                whole = ("tls.crt", "tls.key", "ca.crt") if volume["name"] == "tls" else (f"{name}.toml",)
                found |= {(secret["secretName"], key) for key in whole}
    for _, container in containers(overlay):
        refs = [entry.get("valueFrom", {}).get("secretKeyRef") for entry in container.get("env", ())]
        found |= {(ref["name"], ref["key"]) for ref in refs if ref}
    return found

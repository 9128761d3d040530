"""Exactly the connections that the system needs are let through: no other between pods, from outside, or to outside."""

from __future__ import annotations

import pytest

from tests.unit.deploy.manifests import OVERLAYS, of_kind, pod, workloads
from tests.unit.deploy.network_policies import Peer, edges

OURS = ("registry", "router", "gpu-worker")
OUTSIDE = (
    Peer("a caller", {"app": "shop"}, {"looksmith.dev/callers": "true"}),
    Peer("a publisher", {"app": "studio"}, {"looksmith.dev/publishers": "true"}),
    Peer("a stranger", {"app": "shop"}, {"kubernetes.io/metadata.name": "shop"}, {"any": 7400}),
    Peer("keda", {"app": "keda-operator"}, {"kubernetes.io/metadata.name": "keda"}),
    Peer("another prometheus", {"app.kubernetes.io/name": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"}),
    Peer("names", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}, {"dns": 53}),
    Peer("the store", cidr="192.0.2.1/32", ports={"s3": 9000}),
    Peer("the internet", cidr="0.0.0.0/0", ports={"https": 443, "s3": 9000}),
)

PAINTING = {
    ("a caller", "router", 7400),
    ("a publisher", "registry", 7401),
    ("router", "registry", 7401),
    ("router", "gpu-worker", 7410),
    ("gpu-worker", "registry", 7401),
    ("gpu-worker", "router", 7400),
}
SCRAPING_FROM_ELSEWHERE = {("another prometheus", name, 9464) for name in OURS}
STORE_OUTSIDE = {("registry", "the store", 9000), ("gpu-worker", "the store", 9000)}
STORE_INSIDE = {(name, "minio", 9000) for name in ("registry", "gpu-worker", "minio-setup")}
OBSERVING = {
    *((name, "collector", 4317) for name in OURS),
    ("collector", "jaeger", 4317),
    *(("prometheus", name, 9464) for name in OURS),
    ("grafana", "prometheus", 9090),
    ("grafana", "jaeger", 16686),
}
SCALING = {("keda", "router", 7400)}
NEEDED = {
    "local": PAINTING | SCRAPING_FROM_ELSEWHERE | STORE_INSIDE | OBSERVING,
    "gpu": PAINTING | SCRAPING_FROM_ELSEWHERE | STORE_OUTSIDE,
    "mtls": PAINTING | SCRAPING_FROM_ELSEWHERE | STORE_OUTSIDE,
    "keda": PAINTING | SCRAPING_FROM_ELSEWHERE | STORE_OUTSIDE | SCALING,
    "production": PAINTING | SCRAPING_FROM_ELSEWHERE | STORE_OUTSIDE | SCALING,
}


def pods(overlay: str) -> list[Peer]:
    return [
        Peer(
            name,
            workload["spec"]["template"]["metadata"]["labels"],
            ports={
                port["name"]: port["containerPort"]
                for container in pod(workload)["containers"]
                for port in container.get("ports", ())
                if port["name"] != "health"  # probes come from the node
            },
        )
        for name, workload in workloads(overlay).items()
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_the_connections_that_are_needed_are_let_through(overlay: str) -> None:
    here = pods(overlay)
    names = {(source.name, "names", 53) for source in here}
    assert edges(of_kind(overlay, "NetworkPolicy"), [*here, *OUTSIDE]) == NEEDED[overlay] | names


def test_without_the_policy_that_forbids_all_a_stranger_gets_in() -> None:
    """The check itself, held against a cluster that is open where nothing is said."""
    policies = [each for each in of_kind("local", "NetworkPolicy") if each["metadata"]["name"] == "minio"]
    found = edges(policies, [*pods("local"), *OUTSIDE])
    assert ("a stranger", "router", 7400) in found
    assert ("a stranger", "minio", 9000) not in found
    assert not {("a stranger", name, 9000) for name in OURS} & found  # it listens on no such port
    assert {edge for edge in found if edge[1] == "minio"} == STORE_INSIDE

"""What network policies let through, worked out from the manifests alone: who may open a connection to whom.

Of Kubernetes' rules it knows those that the manifests use, and refuses others. A port that a policy names by its name
is the destination's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """A pod, here or in another namespace, or an address. ``ports``: by name, those that it listens on."""

    name: str
    labels: Labels = field(default_factory=dict)
    namespace: Labels | None = None  # labels of another namespace; None: the policies' own
    ports: Mapping[str, int] = field(default_factory=dict)
    cidr: str = ""


def edges(policies: Sequence[Mapping[str, Any]], peers: Iterable[Peer]) -> set[tuple[str, str, int]]:
    """Every (from, to, port) that is let through. What is outside the namespace lets everything through itself."""
    everyone = list(peers)
    return {
        (source.name, target.name, port)
        for source in everyone
        for target in everyone
        for name, port in target.ports.items()
        if source is not target
        and not (_outside(source) and _outside(target))
        and _lets(policies, "Egress", source, target, {name, port})
        and _lets(policies, "Ingress", target, source, {name, port})
    }


def _outside(peer: Peer) -> bool:
    return peer.namespace is not None or bool(peer.cidr)


def _lets(
    policies: Sequence[Mapping[str, Any]], direction: str, owner: Peer, other: Peer, port: set[str | int]
) -> bool:
    """Whether the policies of ``owner`` let ``other`` through in this direction; without any, everything is."""
    if _outside(owner):
        return True
    specs = [each["spec"] for each in policies]
    of_owner = [
        spec for spec in specs if direction in spec["policyTypes"] and _selects(spec["podSelector"], owner.labels)
    ]
    rules = [rule for spec in of_owner for rule in spec.get(direction.lower(), ())]
    peers_key = "to" if direction == "Egress" else "from"
    return not of_owner or any(
        any(_is(peer, other) for peer in rule[peers_key]) and any(allowed["port"] in port for allowed in rule["ports"])
        for rule in rules
    )


def _is(rule: Mapping[str, Any], peer: Peer) -> bool:
    assert set(rule) <= {"podSelector", "namespaceSelector", "ipBlock"}, rule
    if block := rule.get("ipBlock"):
        return bool(peer.cidr) and block == {"cidr": peer.cidr}
    if peer.cidr:
        return False
    if (namespaces := rule.get("namespaceSelector")) is not None:
        if not _selects(namespaces, peer.namespace if peer.namespace is not None else {"own": "true"}):
            return False
    elif peer.namespace is not None:
        return False
    return _selects(rule.get("podSelector", {}), peer.labels)


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    for each in selector.get("matchExpressions", ()):
        assert each["operator"] == "In", each
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())

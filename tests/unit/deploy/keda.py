"""What of KEDA's resources the manifests use, as its own definitions have them (keda.sh/v1alpha1, KEDA 2.16).

Only that: a field that is not here is refused, and whoever uses it adds it from KEDA's reference.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Metadata(_Strict):
    name: str
    namespace: str
    labels: dict[str, str] = {}


class _Target(_Strict):
    apiVersion: str = "apps/v1"  # noqa: N815  # as Kubernetes writes it
    kind: str = "Deployment"
    name: str


class _Reference(_Strict):
    name: str
    kind: Literal["TriggerAuthentication", "ClusterTriggerAuthentication"] = "TriggerAuthentication"


class _ExternalPush(_Strict):
    """All values are text. ``targetSeconds`` and ``recipe`` are our own: docs/fleet.md."""

    scalerAddress: str  # noqa: N815
    enableTLS: Literal["true", "false"] = "false"  # noqa: N815
    unsafeSsl: Literal["true", "false"] = "false"  # noqa: N815
    targetSeconds: str = Field(default="30", pattern=r"^[0-9.]+$")  # noqa: N815
    recipe: str = ""


class _Trigger(_Strict):
    type: Literal["external-push"]
    metadata: _ExternalPush
    authenticationRef: _Reference | None = None  # noqa: N815


class _HpaConfig(_Strict):
    behavior: dict[str, Any]  # autoscaling/v2's own, which is held against Kubernetes' schema


class _Advanced(_Strict):
    horizontalPodAutoscalerConfig: _HpaConfig  # noqa: N815


class _ScaledObjectSpec(_Strict):
    scaleTargetRef: _Target  # noqa: N815
    minReplicaCount: int = Field(default=0, ge=0)  # noqa: N815
    maxReplicaCount: int = Field(default=100, ge=1)  # noqa: N815
    pollingInterval: int = Field(default=30, ge=1)  # noqa: N815
    cooldownPeriod: int = Field(default=300, ge=0)  # noqa: N815
    advanced: _Advanced | None = None
    triggers: list[_Trigger] = Field(min_length=1)


class ScaledObject(_Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: _Metadata
    spec: _ScaledObjectSpec


class _SecretTarget(_Strict):
    """``parameter``: what KEDA's external scaler reads."""

    parameter: Literal["caCert", "tlsClientCert", "tlsClientKey"]
    name: str
    key: str


class _AuthenticationSpec(_Strict):
    secretTargetRef: list[_SecretTarget]  # noqa: N815


class TriggerAuthentication(_Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["TriggerAuthentication"]
    metadata: _Metadata
    spec: _AuthenticationSpec


KINDS: dict[str, type[BaseModel]] = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}

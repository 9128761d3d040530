"""What every RPC needs: a table, and how a caller and a request are held against it. A test holds it complete.

Knows neither tokens nor servers. An RPC that is not here is nobody's but where everyone may do everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from typing import Any

from looksmith.nouns import Action
from services.chassis.access import EVERY, Caller, NotAllowed


class Reach(Enum):
    """What is needed where a request names no brand."""

    ALL = auto()
    """The action with every brand there is."""
    SOME = auto()
    """The action with any brand; the servicer looks closer, or tells only what the caller may know."""


@dataclass(frozen=True)
class Needs:
    """An action, with the brand that the field ``brand`` of the request names ("ref.brand": of its field ``ref``)."""

    action: Action
    brand: str = ""
    unnamed: Reach = Reach.ALL

    def met_by(self, caller: Caller) -> bool:
        """Whether it can be met at all, before the request is read."""
        if self.brand or self.unnamed is Reach.SOME:
            return self.action in caller.actions
        return caller.may_with_every(self.action)

    def met_with(self, caller: Caller, request: object) -> bool:
        brand = _text(request, self.brand) if self.brand else ""
        if brand:
            return caller.may(self.action, brand)
        return self.action in caller.actions if self.unnamed is Reach.SOME else caller.may_with_every(self.action)


@dataclass(frozen=True)
class Rule:
    """What an RPC needs: one of ``needs`` is enough.

    ``audited``: what the audit log tells of a call, by the field that holds it; None: the RPC changes nothing, and it
    tells nothing.
    ``session``: it lasts as long as its caller likes, and is not counted among the calls at once.
    """

    needs: tuple[Needs, ...]
    audited: Mapping[str, str] | None = None
    session: bool = False

    def check_caller(self, caller: Caller) -> None:
        """Raises: NotAllowed, if no request of this caller could pass."""
        if not any(need.met_by(caller) for need in self.needs):
            raise NotAllowed(self.needs[0].action, EVERY)

    def check_request(self, caller: Caller, request: object) -> None:
        """Raises: NotAllowed."""
        if not any(need.met_with(caller, request) for need in self.needs):
            first = self.needs[0]
            raise NotAllowed(first.action, (_text(request, first.brand) if first.brand else "") or EVERY)

    def subject(self, request: object) -> dict[str, str]:
        """What the call is about, for the audit log; fields that say nothing are left out."""
        found = {name: _text(request, field) for name, field in (self.audited or {}).items()}
        return {name: text for name, text in found.items() if text}


def _text(request: object, field: str) -> str:
    """A field's value; "" for zero. Cut to what a name may be long, since callers write it."""
    value: Any = reduce(getattr, field.split("."), request)
    return str(value)[:256] if value else ""


def _one(action: Action, brand: str = "", unnamed: Reach = Reach.ALL, **more: Any) -> Rule:  # noqa: ANN401  # Rule's own
    return Rule((Needs(action, brand, unnamed),), **more)


def _moves(brand: str, **audited: str) -> Rule:
    """What an alias is called decides which of the two it takes; the servicer knows which are protected."""
    return Rule((Needs(Action.PROMOTE, brand), Needs(Action.PUBLISH, brand)), audited={"brand": brand, **audited})


_REF = {"adapter": "ref.adapter", "version": "ref.version", "alias": "ref.alias", "digest": "ref.digest"}

_ADAPTERS = {
    "PublishAdapter": _one(Action.PUBLISH, unnamed=Reach.SOME, audited={}),  # a stream: its servicer tells and checks
    "GetUpload": _one(Action.PUBLISH, "brand"),
    "GetAdapter": _one(Action.READ, "brand"),
    "ListAdapters": _one(Action.READ, "brand", Reach.SOME),
    "ListAdapterVersions": _one(Action.READ, "brand"),
    "ResolveAdapter": _one(Action.READ, "ref.brand"),
    "DownloadAdapter": _one(Action.READ, "brand"),
    "SetAlias": _moves("brand", adapter="adapter", alias="alias", version="version"),
    "PromoteAdapter": _moves("ref.brand", **_REF),
    "RollbackAdapter": _moves("brand", adapter="adapter", alias="alias"),
    "YankAdapterVersion": _one(
        Action.PROMOTE,
        "brand",
        audited={"brand": "brand", "adapter": "adapter", "version": "version", "replacement": "replacement"},
    ),
    "GetAdapterHistory": _one(Action.READ, "brand"),
    "WatchAdapters": _one(Action.READ, "brand", Reach.SOME, session=True),
}
_BRANDS = {
    "PutBrand": _one(Action.MANAGE, "brand.name", audited={"brand": "brand.name"}),
    "GetBrand": _one(Action.READ, "name"),
    "ListBrands": _one(Action.READ, unnamed=Reach.SOME),
    "DeleteBrand": _one(Action.MANAGE, "name", audited={"brand": "name"}),
}
_STORE = {
    "CollectGarbage": _one(Action.MANAGE, audited={"dry_run": "dry_run"}),
    "CheckStore": _one(Action.MANAGE, "brand"),
    "GetStatus": Rule((Needs(Action.OPERATE), Needs(Action.MANAGE))),
}
_PAINTING = {
    "Generate": _one(Action.GENERATE, "brand"),
}
_FLEET = {
    "Join": _one(Action.SERVE, session=True),
    "ListWorkers": _one(Action.OPERATE),
    "GetWorker": _one(Action.OPERATE),
    "ExplainPlacement": Rule((Needs(Action.GENERATE, "request.brand"), Needs(Action.OPERATE))),
    "WarmAdapter": _one(Action.OPERATE, audited={"brand": "ref.brand", **_REF}),
    "DrainWorker": _one(Action.OPERATE, audited={"worker": "name"}),
    "EvictAdapter": _one(Action.OPERATE, audited={"worker": "worker", "digest": "digest"}),
    "ResetWorker": _one(Action.OPERATE, audited={"worker": "name"}),
    "GetUsage": _one(Action.OPERATE),
}
_SCALER = {
    "IsActive": _one(Action.OPERATE),
    "StreamIsActive": _one(Action.OPERATE, session=True),
    "GetMetricSpec": _one(Action.OPERATE),
    "GetMetrics": _one(Action.OPERATE),
}

#: By full name, as a call has it.
PERMISSIONS: Mapping[str, Rule] = {
    f"/{service}/{rpc}": rule
    for service, rules in {
        "looksmith.v1.AdapterRegistryService": _ADAPTERS,
        "looksmith.v1.BrandService": _BRANDS,
        "looksmith.v1.RegistryAdminService": _STORE,
        "looksmith.v1.ImageGenerationService": _PAINTING,
        "looksmith.v1.FleetService": _FLEET,
        "externalscaler.ExternalScaler": _SCALER,
    }.items()
    for rpc, rule in rules.items()
}

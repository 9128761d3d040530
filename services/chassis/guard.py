"""The layers that stand guard around every call: who calls and whether they may, how many at once, and the audit log.

What is allowed is decided in access.py and permissions.py; here it is asked for, and kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import structlog

from looksmith.errors import ResourceExhausted
from looksmith.nouns import Action
from services.chassis import access
from services.chassis.access import ANYONE, EVERY, Caller, NotAllowed
from services.chassis.interceptors import Call, Layer
from services.chassis.permissions import PERMISSIONS
from services.chassis.process import CannotStart
from services.chassis.settings import ServiceSettings
from services.chassis.tokens import AccessFileError, TokenFile, by_certificate

log = structlog.get_logger()

_HEALTH = "/grpc.health.v1.Health/"
#: For whoever is known: they tell what a server offers and whom it talks to.
_ABOUT_THE_SERVER = ("/grpc.reflection.", "/grpc.channelz.")
#: Seconds after which a caller that has too many calls under way may ask again.
AGAIN_S = 1.0


class TooManyCalls(ResourceExhausted):
    reason = "TOO_MANY_CALLS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} calls of this caller are under way, as many as may be", retry_after_s=AGAIN_S)


class WhoCalls(Protocol):
    """Tells a caller by its ``authorization`` header and by the names in its certificate, or raises TokenUnknown."""

    def __call__(self, authorization: str, names: Sequence[str] = ()) -> Caller: ...


def who_calls(settings: ServiceSettings) -> WhoCalls | None:
    """How callers are known; None: nobody is asked.

    Raises:
        CannotStart: the file of tokens can't be used.
    """
    if settings.tokens is None:
        return by_certificate if settings.tls_client_ca else None
    try:
        return TokenFile(settings.tokens).caller
    except AccessFileError as error:
        raise CannotStart(f"{settings.env_prefix}TOKENS: {error}") from error


def allowed(who: WhoCalls | None) -> Layer:
    """Learns whose call it is before anything of it is read, and lets pass what that caller may ask.

    Health is everybody's. Reflection and channelz are for whoever is known.
    """

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        if call.method.startswith(_HEALTH):
            yield
            return
        caller = who(call.metadata.get("authorization", ""), names_of(call.context)) if who else ANYONE
        access.calls(caller)
        if caller.name:
            structlog.contextvars.bind_contextvars(caller=caller.name)
        if rule := PERMISSIONS.get(call.method):
            rule.check_caller(caller)
            call.once_read.append(lambda request: rule.check_request(caller, request))
        elif who and not call.method.startswith(_ABOUT_THE_SERVER):
            raise NotAllowed(Action.OPERATE, EVERY)
        yield

    return layer


def names_of(context: grpc.aio.ServicerContext[Any, Any]) -> Sequence[str]:
    """What the caller's certificate calls it, alternative names first; grpc has checked it, else there are none."""
    shown = context.auth_context()
    found = [*shown.get("x509_subject_alternative_name", ()), *shown.get("x509_common_name", ())]
    return [name.decode("utf-8", "replace") for name in found]


def bounded(limit: int) -> Layer:
    """Answers at most so many calls of one caller at once; 0: any. Sessions and what is not ours don't count.

    Callers without a name are told apart by their hosts.
    """
    under_way: Counter[str] = Counter()

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        rule = PERMISSIONS.get(call.method)
        if not limit or rule is None or rule.session:
            yield
            return
        who = access.caller().name or call.context.peer().rpartition(":")[0]
        if under_way[who] >= limit:
            raise TooManyCalls(limit)
        under_way[who] += 1
        try:
            yield
        finally:
            under_way[who] -= 1
            if not under_way[who]:
                del under_way[who]

    return layer


@asynccontextmanager
async def audited(call: Call) -> AsyncIterator[None]:
    """One line for every call that changes something or tried to: who, what, of which brand, and how it ended.

    Belongs outside the layer that answers. Brand, adapter and caller are also what was bound for the log meanwhile.
    """
    rule = PERMISSIONS.get(call.method)
    if rule is None or rule.audited is None:
        yield
        return
    about: dict[str, str] = {}
    call.once_read.append(lambda request: about.update(rule.subject(request)))
    try:
        yield
    finally:
        log.info("audit", rpc=call.method.removeprefix("/"), outcome=call.reason or call.code.name, **about)

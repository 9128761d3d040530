"""What `looksmith doctor` makes of what it was told: rules from facts to findings, with what to do. Pure.

Asks nobody anything and prints nothing: facts come from rounds.py, doctor.py shows the findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from looksmith import __version__
from looksmith.errors import LooksmithError, NotFound, PermissionDenied, Unauthenticated, Unimplemented
from looksmith.v1 import fleet_pb2, registry_pb2

#: A store that takes so long for one small write, its reading and its deletion makes publishing and cold adapters slow,
#: and one that takes so much longer fails them. A healthy one takes some 10 ms.
SLOW_STORE_S, STUCK_STORE_S = 0.5, 3.0
#: Clocks that differ by more make logs and traces of several machines hard to read; S3 refuses signatures that are off
#: by 15 minutes.
SKEW, MUCH_SKEW = timedelta(seconds=2), timedelta(minutes=5)
#: A certificate that ends sooner should be renewed now; most are renewed by machines a third of their life before.
SOON = timedelta(days=14)


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One sentence about one part. ``todo`` is empty where there is nothing to do."""

    level: Level
    subject: str
    what: str
    todo: str = ""


@dataclass(frozen=True)
class Asked:
    """When a question was asked and answered, by this machine's clock."""

    sent: datetime
    answered: datetime

    def skew(self, clock: datetime) -> timedelta:
        """How far another machine's clock is off at least: anything between question and answer is none."""
        if clock < self.sent:
            return clock - self.sent
        return max(timedelta(0), clock - self.answered)


@dataclass(frozen=True)
class RegistryFacts:
    """What a registry said, or why it said nothing."""

    address: str
    asked: Asked
    status: registry_pb2.GetStatusResponse | None = None
    error: LooksmithError | None = None


@dataclass(frozen=True)
class RouterFacts:
    address: str
    asked: Asked
    listed: fleet_pb2.ListWorkersResponse | None = None
    error: LooksmithError | None = None


@dataclass(frozen=True)
class UseFacts:
    """One adapter that a brand paints with unless told otherwise; ``family`` is empty where ``error`` tells why."""

    brand: str
    adapter: str
    family: str = ""
    error: LooksmithError | None = None


@dataclass(frozen=True)
class CertificateFacts:
    """What a server's certificate is; ``problem``: why it is not trusted."""

    address: str
    ends: datetime | None = None
    problem: str = ""


@dataclass(frozen=True)
class PaintedFacts:
    """A picture that a worker was asked for. ``traced`` None: nobody was asked for its trace."""

    worker: str
    seconds: float = 0.0
    error: LooksmithError | None = None
    traced: bool | None = None


def of_registry(facts: RegistryFacts) -> Iterator[Finding]:
    name = f"registry {facts.address}"
    if facts.error:
        yield _no_answer(name, facts.error, "its log's last line says why, such as a store that it could not reach")
    if not facts.status:
        return
    status = facts.status
    yield Finding(Level.OK, name, f"answers as {status.name}, release {status.version}")
    yield from _version(name, status.version)
    yield from clock_findings(name, facts.asked.skew(time_of(status.time)), "its clock")
    store, took = f"store {status.store}", status.store_time.ToTimedelta().total_seconds()
    if not status.store_works:
        yield Finding(Level.FAIL, store, f"does not work: {status.store_problem}", _store_advice(status.store_problem))
    elif took > SLOW_STORE_S:
        level = Level.FAIL if took > STUCK_STORE_S else Level.WARN
        told = f"is slow: one small write, its reading and its deletion took {took:.1f} s"
        yield Finding(level, store, told, "look at its disks and at the network between it and the registry")
    else:
        yield Finding(Level.OK, store, f"is written, read and deleted in {took * 1000:.0f} ms")
    for breach in status.store_breaches:
        todo = "nothing is written to it any more; move to a store that honours If-None-Match"
        yield Finding(Level.FAIL, store, f"broke a rule that the registry relies on: {breach}", todo)


def of_routers(routers: Sequence[RouterFacts]) -> Iterator[Finding]:
    """What routers say of themselves, and whether they see the same workers."""
    for facts in routers:
        name = f"router {facts.address}"
        if facts.error:
            yield _no_answer(name, facts.error, "its log's last line says why")
        if not facts.listed:
            continue
        listed = facts.listed
        yield Finding(Level.OK, name, f"answers as {listed.router}, release {listed.version or 'unknown'}")
        yield from _version(name, listed.version)
        if listed.HasField("time"):
            yield from clock_findings(name, facts.asked.skew(time_of(listed.time)), "its clock")
        if not listed.workers:
            todo = "start one with this router among its WORKER_ROUTERS; one that does not start says why in its log"
            yield Finding(Level.FAIL, name, "no worker has joined it: nothing is painted", todo)
    seen = {
        f.address: {(w.registration.name, w.registration.incarnation) for w in f.listed.workers}
        for f in routers
        if f.listed
    }
    everywhere = set.union(*seen.values()) if seen else set()
    for address, workers in seen.items():
        if workers and (missing := sorted({name for name, _ in everywhere - workers})):
            told = f"does not see {', '.join(missing)}, which another router sees"
            todo = "list all routers in WORKER_ROUTERS of every worker, and look whether they reach each other"
            yield Finding(Level.WARN, f"router {address}", told, todo)
    if len(seen) > 1 and len({frozenset(workers) for workers in seen.values()}) == 1:
        yield Finding(Level.OK, "routers", f"all {len(seen)} see the same {len(everywhere)} workers")


def of_brands(uses: Iterable[UseFacts], served: set[str]) -> Iterator[Finding]:
    """``served``: families of which some worker has a base; empty where nobody knows."""
    fine: set[str] = set()
    bad: set[str] = set()
    for use in uses:
        name = f"brand {use.brand}"
        fine.add(use.brand)
        if use.error:
            bad.add(use.brand)
            yield _unresolved(name, use, use.error)
        elif served and use.family not in served:
            bad.add(use.brand)
            told = f"{use.adapter} is for the family {use.family}, of which no worker has a base"
            yield Finding(Level.FAIL, name, told, "start a worker with a recipe of that family")
    if fine - bad:
        yield Finding(Level.OK, "brands", f"the production adapters of {len(fine - bad)} brands are there")


def of_certificates(certificates: Iterable[CertificateFacts], now: datetime) -> Iterator[Finding]:
    for facts in certificates:
        name = f"certificate of {facts.address}"
        if facts.problem:
            todo = (
                "renew it"
                if "expired" in facts.problem
                else "give it one of the CA in LOOKSMITH_TLS_CA, or that CA here"
            )
            yield Finding(Level.FAIL, name, facts.problem, todo)
        elif facts.ends and facts.ends - now < SOON:
            yield Finding(Level.WARN, name, f"ends in {(facts.ends - now).days} days", "renew it")
        elif facts.ends:
            yield Finding(Level.OK, name, f"holds until {facts.ends:%Y-%m-%d}")


def of_pictures(painted: Iterable[PaintedFacts]) -> Iterator[Finding]:
    for facts in painted:
        name = f"worker {facts.worker}"
        if facts.error:
            told = f"did not paint a picture: {facts.error.message} [{facts.error.reason}]"
            yield Finding(Level.FAIL, name, told, "its log has the rest")
            continue
        yield Finding(Level.OK, name, f"painted a picture in {facts.seconds:.1f} s")
        if facts.traced is False:
            todo = "set OTEL_EXPORTER_OTLP_ENDPOINT of every server, and look whether the collector gets and sends on"
            yield Finding(Level.WARN, "traces", f"that of {facts.worker}'s picture did not arrive", todo)
        elif facts.traced:
            yield Finding(Level.OK, "traces", f"that of {facts.worker}'s picture arrived")


def _unresolved(name: str, use: UseFacts, error: LooksmithError) -> Finding:
    adapter = f"{use.brand}/{use.adapter}"
    if error.reason == "ADAPTER_YANKED":
        told = f"{use.adapter} can't be painted with, its production version was yanked: {error.message}"
        return Finding(Level.FAIL, name, told, f"`looksmith promote {adapter}@VERSION` another one")
    if isinstance(error, NotFound):
        told = f"{use.adapter} is not there: {error.message}"
        return Finding(Level.FAIL, name, told, f"publish {adapter}, or take it from the brand's record")
    return Finding(
        Level.WARN, name, f"{use.adapter}: {error.message} [{error.reason}]", "see what is said of the registry"
    )


def _no_answer(name: str, error: LooksmithError, todo: str) -> Finding:
    if isinstance(error, Unauthenticated | PermissionDenied):
        todo = "set LOOKSMITH_TOKEN to a token that allows to operate"
        return Finding(Level.WARN, name, f"does not tell how it is: {error.message}", todo)
    if isinstance(error, Unimplemented):
        return Finding(Level.WARN, name, "is of a release that can't tell how it is", "upgrade it")
    return Finding(Level.FAIL, name, error.message, todo)


def _version(name: str, version: str) -> Iterator[Finding]:
    if version and version != __version__:
        told = f"runs release {version}, this command is of {__version__}"
        yield Finding(Level.WARN, name, told, "use the command of the servers' release, or finish the upgrade")


def clock_findings(name: str, skew: timedelta, whose: str) -> Iterator[Finding]:
    if abs(skew) > SKEW:
        level = Level.FAIL if abs(skew) > MUCH_SKEW else Level.WARN
        way = "ahead" if skew > timedelta(0) else "behind"
        told = f"{whose} is {abs(skew).total_seconds():.0f} s {way}"
        yield Finding(level, name, told, "let NTP set it: logs, traces and signatures rely on it")


_KEYS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId")


def _store_advice(problem: str) -> str:
    if any(code in problem for code in _KEYS):
        return "the store does not take the registry's key: set REGISTRY_STORE_ACCESS_KEY and REGISTRY_STORE_SECRET_KEY"
    return "look whether it runs, whether its disk is full, and whether the registry reaches it"


def time_of(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)

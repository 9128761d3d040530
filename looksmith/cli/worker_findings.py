"""What `looksmith doctor` makes of what routers say of their workers: rules from facts to findings, as in findings.py.

Pure; all else that it looks at is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from looksmith.cli.findings import Finding, Level, RouterFacts, clock_findings, time_of
from looksmith.v1 import fleet_pb2

#: Free bytes of a disk: that few are soon used up, or are already.
LITTLE_DISK, NO_DISK = 2 << 30, 64 << 20
#: Free bytes of memory below which the kernel soon ends processes.
LITTLE_MEMORY = 256 << 20
#: Errors of a worker that are older say nothing about now.
RECENT = timedelta(minutes=10)
#: A reset that takes longer has not loaded its base in reasonable time.
LONG_RESET = timedelta(minutes=5)
#: A worker's words are this old at most, unless it or the network is in trouble.
SILENT = timedelta(seconds=2.5)


def of_workers(routers: Sequence[RouterFacts]) -> Iterator[Finding]:
    """Each worker once, as the first router that knows it does."""
    known: dict[str, tuple[fleet_pb2.Worker, RouterFacts]] = {}
    for facts in routers:
        for worker in facts.listed.workers if facts.listed else ():
            known.setdefault(worker.registration.name, (worker, facts))
    digests: dict[str, set[str]] = {}
    for name, (worker, facts) in sorted(known.items()):
        troubles = [*of_worker(worker, facts)]
        serves = ", ".join(recipe.name for recipe in worker.registration.recipes)
        if not any(trouble.level is Level.FAIL for trouble in troubles):
            beat = worker.heartbeat
            told = f"takes jobs for {serves}; {beat.running_jobs} running, {beat.queued_jobs} waiting{_left(beat)}"
            if worker.state == fleet_pb2.WORKER_STATE_READY:
                yield Finding(Level.OK, f"worker {name}", told)
        yield from troubles
        for recipe in worker.registration.recipes:
            digests.setdefault(recipe.name, set()).add(recipe.digest)
    for known_as, kinds in sorted(digests.items()):
        if len(kinds) > 1:
            told = f"is {len(kinds)} different things at different workers: pictures depend on where they are painted"
            yield Finding(Level.WARN, f"recipe {known_as}", told, "give all workers the same recipe file and base")


def of_worker(worker: fleet_pb2.Worker, facts: RouterFacts) -> Iterator[Finding]:
    """What is wrong with a worker; nothing where it is well."""
    name, beat, listed = f"worker {worker.registration.name}", worker.heartbeat, facts.listed
    yield from _state(name, worker)
    router_version = listed.version if listed else ""
    if (version := worker.registration.version) and router_version and version != router_version:
        told = f"runs release {version}, its router {router_version}"
        yield Finding(Level.WARN, name, told, "finish the upgrade; releases next to each other get on meanwhile")
    heard = time_of(worker.heartbeat_time)
    if listed and listed.HasField("time") and (silence := time_of(listed.time) - heard) > SILENT:
        told = f"has said nothing to its router for {silence.total_seconds():.1f} s"
        yield Finding(Level.WARN, name, told, "look whether its machine is starved, or the network between them")
    if beat.HasField("time"):
        # On its way a heartbeat takes milliseconds; what a starved machine adds is none of the clock's.
        yield from clock_findings(name, time_of(beat.time) - heard, "its clock beside its router's")
    if beat.HasField("disk_free_bytes") and beat.disk_free_bytes < LITTLE_DISK:
        level = Level.FAIL if beat.disk_free_bytes < NO_DISK else Level.WARN
        told = f"has {size(beat.disk_free_bytes)} of disk left for adapters"
        yield Finding(level, name, told, "free some, give it a larger disk, or less WORKER_DISK_CACHE_BYTES")
    if beat.HasField("memory_free_bytes") and beat.memory_free_bytes < LITTLE_MEMORY:
        told = f"has {size(beat.memory_free_bytes)} of memory left"
        yield Finding(Level.WARN, name, told, "lower WORKER_HOST_BYTES, or give its machine or container more")
    if beat.waiting_for_memory:
        limit = size(worker.registration.host_limit_bytes)
        told = f"its memory for adapters is full: {beat.waiting_for_memory} jobs wait for some of {limit}"
        yield Finding(Level.FAIL, name, told, "raise WORKER_HOST_BYTES; it holds the adapters of all jobs at once")
    now = max(heard, time_of(listed.time)) if listed and listed.HasField("time") else heard
    recent = [error for error in beat.last_errors if now - time_of(error.time) < RECENT]
    if recent:
        full = any(error.reason in {"DISK_FULL", "DISK_CACHE_FULL"} for error in recent)
        times = f"{len(recent)} of its jobs" if len(recent) > 1 else "one of its jobs"
        told = f"{times} failed of late, the last with {recent[0].reason}: {recent[0].message}"
        todo = "its log has the rest, by request id"
        if full:
            told = f"its disk is full: {recent[0].message}"
            todo = "free some, give it a larger disk, or less WORKER_DISK_CACHE_BYTES"
        yield Finding(Level.FAIL if full else Level.WARN, name, told, todo)


def _state(name: str, worker: fleet_pb2.Worker) -> Iterator[Finding]:
    beat = worker.heartbeat
    if beat.HasField("stalled"):
        told = f"its engine hangs: it has been at one step for {beat.stalled.ToTimedelta().total_seconds():.0f} s"
        yield Finding(Level.FAIL, name, told, f"`looksmith reset {worker.registration.name}`")
    match worker.state:
        case fleet_pb2.WORKER_STATE_EJECTED:
            told = "failed several jobs in a row and is left alone for a while"
            yield Finding(
                Level.WARN, name, told, f"`looksmith worker {worker.registration.name}` tells its last errors"
            )
        case fleet_pb2.WORKER_STATE_DRAINING:
            yield Finding(Level.WARN, name, "drains: it takes no more jobs", "start its process anew when it has ended")
        case fleet_pb2.WORKER_STATE_RESETTING:
            took = beat.reset.duration.ToTimedelta()
            told = f"builds its engine anew, since {took.total_seconds():.0f} s"
            yield Finding(Level.FAIL if took > LONG_RESET else Level.WARN, name, told, "if it does not end, restart it")
    if beat.reset.phase == fleet_pb2.RESET_PHASE_REFUSED:
        yield Finding(Level.WARN, name, f"refused its last reset: {beat.reset.problem}")


def _left(beat: fleet_pb2.WorkerHeartbeat) -> str:
    left = [
        f"{size(count)} of {what} left"
        for what, told, count in (
            ("disk", beat.HasField("disk_free_bytes"), beat.disk_free_bytes),
            ("memory", beat.HasField("memory_free_bytes"), beat.memory_free_bytes),
        )
        if told
    ]
    return "".join(f"; {each}" for each in left)


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 100_000_000 else f"{count / 1e6:.1f} MB"

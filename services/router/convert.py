"""Sessions, workers and placements from protobuf and back. What is malformed is refused by field, as Malformed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

from looksmith import __version__, convert
from looksmith.errors import InvalidField
from looksmith.nouns import Malformed, Tier, check_digest
from looksmith.v1 import fleet_pb2 as pb
from looksmith.v1 import generation_pb2
from services.chassis.painting import PaintRequest
from services.chassis.painting_pb import (
    duration_to_pb,
    recipe_from_pb,
    recipe_to_pb,
    request_from_pb,
    seconds_from_pb,
    tier_from_pb,
    tier_to_pb,
)
from services.router.errors import SessionOutOfOrder
from services.router.fleet import FleetSnapshot, WorkerView
from services.router.members import (
    Ack,
    BookedWork,
    Command,
    Drain,
    Evict,
    Heartbeat,
    MeasuredCost,
    Prefetch,
    Registration,
    Reset,
    ResetPhase,
    Resync,
    Welcome,
    WorkerFault,
    WorkerReset,
    WorkerState,
)
from services.router.placement import Candidate, Explanation

_STATES = {
    WorkerState.READY: pb.WORKER_STATE_READY,
    WorkerState.DRAINING: pb.WORKER_STATE_DRAINING,
    WorkerState.EJECTED: pb.WORKER_STATE_EJECTED,
    WorkerState.STALLED: pb.WORKER_STATE_STALLED,
    WorkerState.RESETTING: pb.WORKER_STATE_RESETTING,
}
_STATES_FROM_PB = {message: state for state, message in _STATES.items()}
_PHASES = {
    ResetPhase.FINISHING: pb.RESET_PHASE_FINISHING,
    ResetPhase.REBUILDING: pb.RESET_PHASE_REBUILDING,
    ResetPhase.DONE: pb.RESET_PHASE_DONE,
    ResetPhase.REFUSED: pb.RESET_PHASE_REFUSED,
    ResetPhase.PROCESS_ENDS: pb.RESET_PHASE_PROCESS_ENDS,
}
_PHASES_FROM_PB = {message: phase for phase, message in _PHASES.items()}

_COMMANDS: Mapping[str, Callable[[pb.JoinResponse], Command]] = {
    "welcome": lambda m: Welcome(
        m.welcome.router,
        m.welcome.lease.ToTimedelta().total_seconds(),
        m.welcome.heartbeat_interval.ToTimedelta().total_seconds(),
    ),
    "prefetch": lambda m: Prefetch(m.prefetch.brand, m.prefetch.digest),
    "drain": lambda m: Drain(m.drain.reason),
    "evict": lambda m: Evict(m.evict.digest),
    "resync": lambda _: Resync(),
    "ack": lambda m: Ack(m.ack.sequence),
    "reset": lambda m: Reset(m.reset.reason),
}


def join_from_pb(message: pb.JoinRequest) -> Registration | Heartbeat:
    try:
        match message.WhichOneof("message"):
            case "registration":
                return registration_from_pb(message.registration)
            case "heartbeat":
                return heartbeat_from_pb(message.heartbeat)
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None
    raise SessionOutOfOrder("a message of a session is a registration or a heartbeat")


def join_to_pb(message: Registration | Heartbeat) -> pb.JoinRequest:
    if isinstance(message, Registration):
        return pb.JoinRequest(registration=registration_to_pb(message))
    return pb.JoinRequest(heartbeat=heartbeat_to_pb(message))


def registration_from_pb(message: pb.WorkerRegistration) -> Registration:
    return Registration(
        name=message.name,
        incarnation=message.incarnation,
        address=message.address,
        recipes=tuple(map(recipe_from_pb, message.recipes)),
        engine=message.engine,
        device=message.device,
        speed=message.speed or 1.0,
        max_rows=message.max_rows,
        version=message.version,
        host_limit_bytes=message.host_limit_bytes,
        disk_limit_bytes=message.disk_limit_bytes,
    )


def registration_to_pb(registration: Registration) -> pb.WorkerRegistration:
    return pb.WorkerRegistration(
        name=registration.name,
        incarnation=registration.incarnation,
        address=registration.address,
        recipes=map(recipe_to_pb, registration.recipes),
        engine=registration.engine,
        device=registration.device,
        speed=registration.speed,
        max_rows=registration.max_rows,
        version=registration.version,
        host_limit_bytes=registration.host_limit_bytes,
        disk_limit_bytes=registration.disk_limit_bytes,
    )


def heartbeat_from_pb(message: pb.WorkerHeartbeat) -> Heartbeat:
    return Heartbeat(
        sequence=message.sequence,
        full=message.full,
        residency={
            check_digest("heartbeat.residency.digest", held.digest): tier_from_pb(held.tier) or Tier.STORE
            for held in message.residency
        },
        queued_jobs=message.queued_jobs,
        running_jobs=message.running_jobs,
        booked=tuple(BookedWork(b.router, b.gpu_seconds, b.last_request_id) for b in message.booked),
        draining=message.draining,
        slots=message.slots,
        slots_used=message.slots_used,
        host_bytes=message.host_bytes,
        disk_bytes=message.disk_bytes,
        costs=tuple(map(_cost_from_pb, message.costs)),
        last_errors=tuple(
            WorkerFault(convert.time_from_pb(fault.time), fault.reason, fault.message) for fault in message.last_errors
        ),
        stalled_s=seconds_from_pb("heartbeat.stalled", message.stalled),
        time=convert.time_from_pb(message.time, "heartbeat.time") if message.HasField("time") else None,
        reset=_reset_from_pb(message.reset) if message.HasField("reset") else None,
        disk_free_bytes=message.disk_free_bytes if message.HasField("disk_free_bytes") else None,
        memory_free_bytes=message.memory_free_bytes if message.HasField("memory_free_bytes") else None,
        waiting_for_memory=message.waiting_for_memory,
    )


def heartbeat_to_pb(heartbeat: Heartbeat) -> pb.WorkerHeartbeat:
    return pb.WorkerHeartbeat(
        sequence=heartbeat.sequence,
        full=heartbeat.full,
        residency=[pb.Residency(digest=digest, tier=tier_to_pb(tier)) for digest, tier in heartbeat.residency.items()],
        queued_jobs=heartbeat.queued_jobs,
        running_jobs=heartbeat.running_jobs,
        booked=[
            pb.BookedWork(router=b.router, gpu_seconds=b.gpu_seconds, last_request_id=b.last_request_id)
            for b in heartbeat.booked
        ],
        draining=heartbeat.draining,
        slots=heartbeat.slots,
        slots_used=heartbeat.slots_used,
        host_bytes=heartbeat.host_bytes,
        disk_bytes=heartbeat.disk_bytes,
        costs=map(_cost_to_pb, heartbeat.costs),
        last_errors=[
            pb.WorkerError(time=convert.time_to_pb(fault.time), reason=fault.reason, message=fault.message)
            for fault in heartbeat.last_errors
        ],
        stalled=duration_to_pb(heartbeat.stalled_s) if heartbeat.stalled_s else None,
        time=convert.time_to_pb(heartbeat.time) if heartbeat.time else None,
        reset=reset_to_pb(heartbeat.reset) if heartbeat.reset else None,
        disk_free_bytes=heartbeat.disk_free_bytes,
        memory_free_bytes=heartbeat.memory_free_bytes,
        waiting_for_memory=heartbeat.waiting_for_memory,
    )


def _reset_from_pb(message: pb.WorkerReset) -> WorkerReset | None:
    phase = _PHASES_FROM_PB.get(message.phase)
    if phase is None:  # of a newer worker
        return None
    return WorkerReset(
        number=message.number,
        phase=phase,
        seconds=seconds_from_pb("heartbeat.reset.duration", message.duration),
        jobs_dropped=message.jobs_dropped,
        problem=message.problem,
    )


def reset_to_pb(reset: WorkerReset) -> pb.WorkerReset:
    return pb.WorkerReset(
        number=reset.number,
        phase=_PHASES[reset.phase],
        duration=duration_to_pb(reset.seconds),
        jobs_dropped=reset.jobs_dropped,
        problem=reset.problem,
    )


def _cost_from_pb(message: pb.MeasuredCost) -> MeasuredCost:
    return MeasuredCost(
        recipe=message.recipe,
        size=(message.size.width, message.size.height),
        rows=max(message.rows, 1),
        step_seconds=message.step_seconds,
        fixed_seconds=message.fixed_seconds,
    )


def _cost_to_pb(cost: MeasuredCost) -> pb.MeasuredCost:
    width, height = cost.size
    return pb.MeasuredCost(
        recipe=cost.recipe,
        size=pb.ImageSize(width=width, height=height),
        rows=cost.rows,
        step_seconds=cost.step_seconds,
        fixed_seconds=cost.fixed_seconds,
    )


def command_from_pb(message: pb.JoinResponse) -> Command | None:
    """What the router says; None: something that only newer workers understand."""
    said = message.WhichOneof("message")
    return _COMMANDS[said](message) if said else None


def command_to_pb(command: Command) -> pb.JoinResponse:  # noqa: PLR0911  # one for each
    match command:
        case Welcome(router, lease_s, interval_s):
            lease, interval = duration_to_pb(lease_s), duration_to_pb(interval_s)
            return pb.JoinResponse(welcome=pb.Welcome(router=router, lease=lease, heartbeat_interval=interval))
        case Prefetch(brand, digest):
            return pb.JoinResponse(prefetch=pb.Prefetch(brand=brand, digest=digest))
        case Drain(reason):
            return pb.JoinResponse(drain=pb.Drain(reason=reason))
        case Evict(digest):
            return pb.JoinResponse(evict=pb.Evict(digest=digest))
        case Resync():
            return pb.JoinResponse(resync=pb.ResyncRequest())
        case Ack(sequence):
            return pb.JoinResponse(ack=pb.HeartbeatAck(sequence=sequence))
        case Reset(reason):
            return pb.JoinResponse(reset=pb.Reset(reason=reason))


def worker_to_pb(view: WorkerView) -> pb.Worker:
    return pb.Worker(
        registration=registration_to_pb(view.registration),
        state=_STATES[view.state],
        heartbeat=heartbeat_to_pb(view.heartbeat),
        heartbeat_time=convert.time_to_pb(view.heard_time),
        booked_gpu_seconds=view.booked_here,
    )


def worker_from_pb(message: pb.Worker) -> WorkerView:
    """A view for people: its ``heard_at`` is 0, since clocks of two processes don't compare."""
    return WorkerView(
        registration=registration_from_pb(message.registration),
        state=_STATES_FROM_PB[message.state],
        heartbeat=heartbeat_from_pb(message.heartbeat),
        heard_at=0.0,
        heard_time=convert.time_from_pb(message.heartbeat_time),
        booked_here=message.booked_gpu_seconds,
    )


def fleet_to_pb(
    fleet: FleetSnapshot, router: str, *, queues: Mapping[str, int] = MappingProxyType({}), now: datetime
) -> pb.ListWorkersResponse:
    return pb.ListWorkersResponse(
        workers=map(worker_to_pb, fleet.workers),
        router=router,
        version=__version__,
        time=convert.time_to_pb(now),
        queues=[pb.BrandQueue(brand=brand, jobs=jobs) for brand, jobs in sorted(queues.items())],
    )


def explained_from_pb(message: pb.ExplainPlacementRequest) -> PaintRequest:
    """The request to explain; one without a prompt is well-formed, since nobody paints it."""
    request = generation_pb2.GenerateRequest()
    request.CopyFrom(message.request)
    request.prompt = request.prompt or "not painted"
    return request_from_pb(request, new_request_id="explained")


def explanation_to_pb(explanation: Explanation) -> pb.ExplainPlacementResponse:
    placement = explanation.placement
    response = pb.ExplainPlacementResponse(
        candidates=map(candidate_to_pb, placement.candidates),
        adapters=map(convert.pinned_to_pb, explanation.adapters),
    )
    if placement.worker:
        tier = tier_to_pb(placement.tier)
        placed = generation_pb2.Placed(worker=placement.worker, reason=placement.reason, tier=tier, attempt=1)
        response.placed.CopyFrom(placed)
    return response


def candidate_to_pb(candidate: Candidate) -> pb.PlacementCandidate:
    return pb.PlacementCandidate(
        worker=candidate.worker,
        rank=candidate.rank,
        eligible=candidate.eligible,
        expected_seconds=candidate.expected,
        booked_seconds=candidate.booked,
        adapter_seconds=candidate.adapter,
        penalty_seconds=candidate.penalty,
        tier=tier_to_pb(candidate.tier),
        reason=candidate.reason,
    )

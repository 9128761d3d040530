"""What becomes of a request's id; tests/integration/router has the rest."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext

import pytest

from looksmith.errors import AlreadyExists, FailedPrecondition, InvalidField, LooksmithError
from services.chassis.painting import PaintRequest, Pinned, Settled
from services.router.admission import Admission
from services.router.errors import NoWorker, WorkerLost
from services.router.events import Kind, WorkerEvent
from services.router.fleet import Fleet
from services.router.generate import Generation
from services.router.members import Heartbeat
from services.router.ports import WorkerCall
from services.router.request_memory import RequestMemory
from services.router.request_records import RequestRecords
from services.router.waiting_room import WaitingRoom
from tests.unit.router.router_parts import NOON, Clock, NoConnection, acme, dispatcher_of, registration, request

TOO_LONG = InvalidField("prompt", "the text encoder would not see its end", reason="PROMPT_TOO_LONG")
ACCEPTED, FINISHED = WorkerEvent(Kind.ACCEPTED, ""), WorkerEvent(Kind.FINISHED, "")


class Says(NoConnection):
    """A worker that says its words to every request, errors among them."""

    def __init__(self, *words: WorkerEvent | LooksmithError) -> None:
        self.words: Sequence[WorkerEvent | LooksmithError] = words

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[WorkerCall]:
        yield self

    async def __aiter__(self) -> AsyncIterator[WorkerEvent]:
        for word in self.words:
            if isinstance(word, LooksmithError):
                raise word
            yield word

    def cancel(self) -> None:
        pass


@pytest.fixture
def worker() -> Says:
    return Says(ACCEPTED, FINISHED)


@pytest.fixture
def fleet(worker: Says) -> Fleet:
    fleet = Fleet(router="r1", lease_s=3.0, clock=Clock(), now=lambda: NOON)
    fleet.join(registration(), worker)
    return fleet


@pytest.fixture
def generation(fleet: Fleet) -> Generation:
    clock = Clock()
    return Generation(
        admission=Admission(registry=acme(), fleet=fleet, memory=RequestMemory(clock=clock)),
        dispatcher=dispatcher_of(fleet, clock),
        waiting_room=WaitingRoom(fleet=fleet, worker_wait_s=0, clock=clock),
        records=RequestRecords(now=lambda: NOON, clock=clock),
        default_deadline_s=10,
        clock=clock,
    )


async def painted(generation: Generation, asked: PaintRequest) -> None:
    assert [event async for event in generation.paint(asked, timeout_s=None)]


async def test_a_prompt_that_a_worker_finds_too_long_can_be_shortened_under_the_same_id(
    generation: Generation, worker: Says
) -> None:
    worker.words = (TOO_LONG,)
    with pytest.raises(InvalidField):
        await painted(generation, request(prompt="a red kite and so on"))
    worker.words = (ACCEPTED, FINISHED)
    await painted(generation, request())


async def test_an_id_is_free_again_when_no_worker_could_take_the_request(
    generation: Generation, fleet: Fleet, worker: Says
) -> None:
    fleet.heard(fleet.member("w1"), Heartbeat(1, full=True, draining=True))
    with pytest.raises(NoWorker):
        await painted(generation, request())
    fleet.heard(fleet.member("w1"), Heartbeat(2, full=True))
    await painted(generation, request(prompt="a blue kite"))


async def test_an_id_is_free_again_when_its_caller_leaves_before_a_worker_has_accepted(generation: Generation) -> None:
    events = generation.paint(request(), timeout_s=None)
    await anext(events)
    await events.aclose()
    await painted(generation, request(prompt="a blue kite"))


@pytest.mark.parametrize(
    "end", [FINISHED, FailedPrecondition("it can't be used", reason="ADAPTER_UNUSABLE"), WorkerLost("w1", "it died")]
)
async def test_an_id_stays_claimed_once_a_worker_has_accepted_however_the_request_ends(
    generation: Generation, worker: Says, end: WorkerEvent | LooksmithError
) -> None:
    worker.words = (ACCEPTED, end)
    with nullcontext() if end is FINISHED else pytest.raises((FailedPrecondition, WorkerLost)):
        await painted(generation, request())
    worker.words = (ACCEPTED, FINISHED)
    with pytest.raises(AlreadyExists):
        await painted(generation, request(prompt="a blue kite"))
    await painted(generation, request())

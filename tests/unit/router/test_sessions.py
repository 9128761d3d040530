from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.router.errors import LeaseExpired
from services.router.fleet import Fleet
from services.router.members import Ack, Command, Drain, Heartbeat, Prefetch, Registration, Welcome
from services.router.sessions import Sessions
from tests.unit.router.router_parts import NOON, Clock, NoConnection, registration

A = "a" * 64


class Worker:
    """A worker's side of a session: what it says comes when the test says so."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Registration | Heartbeat | None] = asyncio.Queue()
        self.said.put_nowait(registration())

    async def messages(self) -> AsyncIterator[Registration | Heartbeat]:
        while message := await self.said.get():
            yield message


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(router="r1", lease_s=3.0, clock=Clock(), now=lambda: NOON)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@asynccontextmanager
async def session(
    fleet: Fleet, worker: Worker, *, lease_s: float = 3.0
) -> AsyncIterator[AsyncGenerator[Command, None]]:
    """A session that has been welcomed."""
    sessions = Sessions(
        fleet=fleet, connect=lambda _: NoConnection(), router="r1", lease_s=lease_s, heartbeat_interval_s=1.0
    )
    commands = sessions.join(worker.messages())
    try:
        assert isinstance(await anext(commands), Welcome)
        yield commands
    finally:
        await commands.aclose()


async def test_a_command_is_sent_at_once_while_the_worker_says_nothing(fleet: Fleet, worker: Worker) -> None:
    async with session(fleet, worker) as commands:
        waiting = asyncio.ensure_future(anext(commands))
        await asyncio.sleep(0)
        assert fleet.tell("w1", Drain("rest"))
        assert await asyncio.wait_for(waiting, 1) == Drain("rest")


async def test_heartbeats_are_answered_between_commands_and_none_is_lost(fleet: Fleet, worker: Worker) -> None:
    async with session(fleet, worker) as commands:
        fleet.tell("w1", Prefetch("acme", A))
        assert await anext(commands) == Prefetch("acme", A)
        worker.said.put_nowait(Heartbeat(1, full=True))
        worker.said.put_nowait(Heartbeat(2, full=False))
        assert await anext(commands) == Ack(1)
        fleet.tell("w1", Drain("rest"))
        assert {await anext(commands), await anext(commands)} == {Ack(2), Drain("rest")}
        assert fleet.view("w1").heartbeat.sequence == 2


async def test_commands_do_not_lengthen_the_lease_of_a_silent_worker(fleet: Fleet, worker: Worker) -> None:
    async with session(fleet, worker, lease_s=0.3) as commands:

        async def pester() -> None:
            while True:
                fleet.tell("w1", Drain("rest"))
                await asyncio.sleep(0.02)

        pestering = asyncio.create_task(pester())
        try:
            async with asyncio.timeout(2):
                with pytest.raises(LeaseExpired):
                    [_ async for _ in commands]
        finally:
            pestering.cancel()


async def test_a_session_ends_when_the_worker_has_said_its_last(fleet: Fleet, worker: Worker) -> None:
    async with session(fleet, worker) as commands:
        worker.said.put_nowait(None)
        assert [_ async for _ in commands] == []
        assert not fleet.tell("w1", Drain("rest"))


async def test_a_session_that_is_left_stops_reading_its_worker(fleet: Fleet, worker: Worker) -> None:
    before = asyncio.all_tasks()
    async with session(fleet, worker) as commands:
        worker.said.put_nowait(Heartbeat(1, full=True))
        await anext(commands)
        fleet.tell("w1", Drain("rest"))
        await anext(commands)
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_nobody_is_told_what_no_worker_of_that_name_can_hear(fleet: Fleet) -> None:
    assert not fleet.tell("w1", Drain("rest"))
    fleet.join(registration(), NoConnection())
    assert not fleet.tell("w1", Drain("rest"))

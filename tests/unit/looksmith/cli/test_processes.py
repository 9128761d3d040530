"""Children that are small Python programs: how they are watched, stopped and, if need be, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from looksmith.cli.processes import Processes
from looksmith.cli.terminal import Problem

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
SIGNS_OFF = """
import signal, sys, time

def leave(*_):
    with open("ended", "a") as ended:
        ended.write("{name} ")
    sys.exit()

signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(600)
"""
#: Deaf to SIGTERM, with a child in a session of its own, as the store has one.
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
print('child', child.pid, flush=True)
time.sleep(600)
"""
#: What `looksmith up` does, with one child, which is deaf.
COMMAND = """
import asyncio, os, pathlib, sys
from looksmith.cli.calls import run
from looksmith.cli.processes import Processes

async def work():
    say = lambda text: print(text, flush=True)
    where = pathlib.Path(sys.argv[1])
    async with Processes(where, cwd=where, environ=os.environ, stop_within_s=600, on_phase=say) as children:
        await children.start("deaf", [sys.executable, "-c", sys.argv[2]])
        await children.until("deaf", lambda: asyncio.to_thread(has_said, children.log("deaf")), within_s=60)
        say(f"{children.pid('deaf')} {children.log('deaf').read_text().split()[1]}")
        await children.during(asyncio.Event().wait())

def has_said(log):
    return "child" in log.read_text()

run(work())
"""


@asynccontextmanager
async def processes(folder: Path, *, stop_within_s: float = 20) -> AsyncIterator[tuple[Processes, asyncio.Queue[str]]]:
    """Processes, and what they tell."""
    told: asyncio.Queue[str] = asyncio.Queue()
    made = Processes(
        folder / "logs", cwd=folder, environ=os.environ, stop_within_s=stop_within_s, on_phase=told.put_nowait
    )
    async with made as children:
        yield children, told


async def started(children: Processes, name: str, program: str, *, says: str) -> int:
    """Starts a program, waits until its log begins with ``says``; returns its pid."""
    await children.start(name, [sys.executable, "-c", program])

    async def has_said() -> bool:
        return children.log(name).read_text().startswith(says)

    await children.until(name, has_said, within_s=60)
    return children.pid(name)


def runs(pid: int) -> bool:
    """Whether a process lives; one that waits to be reaped does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.02)


async def test_children_get_their_time_to_stop_and_the_first_one_stops_last(tmp_path: Path) -> None:
    async with processes(tmp_path) as (children, told):
        for name in ("store", "worker", "router"):
            await started(children, name, SIGNS_OFF.format(name=name), says="up")
    *others, last = (tmp_path / "ended").read_text().split()
    assert (sorted(others), last) == (["router", "worker"], "store")
    assert told.get_nowait() == "stopping; another Ctrl-C kills at once"


async def test_a_child_that_does_not_stop_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    async with processes(tmp_path, stop_within_s=0.2) as (children, _):
        pid = await started(children, "deaf", DEAF, says="child")
        grandchild = int(children.log("deaf").read_text().split()[1])
        assert runs(grandchild)
    assert not runs(pid)
    wait_until_gone(grandchild)


async def test_what_a_dead_child_had_started_does_not_outlive_us(tmp_path: Path) -> None:
    async with processes(tmp_path) as (children, _):
        pid = await started(children, "deaf", DEAF, says="child")
        grandchild = int(children.log("deaf").read_text().split()[1])
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Problem, match="deaf ended by SIGKILL"):
            await children.during(asyncio.Event().wait())
        assert runs(grandchild)
    wait_until_gone(grandchild)


async def test_other_processes_of_the_machine_are_left_alone(tmp_path: Path) -> None:
    async with processes(tmp_path) as (others, _):
        stranger = await started(others, "stranger", SLEEPS, says="up")
        async with processes(tmp_path, stop_within_s=0) as (children, _):
            await started(children, "deaf", DEAF, says="child")
        assert runs(stranger)


async def test_a_child_that_dies_names_itself_its_log_and_the_end_of_it_and_stops_the_rest(tmp_path: Path) -> None:
    broken = "import sys; print('\\n'.join(map(str, range(9)))); sys.exit('no `weed` on PATH')"
    async with processes(tmp_path) as (children, told):
        rest = await started(children, "rest", SLEEPS, says="up")
        await children.start("store", [sys.executable, "-c", broken])
        with pytest.raises(Problem) as caught:
            await children.during(asyncio.Event().wait())
    assert caught.value.line.splitlines() == [
        f"store ended with code 1, and everything else was stopped. The end of {tmp_path}/logs/store.log:",
        *("  5", "  6", "  7", "  8", "  no `weed` on PATH"),
    ]
    assert told.get_nowait() == "store ended: stopping the rest"
    assert not runs(rest)


async def test_of_children_alike_one_is_enough(tmp_path: Path) -> None:
    async with processes(tmp_path) as (children, told):
        pids = [await started(children, name, SLEEPS, says="up") for name in ("store", "worker-0", "worker-1")]

        async def lose_a_worker() -> None:
            os.kill(pids[1], signal.SIGKILL)
            assert (await told.get()).startswith("worker-0 ended by SIGKILL; the rest goes on")

        await children.during(lose_a_worker(), alike=["worker-0", "worker-1"])
        assert runs(pids[0]) and runs(pids[2])
        os.kill(pids[2], signal.SIGKILL)
        with pytest.raises(Problem, match="worker-1 ended by SIGKILL, and everything else was stopped"):
            await children.during(asyncio.Event().wait(), alike=["worker-0", "worker-1"])


async def test_waiting_for_one_child_notices_that_another_died(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with processes(tmp_path) as (children, _):
        await children.start("broken", [sys.executable, "-c", "raise SystemExit(3)"])
        await children.start("other", [sys.executable, "-c", SLEEPS])
        with pytest.raises(Problem, match="broken ended with code 3"):
            await children.until("other", never, within_s=60)


async def test_a_child_that_is_never_ready_is_named(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with processes(tmp_path) as (children, _):
        await children.start("slow", [sys.executable, "-c", SLEEPS])
        with pytest.raises(Problem, match="slow is not ready after 0 s"):
            await children.until("slow", never, within_s=0)


async def test_work_that_is_done_before_any_child_ends_returns_what_it_made(tmp_path: Path) -> None:
    async def work() -> int:
        return 7

    async with processes(tmp_path) as (children, _):
        await started(children, "rest", SLEEPS, says="up")
        assert await children.during(work()) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_stopping_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", COMMAND, str(tmp_path), DEAF]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as command:
        assert command.stdout
        child, grandchild = map(int, command.stdout.readline().split())
        try:
            assert runs(child) and runs(grandchild)
            command.send_signal(number)
            assert command.stdout.readline().startswith("stopping")
            assert runs(child)
            command.send_signal(number)
            command.wait(30)
            wait_until_gone(child)
            wait_until_gone(grandchild)
        finally:
            for pid in (child, grandchild, command.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

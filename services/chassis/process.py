"""The life of a server's process: it runs until a signal, or says in one line why it can't start. Knows no service."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import structlog

from services.chassis.stacks import stacks_on_signal
from services.chassis.threads import default_pool

log = structlog.get_logger()

#: Exit code of a process that could not start; what ends it later is a signal or a bug.
CANNOT_START = 2


class CannotStart(Exception):
    """Something outside the process keeps it from starting; the message names it for whoever runs the process."""


@contextmanager
def start_or_say_why(service: str) -> Iterator[None]:
    """Turns CannotStart into one line on standard error and exit code 2, without a traceback."""
    try:
        yield
    except CannotStart as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(CANNOT_START)


async def run_until_signal(service: AbstractAsyncContextManager[Any]) -> None:
    """Holds a service open until SIGTERM or SIGINT, then closes it; a second signal ends the process at once.

    SIGUSR1 tells what it is at, also while it starts and ends.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(default_pool())

    def on_signal(number: int) -> None:
        log.info("server.stopping", signal=signal.Signals(number).name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_signal, each)
    with stacks_on_signal():
        async with service:
            await stop.wait()

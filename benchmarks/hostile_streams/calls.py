"""Attacks by a gRPC client: publications that never end or begin in the middle, messages that are none or too large.

Each says how many streams it has opened, and lets no call last beyond its deadline. Knows no answer that would be
wrong; a server's bystander does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

import grpc

from benchmarks.fuzzing.calls import request_type
from benchmarks.fuzzing.messages import message_of
from benchmarks.hostile_streams.doors import Door, Doors
from looksmith.v1 import fleet_pb2, generation_pb2
from looksmith.v1 import registry_pb2 as registry_pb
from services.chassis.server import MAX_MESSAGE_BYTES

_REGISTRY, _FLEET = "/looksmith.v1.AdapterRegistryService/", "/looksmith.v1.FleetService/"
_PUBLISH, _WATCH = f"{_REGISTRY}PublishAdapter", f"{_REGISTRY}WatchAdapters"
_JOIN, _GENERATE = f"{_FLEET}Join", "/looksmith.v1.ImageGenerationService/Generate"
#: Seconds of a call, and beyond those until it counts as hanging.
DEADLINE_S, HANGS_AFTER_S = 2.0, 5.0
#: Whose pictures attackers ask for; nobody else's brand.
VICTIM = "hostile"


class Hung(Exception):
    """A call went on beyond its deadline."""


async def _call(
    door: Door,
    method: str,
    messages: Sequence[bytes],
    *,
    timeout_s: float = DEADLINE_S,
    leave_after_s: float | None = None,
    pause_s: float = 0.0,
    ends: bool = True,
    reads: bool = True,
    metadata: Sequence[tuple[str, str | bytes]] = (),
) -> grpc.StatusCode | None:
    """Sends bytes as messages, whatever the method's own streams are.

    Args:
        door: whom.
        method: full name.
        messages: in order.
        timeout_s: deadline.
        leave_after_s: cancels the call then; None: never.
        pause_s: after each message.
        ends: whether it says that those were all.
        reads: whether answers are taken.
        metadata: what else is sent.

    Returns:
        How it ended; None: it was left.

    Raises:
        Hung: it did not end.
    """
    many: Any = door.channel.stream_stream(method)
    call = many(timeout=timeout_s, metadata=tuple(metadata) or None)

    async def spoken() -> None:
        for message in messages:
            await call.write(message)
            await asyncio.sleep(pause_s)
        if ends:
            await call.done_writing()

    speaking = asyncio.create_task(spoken())
    try:
        async with asyncio.timeout(timeout_s + HANGS_AFTER_S):
            if leave_after_s is not None or not reads:
                await asyncio.sleep(min(1.0, timeout_s) if leave_after_s is None else leave_after_s)
                return None
            while await call.read() is not grpc.aio.EOF:
                pass
            code: grpc.StatusCode = await call.code()
            return code
    except TimeoutError:
        raise Hung(f"{method} of {door.name}") from None
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)


def _header(draws: Random, size: int = 10_000, **fields: Any) -> bytes:  # noqa: ANN401  # values of its fields
    digest = hashlib.sha256(draws.randbytes(8)).hexdigest()
    header = registry_pb.PublishHeader(
        brand=VICTIM, adapter="look", family="studio", digest=digest, size_bytes=size, **fields
    )
    return registry_pb.PublishAdapterRequest(header=header).SerializeToString()


def _chunk(data: bytes) -> bytes:
    return registry_pb.PublishAdapterRequest(chunk=data).SerializeToString()


async def half_a_publication(doors: Doors, draws: Random) -> int:
    """Announces a file, sends some of it, and falls silent or leaves."""
    size = draws.choice((100, 100_000, 30 << 20, 2**63))
    some = [_header(draws, size, request_id=f"half-{draws.randrange(50)}"), _chunk(draws.randbytes(5000))]
    leave = draws.choice((None, draws.uniform(0, 0.5)))
    await _call(doors.registry, _PUBLISH, some, timeout_s=1.0, leave_after_s=leave, ends=False)
    return 1


async def out_of_order(doors: Doors, draws: Random) -> int:
    """Headers after chunks, twice, with offsets of uploads that nobody has begun, and chunks that are too large."""
    messages = [
        _header(draws),
        _header(draws, offset=draws.choice((1, 2**40, 2**64 - 1)), request_id="nobody"),
        _chunk(draws.randbytes(100)),
        _chunk(bytes((1 << 20) + 1)),
        _chunk(b""),
        b"",
        registry_pb.PublishAdapterRequest(chunk=b"x", crc32=1).SerializeToString(),
    ]
    draws.shuffle(messages)
    await _call(doors.registry, _PUBLISH, messages[: draws.randint(1, len(messages))])
    return 1


async def too_large(doors: Doors, draws: Random) -> int:
    door = doors.any(draws)
    await _call(door, draws.choice(door.methods), [bytes(MAX_MESSAGE_BYTES + draws.choice((1, 1 << 20)))])
    return 1


async def no_message(doors: Doors, draws: Random) -> int:
    door = doors.any(draws)
    for _ in range(5):
        await _call(door, draws.choice(door.methods), [draws.randbytes(draws.choice((1, 10, 300)))], timeout_s=0.5)
    return 5


async def odd_messages(doors: Doors, draws: Random) -> int:
    """Well-formed, of the right type, and odd in their values; as fuzzing makes them."""
    door = doors.any(draws)
    for _ in range(5):
        method = draws.choice(door.methods)
        kind = request_type(method)
        messages = [_odd(kind, draws) for _ in range(draws.randint(1, 3))]
        await _call(door, method, messages, timeout_s=0.5)
    return 5


def _odd(kind: Any, draws: Random) -> bytes:  # noqa: ANN401  # a class of messages
    data: bytes = message_of(kind, b"\0" + draws.randbytes(200)).SerializeToString()
    return data


async def no_time(doors: Doors, draws: Random) -> int:
    """Deadlines that are over before a server has looked."""
    good = generation_pb2.GenerateRequest(brand=VICTIM, prompt="a red apple").SerializeToString()
    door = draws.choice((doors.router, doors.worker))
    await asyncio.gather(*(_call(door, _GENERATE, [good], timeout_s=draws.choice((0.001, 0.01))) for _ in range(5)))
    return 5


async def left_in_the_middle(doors: Doors, draws: Random) -> int:
    """Asks for pictures, and leaves at any moment, the reading of them too."""
    asked = generation_pb2.GenerateRequest(
        brand=VICTIM, prompt="a red apple", count=draws.choice((1, 4)), report_steps=True, preview_every=1
    )
    door = draws.choice((doors.router, doors.worker))
    leave = draws.choice((None, draws.uniform(0, 0.3)))
    await _call(door, _GENERATE, [asked.SerializeToString()], leave_after_s=leave, reads=False)
    return 1


async def no_such_method(doors: Doors, draws: Random) -> int:
    door = doors.any(draws)
    names = ("/", "//", "/looksmith.v1.FleetService/Nothing", "/no.Such/Thing", "/" + "a" * 3000, "/\u2603/x")
    for name in draws.sample(names, 3):
        await _call(door, name, [b"x"])
    return 3


async def huge_metadata(doors: Doors, draws: Random) -> int:
    door = doors.any(draws)
    odd: tuple[Sequence[tuple[str, str | bytes]], ...] = (
        [("x", "y" * 30_000)],
        [(f"x-{i}", "y" * 100) for i in range(100)],
        [("x-bin", draws.randbytes(12_000))],
        [("authorization", "Bearer " + "z" * 7000)],
        [("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"), ("tracestate", "a=" + "b" * 5000)],
        [("grpc-status-details-bin", draws.randbytes(100))],
    )
    await _call(door, draws.choice(door.methods), [b""], metadata=draws.choice(odd), timeout_s=0.5)
    return 1


async def odd_watch(doors: Doors, draws: Random) -> int:
    """Cursors of nobody's, and a watcher that reads nothing."""
    cursors = ("", "x", "0" * 32 + ":1", "-1", "9" * 5000, "\0", f"{draws.randbytes(16).hex()}:{2**70}", ":" * 100)
    asked = registry_pb.WatchAdaptersRequest(brand=draws.choice(("", VICTIM, "..")), cursor=draws.choice(cursors))
    reads = draws.random() < 0.5
    await _call(doors.registry, _WATCH, [asked.SerializeToString()], timeout_s=draws.uniform(0.05, 1), reads=reads)
    return 1


async def absurd_worker(doors: Doors, draws: Random) -> int:
    """Joins under a name of its own and reports what cannot be; its address is nobody's."""
    name = f"absurd-{draws.randrange(20)}"
    sizes = [fleet_pb2.ImageSize(width=draws.choice((0, 1, 128, 2**32 - 1)), height=128)]
    recipe = fleet_pb2.WorkerRecipe(
        name=draws.choice(("absurd", "studio")), digest="3" * 64, family="absurd", sizes=sizes, steps=[4],
        default_steps=draws.choice((0, 4, 2**32 - 1)), max_guidance=draws.choice((0.0, float("inf"), float("nan"))),
    )  # fmt: skip
    registration = fleet_pb2.WorkerRegistration(
        name=name, incarnation=draws.randbytes(4).hex(), address="127.0.0.1:1", recipes=[recipe],
        speed=draws.choice((1.0, 1e300, 5e-324, float("nan"), -1.0, float("inf"))),
        max_rows=draws.choice((0, 2**32 - 1)),
    )  # fmt: skip
    beats = [_odd(fleet_pb2.JoinRequest, draws) for _ in range(2)]
    for number in range(draws.randint(0, 3)):
        beat = fleet_pb2.WorkerHeartbeat(sequence=draws.choice((number + 1, 0, 2**64 - 1)), full=draws.random() < 0.5)
        beat.MergeFrom(message_of(fleet_pb2.WorkerHeartbeat, b"\0" + draws.randbytes(150)))
        beats.append(fleet_pb2.JoinRequest(heartbeat=beat).SerializeToString())
    draws.shuffle(beats)
    first = [fleet_pb2.JoinRequest(registration=registration).SerializeToString()]
    await _call(doors.router, _JOIN, [*first, *beats], timeout_s=draws.uniform(0.1, 1.0), pause_s=0.02, ends=False)
    return 1


async def never_reads(doors: Doors, draws: Random) -> int:
    """Has large answers sent, and takes none of them."""
    asked = generation_pb2.GenerateRequest(brand=VICTIM, prompt="a red apple", count=4).SerializeToString()
    door = draws.choice((doors.router, doors.worker))
    await _call(door, _GENERATE, [asked], reads=False)
    return 1


ATTACKS = {
    half_a_publication: 4.0,
    out_of_order: 4.0,
    too_large: 1.0,
    no_message: 4.0,
    odd_messages: 6.0,
    no_time: 3.0,
    left_in_the_middle: 1.0,
    no_such_method: 2.0,
    huge_metadata: 3.0,
    odd_watch: 3.0,
    absurd_worker: 3.0,
    never_reads: 0.5,
}

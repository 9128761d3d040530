"""What a worker can be told from outside. Knows names, units and defaults; acts on none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from looksmith.lora import Limits
from looksmith.nouns import MAX_ADAPTERS
from services.chassis.settings import Names, ServiceSettings

_GIB = 1024**3


def _pairs(text: object) -> object:
    if not isinstance(text, str):
        return text
    entries = [entry.partition(":") for entry in text.split(",")]
    return {rank.strip(): slots.strip() for rank, _, slots in entries}


def _least_slots(slots: Mapping[int, int]) -> Mapping[int, int]:
    if short := [rank for rank, count in slots.items() if count < 2 * MAX_ADAPTERS]:
        raise ValueError(
            f"rank class {short[0]} needs at least {2 * MAX_ADAPTERS} slots: a running job's and a waiting one's"
        )
    return slots


#: Rank class -> slots, as in 16:64,128:8.
Slots = Annotated[
    dict[Annotated[int, Field(ge=1, le=Limits().rank)], int], BeforeValidator(_pairs), AfterValidator(_least_slots)
]


def _with_a_pair(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if max(sizes) < 2:
        raise ValueError("the largest batch needs at least 2 rows: a guided picture takes two")
    return sizes


#: Batch sizes in rows, separated by commas.
Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...],
    BeforeValidator(lambda text: [n.strip() for n in text.split(",")] if isinstance(text, str) else text),
    AfterValidator(_with_a_pair),
]


class WorkerSettings(ServiceSettings):
    env_prefix: ClassVar[str] = "WORKER_"

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Stable name, such as a StatefulSet pod's: brands find their way back to it by consistent hashing. Required."""

    registry: str = Field(min_length=1)
    """Address of the registry, host:port. Required."""

    registry_token: SecretStr = SecretStr("")
    """Token that the registry is shown; it needs to read every brand. Unset: none, where the registry asks for none."""

    router_token: SecretStr = SecretStr("")
    """Token that routers are shown; it needs to serve. Unset: none, where routers ask for none."""

    disk_cache: Path
    """Folder of adapter files; kept between runs, so that a restart finds them. Required; one worker's own."""

    recipes: Names = Field(default=("deploy/recipes/studio.toml",), min_length=1)
    """Recipe files, separated by commas; the first is for requests that name none. Those of one family share a bank."""

    bases: Path | None = None
    """Folder of copies of bases, which `looksmith base pull` fills; recipes name them by store://bases/NAME@SHA256.
    Unset: recipes name files and folders, or models of the hub."""

    routers: Names = ()
    """Addresses of routers to join, host:port, separated by commas. Empty: none, it serves whoever asks directly."""

    advertise: str = ""
    """Address at which routers reach this worker, host:port. Empty: the one it listens on."""

    speed: float = Field(default=1.0, gt=0, le=1000)
    """Speed relative to other workers, declared and fixed: the weight of consistent hashing."""

    engine: Literal["bank", "reference", "timed", "fake"] = "bank"
    """What paints. bank: many brands in one batch; reference: diffusers and peft, one job at a time; to try out the
    services around it, timed: flat pictures that take the bank's time, as it was measured on a CPU; fake: the same at
    once."""

    timed_scale: float = Field(default=1.0, gt=0, le=1000)
    """How many times as long as measured all things take with the timed engine. 1: about 0.1 s a picture alone."""

    slots: Slots = Field(default={32: 32}, min_length=1)
    """The bank: slots by rank class, as in 16:64,128:8. An adapter takes a slot of the smallest class that holds its
    ranks; one of a larger rank is painted by the reference engine. Each class costs time in steps that need it."""

    batch_sizes: Sizes = Field(default=(1, 2, 4, 8), min_length=1)
    """Rows of the bank's batches, separated by commas; a batch is padded to the next size. A guided picture is two."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device to paint on."""

    device_bytes: int = Field(default=0, ge=0)
    """Bytes of the device that bases, bank and decoding may take together; recipes that need more are refused at the
    start, as `looksmith recipe check` counts them. 0: no limit on a CPU, what is free on CUDA."""

    threads: int = Field(default=0, ge=0)
    """Threads of torch: cores / workers on this machine. 0: torch decides, which is right for one worker."""

    disk_cache_bytes: int = Field(default=20 * _GIB, gt=0)
    """Bytes of adapter files on disk: some hundred adapters of an SDXL base."""

    host_bytes: int = Field(default=4 * _GIB, gt=0)
    """Bytes of adapters in memory, ready to be copied to the device."""

    compiled_bytes: int = Field(default=20 * _GIB, gt=0)
    """Bytes of compiled adapters on disk, beside their files; the least recently used go first."""

    peft_slots: int = Field(default=8, ge=2 * MAX_ADAPTERS)
    """Adapters of the reference engine on the device. At least those of a running job and of the one staged behind it;
    peft slows as it grows, by 4 to 9 times at 24 (benchmarked with SDXL)."""

    drain_s: float = Field(default=60.0, ge=0)
    """Seconds that a worker which is told to end keeps its sessions and finishes its jobs, before running calls get
    their grace. 60: a request of 16 pictures and the one staged behind it, at nearly 2 s a picture. Whoever ends the
    process with SIGKILL must wait for both together. One without jobs leaves at once."""

    max_queued: int = Field(default=64, ge=1)
    """Jobs that may wait; more are refused with WORKER_FULL. At 4 s a job, 45 reach the usual deadline of 180 s."""

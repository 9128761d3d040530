"""What a worker can be told from outside. Knows names, units and defaults; acts on none of them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from looksmith.nouns import MAX_ADAPTERS
from services.chassis.settings import Names, ServiceSettings

_GIB = 1024**3


class WorkerSettings(ServiceSettings):
    env_prefix: ClassVar[str] = "WORKER_"

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Stable name, such as a StatefulSet pod's: brands find their way back to it by consistent hashing. Required."""

    registry: str = Field(min_length=1)
    """Address of the registry, host:port. Required."""

    disk_cache: Path
    """Folder of adapter files; kept between runs, so that a restart finds them. Required; one worker's own."""

    recipes: Names = Field(default=("deploy/recipes/studio.toml",), min_length=1)
    """Recipe files, separated by commas, all of one base; the first is for requests that name none."""

    routers: Names = ()
    """Addresses of routers to join, host:port, separated by commas. Empty: none, it serves whoever asks directly."""

    advertise: str = ""
    """Address at which routers reach this worker, host:port. Empty: the one it listens on."""

    speed: float = Field(default=1.0, gt=0, le=1000)
    """Speed relative to other workers, declared and fixed: the weight of consistent hashing."""

    engine: Literal["reference", "fake"] = "reference"
    """What paints. reference: diffusers and peft; fake: flat pictures at once, to try out the services around it."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device to paint on."""

    threads: int = Field(default=0, ge=0)
    """Threads of torch: cores / workers on this machine. 0: torch decides, which is right for one worker."""

    disk_cache_bytes: int = Field(default=20 * _GIB, gt=0)
    """Bytes of adapter files on disk: some hundred adapters of an SDXL base."""

    host_bytes: int = Field(default=4 * _GIB, gt=0)
    """Bytes of adapters in memory, ready to be copied to the device."""

    device_slots: int = Field(default=8, ge=2 * MAX_ADAPTERS)
    """Adapters on the device. At least those of a running job and of the one staged behind it; peft slows as it grows,
    by 4 to 9 times at 24 (benchmarked with SDXL)."""

    max_queued: int = Field(default=64, ge=1)
    """Jobs that may wait; more are refused with WORKER_FULL. At 4 s a job, 45 reach the usual deadline of 180 s."""

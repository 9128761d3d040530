"""The registry's settings and their defaults. Reads nothing itself; says what is read."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from services.chassis.settings import Names, ServiceSettings


class RegistrySettings(ServiceSettings):
    """Read from REGISTRY_*."""

    env_prefix: ClassVar[str] = "REGISTRY_"

    name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Name of this replica in records and telemetry. Unset: host and process id."""

    store_endpoint: str = Field(min_length=1)
    """host:port of MinIO, or of any other store with its API that honours `If-None-Match: *`. Required."""

    store_access_key: str
    """Access key of MinIO. Required; needs to read, write, list and delete in the bucket."""

    store_secret_key: SecretStr
    """Secret key of MinIO. Required."""

    store_bucket: str = "looksmith"
    """Bucket in MinIO that holds everything; made if it is missing."""

    store_secure: bool = False
    """Whether MinIO is reached over TLS. False: it stands beside the registry, as in the compose file."""

    store_region: str = "us-east-1"
    """Region of the bucket, which signatures contain. MinIO's own default."""

    max_adapter_bytes: int = Field(default=1 << 30, ge=1)
    """Largest file that is accepted, in bytes. 1 GiB holds rank 128 of every linear layer of SDXL in 16 bits."""

    bases: Path | None = None
    """Folder of module tables (*.json) of bases beyond those that ship. Unset: only those."""

    protected_aliases: Names = ("production",)
    """Aliases that only tokens with the action "promote" move, separated by commas: what they name is painted."""

    head_max_age_s: float = Field(default=1.0, ge=0)
    """Seconds for which a replica answers from memory before it asks the store for news. 1 s: a moved alias is seen
    everywhere a second later, and a busy adapter costs the store one small read a second."""

    feed_every_s: float = Field(default=0.25, gt=0)
    """Seconds between looks for what other replicas have committed, each a small listing of the store: watchers then
    hear of it within a second."""

    upload_expiry_s: float = Field(default=86400.0, gt=0)
    """Seconds from the start of an upload for which it can be resumed. A day: whoever loses the network in the evening
    goes on the next morning."""

    commit_window_s: float = Field(default=600.0, gt=0)
    """Seconds from the last byte of a file for which a record may name it; a publication that takes longer is refused
    and may be repeated. 10 minutes: a record that others keep overtaking takes one at most."""

    gc_grace_s: float = Field(default=3 * 86400.0, gt=0)
    """Seconds from the writing of an object to when the collector may delete it if nothing refers to it. At least twice
    upload_expiry_s and commit_window_s together, which no publication outlasts. 3 days: uploads can be resumed for one,
    and a day more is for clocks that are off and requests that linger."""

    gc_every_s: float = Field(default=3600.0, gt=0)
    """Seconds between collections at one replica, on average. An hour: a collection lists the whole store."""

    reconcile_s: float = Field(default=60.0, gt=0)
    """Seconds between full reads of all heads, which let memory answer for every adapter when the store is down."""

    @field_validator("gc_grace_s")
    @classmethod
    def _no_publication_outlasts_it(cls, grace_s: float, info: ValidationInfo) -> float:
        least = 2 * (info.data.get("upload_expiry_s", 0) + info.data.get("commit_window_s", 0))
        if grace_s < least:
            raise ValueError(f"must be at least {least:g}, twice upload_expiry_s and commit_window_s together")
        return grace_s

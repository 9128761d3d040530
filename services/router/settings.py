"""What a router can be told from outside. Knows names, units and defaults; acts on none of them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from services.chassis.settings import ServiceSettings


class RouterSettings(ServiceSettings):
    env_prefix: ClassVar[str] = "ROUTER_"

    name: str = Field(min_length=1, max_length=253)
    """Name of this router. Required, and its own: workers count the work that each router booked by it."""

    registry: str = Field(min_length=1)
    """Address of the registry, host:port. Required."""

    registry_token: SecretStr = SecretStr("")
    """Token that the registry is shown; it needs to read every brand. Unset: none, where the registry asks for none."""

    worker_token: SecretStr = SecretStr("")
    """Token that workers are shown; it needs to generate with every brand. Unset: none, where they ask for none."""

    default_recipe: str = ""
    """Recipe of requests when neither they nor the brand name one. Empty: the fleet's only recipe."""

    lease_s: float = Field(default=3.0, gt=0)
    """Seconds that a worker may be silent before it counts as gone: three heartbeats, so that one may be late."""

    heartbeat_interval_s: float = Field(default=1.0, gt=0)
    """Seconds between heartbeats that workers are asked for: as late as placement sees what other routers book."""

    default_deadline_s: float = Field(default=180.0, gt=0)
    """Seconds that a request may take whose caller set no deadline. People wait about three minutes, hardly longer."""

    max_redispatches: int = Field(default=2, ge=0)
    """Workers that may take over a request when one fails. A request that killed three is likely the cause."""

    worker_wait_s: float = Field(default=0.0, ge=0)
    """Seconds that requests wait for a worker while none can take them. 0: they are refused at once, which is right
    where nothing starts workers. With a scaler: longer than a worker takes to start."""

    brand_max_queued_jobs: int = Field(default=0, ge=0)
    """Jobs of one brand that may wait here, unless its record says otherwise. 0: as many as can meet their deadline."""

    brand_gpu_seconds_per_minute: float = Field(default=0.0, ge=0)
    """GPU-seconds a minute that one brand may use through this router, unless its record says otherwise. 0: any."""

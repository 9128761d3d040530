"""The base of every service's settings: frozen, read once from an environment with the service's prefix.

Knows nothing of any one setting beyond those that every server has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.chassis.process import CannotStart

#: A setting that holds several values, separated by commas.
Names = Annotated[tuple[str, ...], BeforeValidator(lambda text: [n.strip() for n in text.split(",") if n.strip()])]


class SettingsError(CannotStart):
    """The environment lacks a setting or holds a bad one; the message names each variable."""


class ServiceSettings(BaseModel):
    """What every server needs. Subclasses set ``env_prefix`` and add their own fields, each with a docstring."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    env_prefix: ClassVar[str]

    host: str = "127.0.0.1"
    """Address to listen on. Loopback unless told otherwise: traffic is plaintext until TLS is configured."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on. 0: any free one, which the log names."""

    metrics_port: int | None = None
    """Port of /metrics on the same host. Unset: no metrics are served; 0: any free one, which the log names."""

    shutdown_grace_s: float = Field(default=30.0, ge=0)
    """Seconds that running calls may take to finish after SIGTERM."""

    log_format: Literal["json", "pretty"] = "json"
    """json: one object a line, for machines; pretty: for people."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Reads the settings from ``environ`` alone.

        Raises:
            SettingsError: a variable is missing or bad; the message names every one.
        """
        given = {
            field: environ[name] for field in cls.model_fields if (name := (cls.env_prefix + field).upper()) in environ
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = (f"{cls.env_prefix}{e['loc'][0]}".upper() + f": {e['msg']}" for e in error.errors())
            raise SettingsError("; ".join(problems)) from None

"""The base of every service's settings: frozen, read once from an environment with the service's prefix.

Knows nothing of any one setting beyond those that every server has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
    """Address to listen on. Loopback unless told otherwise; beyond it a server asks for TLS and for tokens or client
    certificates, or to be told that it needs none."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on. 0: any free one, which the log names."""

    metrics_port: int | None = None
    """Port of /metrics on the same host. Unset: no metrics are served; 0: any free one, which the log names."""

    health_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a second server on the same host, plaintext, with grpc.health.v1 and nothing else, for a kubelet that has
    no certificate. Unset: none; 0: any free one, which the log names."""

    tls_cert: Path | None = None
    """PEM file of this server's certificate, then of what stands between it and its CA. Set: it serves with TLS 1.2 or
    newer, reads the file again when it changes, and shows the certificate wherever it dials others by TLS."""

    tls_key: Path | None = None
    """PEM file of that certificate's private key, without a passphrase. Required with it."""

    tls_client_ca: Path | None = None
    """PEM file of the CAs of which callers must show a certificate (mutual TLS). Unset: callers need none."""

    tls_ca: Path | None = None
    """PEM file of the CAs that certificates of other services are checked by. Set: they are dialled by TLS. Unset:
    plaintext."""

    tokens: Path | None = None
    """TOML file of who may do what: [[token]] tables with name, sha256 of a bearer token or the name in a client's
    certificate, actions (read, publish, promote, manage, generate, operate, serve) and brands (patterns such as
    "acme-*"). May be replaced at any time. Unset: whoever gets as far as the port may do everything, as on a laptop."""

    allow_plaintext: bool = False
    """Whether to listen beyond loopback without TLS. False: whoever can read the traffic reads tokens and prompts."""

    allow_anonymous: bool = False
    """Whether to listen beyond loopback with neither tokens nor mutual TLS. False: anyone might do everything."""

    max_calls_per_caller: int = Field(default=1024, ge=0)
    """Calls of one caller that are answered at once, sessions and watches aside; of callers without a name, of one
    host. 1024: far more than a router sends to anyone. 0: any."""

    max_connection_age_s: float = Field(default=0.0, ge=0)
    """Seconds after which a caller is asked to connect anew, which spreads callers over replicas that came later; what
    is under way goes on. 0: never, which is right for one replica."""

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

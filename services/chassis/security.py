"""How a server is reached and how it dials others, by its settings: TLS, mutual TLS, or on loopback neither.

Refuses what would leave a port open by oversight. Who may do what is access.py's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

import grpc

from services.chassis.certificates import Identity, read_authorities, read_identity
from services.chassis.process import CannotStart
from services.chassis.reread import Reread, Unusable
from services.chassis.settings import ServiceSettings

Now = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def check_exposure(settings: ServiceSettings) -> None:
    """Raises: CannotStart, where a setting lacks its other half, or others could reach a port that is open to all."""
    prefix = settings.env_prefix
    for given, needed in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
        if getattr(settings, given) and not getattr(settings, needed):
            raise CannotStart(f"{prefix}{needed.upper()}: is required with {prefix}{given.upper()}")
    if _is_loopback(settings.host):
        return
    where = f"{prefix}HOST={settings.host} can be reached from other machines"
    if not (settings.tls_cert or settings.allow_plaintext):
        raise CannotStart(
            f"{where}: set {prefix}TLS_CERT and {prefix}TLS_KEY, or {prefix}ALLOW_PLAINTEXT=true where nobody else "
            "can read the traffic"
        )
    if not (settings.tokens or settings.tls_client_ca or settings.allow_anonymous):
        raise CannotStart(
            f"{where}: set {prefix}TOKENS or {prefix}TLS_CLIENT_CA, or {prefix}ALLOW_ANONYMOUS=true where everyone "
            "may do everything"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class _Shown:
    """What a server shows its callers, and the CAs that it checks theirs by."""

    identity: Identity
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.identity.key, self.identity.certificate)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self.client_ca)


def server_credentials(settings: ServiceSettings, *, now: Now = utc_now) -> grpc.ServerCredentials | None:
    """What to serve with, by files that are read again when they change; None: plaintext.

    Raises:
        CannotStart: a file can't be read, has expired, or is not its certificate's key; names it.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    certificate, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca

    def read() -> _Shown:
        authorities = read_authorities(client_ca, now=now()) if client_ca else None
        return _Shown(read_identity(certificate, key, now=now()), authorities)

    try:
        files = Reread("certificates", read, certificate, key, *([client_ca] if client_ca else []))
    except Unusable as error:
        raise CannotStart(f"{settings.env_prefix}TLS_*: {error}") from None
    served = files.value()

    def news() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake."""
        nonlocal served
        if (found := files.value()) is served:
            return None
        served = found
        return found.configuration()

    return grpc.dynamic_ssl_server_credentials(
        served.configuration(),
        news,  # type: ignore[arg-type]  # the stub lacks None, which grpc takes for "as before"
        require_client_authentication=client_ca is not None,
    )


Credentials = Callable[[], grpc.ChannelCredentials]
"""What to dial with, as of now; the same object while it is the same."""


def dialling(settings: ServiceSettings, *, now: Now = utc_now) -> Credentials | None:
    """By TLS if there are CAs to check others by, then with the service's own certificate where it has one.

    None: plaintext.

    Raises:
        CannotStart: a file can't be used.
    """
    if settings.tls_ca is None:
        return None
    ca, certificate, key = settings.tls_ca, settings.tls_cert, settings.tls_key

    def read() -> grpc.ChannelCredentials:
        authorities = read_authorities(ca, now=now())
        if certificate is None or key is None:
            return grpc.ssl_channel_credentials(authorities)
        mine = read_identity(certificate, key, now=now())
        return grpc.ssl_channel_credentials(authorities, mine.key, mine.certificate)

    try:
        return Reread("dialling", read, ca, *(file for file in (certificate, key) if file)).value
    except Unusable as error:
        raise CannotStart(f"{settings.env_prefix}TLS_*: {error}") from None

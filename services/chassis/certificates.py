"""Certificates and keys in PEM files: read, and checked before anyone is shown one.

Knows nothing of gRPC or settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis.reread import Unusable


@dataclass(frozen=True)
class Identity:
    """A certificate, what stands between it and its CA, and its key, all in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def read_identity(certificate: Path, key: Path, *, now: datetime) -> Identity:
    """A certificate that is good now, with its own key.

    Raises:
        Unusable: it is not, or a file can't be read; names the file.
    """
    chain, pem = _read(certificate), _read(key)
    first = _certificates(certificate, chain)[0]
    _check_time(certificate, [first], now)
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a passphrase
        raise Unusable(f"{key}: holds no private key in PEM without a passphrase") from None
    if private.public_key() != first.public_key():
        raise Unusable(f"{key}: is not the key of the certificate in {certificate}")
    return Identity(chain, pem)


def read_authorities(file: Path, *, now: datetime) -> bytes:
    """The certificates of CAs in PEM, of which one at least is good now.

    Raises:
        Unusable: there is none, or the file can't be read.
    """
    pem = _read(file)
    _check_time(file, _certificates(file, pem), now)
    return pem


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unusable(f"{file}: {error.strerror}") from None


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unusable(f"{file}: holds no certificate in PEM") from None


def _check_time(file: Path, certificates: Sequence[x509.Certificate], now: datetime) -> None:
    if all(found.not_valid_after_utc < now for found in certificates):
        latest = max(found.not_valid_after_utc for found in certificates)
        raise Unusable(f"{file}: expired on {latest:%Y-%m-%d %H:%M} UTC")
    if all(found.not_valid_before_utc > now for found in certificates):
        first = min(found.not_valid_before_utc for found in certificates)
        raise Unusable(f"{file}: is not valid before {first:%Y-%m-%d %H:%M} UTC; is the clock right?")

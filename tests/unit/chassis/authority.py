"""A certificate authority of a test's own: a moment's work for each certificate, since its keys are elliptic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from looksmith.channel import tls

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """A certificate and its key, on disk."""

    certificate: Path
    key: Path

    def environ(self, prefix: str) -> dict[str, str]:
        """As a service with that prefix reads them."""
        return {f"{prefix}_TLS_CERT": str(self.certificate), f"{prefix}_TLS_KEY": str(self.key)}


class Authority:
    """A CA whose files lie in ``folder``; ``ca`` is the one that others check by."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        extension = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._sign(_named(name), self._key, extension, days=30)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *hosts: str, days: float = 1, file: str = "") -> Files:
        """For ``name``, and for hosts and addresses; ``days`` from now it expires, from before now where negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        certificate = self._sign(_named(name), key, *([names] if hosts else []), days=days)
        files = Files(self._folder / f"{file or name}.crt", self._folder / f"{file or name}.key")
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def credentials(self, shown: Files | None = None) -> grpc.ChannelCredentials:
        """To dial with, trusting this CA."""
        return tls(self.ca, shown.certificate, shown.key) if shown else tls(self.ca)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType, days: float
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - 10 * _DAY,
            not_valid_after=now + days * _DAY,
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.UniformResourceIdentifier(host) if "://" in host else x509.DNSName(host)

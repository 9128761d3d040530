"""Certificates as files: what can be used, and how a server says which file can't."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.chassis.certificates import read_authorities, read_identity
from services.chassis.reread import Unusable
from tests.unit.chassis.authority import Authority, Files


def now() -> datetime:
    return datetime.now(UTC)


def test_a_certificate_comes_with_its_key_which_is_never_printed(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("registry", "localhost")
    identity = read_identity(files.certificate, files.key, now=now())
    assert (identity.certificate, identity.key) == (files.certificate.read_bytes(), files.key.read_bytes())
    assert "PRIVATE" not in repr(identity)


def _spoil_key(files: Files, _: Authority) -> None:
    files.key.write_text("no key")


def _swap_key(files: Files, ca: Authority) -> None:
    files.key.write_bytes(ca.issue("other").key.read_bytes())


def _expire(files: Files, ca: Authority) -> None:
    ca.issue("registry", days=-1)


def _remove(files: Files, _: Authority) -> None:
    files.certificate.unlink()


def _spoil(files: Files, _: Authority) -> None:
    files.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_spoil_key, r"registry\.key: holds no private key"),
        (_swap_key, r"registry\.key: is not the key of the certificate in .*registry\.crt"),
        (_expire, r"registry\.crt: expired on 2"),
        (_remove, r"registry\.crt: No such file"),
        (_spoil, r"registry\.crt: holds no certificate"),
    ],
)
def test_what_cannot_be_used_is_named(spoil: Callable[[Files, Authority], None], says: str, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    files = ca.issue("registry")
    spoil(files, ca)
    with pytest.raises(Unusable, match=says):
        read_identity(files.certificate, files.key, now=now())


def test_a_certificate_of_tomorrow_makes_one_look_at_the_clock(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("registry")
    with pytest.raises(Unusable, match=r"not valid before .* clock"):
        read_identity(files.certificate, files.key, now=now() - timedelta(days=20))


def test_of_several_authorities_one_good_one_is_enough(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    both = tmp_path / "both.pem"
    both.write_bytes(old.issue("was", days=-1).certificate.read_bytes() + new.ca.read_bytes())
    assert read_authorities(both, now=now()) == both.read_bytes()
    with pytest.raises(Unusable, match="expired"):
        read_authorities(tmp_path / "was.crt", now=now())

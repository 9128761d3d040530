"""What a server refuses to listen with, how it is dialled by TLS, and the second port for health, on real servers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from looksmith.channel import dial
from services.chassis.process import CannotStart
from services.chassis.security import check_exposure, dialling
from services.chassis.server import RunningServer, grpc_server
from services.chassis.settings import ServiceSettings
from tests.unit.chassis.authority import Authority, Files

SERVING = health_pb2.HealthCheckResponse.SERVING


class Settings(ServiceSettings):
    env_prefix: ClassVar[str] = "SHOP_"
    shutdown_grace_s: float = 0


async def health(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


async def asked(server: RunningServer, credentials: grpc.ChannelCredentials | None, *, host: str = "127.0.0.1") -> int:
    async with dial(f"{host}:{server.port}", credentials=credentials) as channel:
        return await health(channel)


@pytest.mark.parametrize(
    ("host", "given", "names"),
    [
        ("0.0.0.0", {}, "SHOP_TLS_CERT.*SHOP_ALLOW_PLAINTEXT"),  # noqa: S104  # that it is refused is the point
        ("::", {"SHOP_ALLOW_ANONYMOUS": "true"}, "SHOP_TLS_CERT.*SHOP_ALLOW_PLAINTEXT"),
        ("shop.internal", {"SHOP_ALLOW_PLAINTEXT": "true"}, "SHOP_TOKENS.*SHOP_ALLOW_ANONYMOUS"),
        ("10.0.0.1", {"SHOP_TLS_CERT": "c", "SHOP_TLS_KEY": "k"}, "SHOP_TOKENS.*SHOP_ALLOW_ANONYMOUS"),
        ("127.0.0.1", {"SHOP_TLS_CERT": "c"}, "^SHOP_TLS_KEY"),
        ("127.0.0.1", {"SHOP_TLS_KEY": "k"}, "^SHOP_TLS_CERT"),
        ("127.0.0.1", {"SHOP_TLS_CLIENT_CA": "ca"}, "^SHOP_TLS_CERT"),
    ],
)
def test_a_port_that_is_open_by_oversight_is_refused_naming_the_variables(
    host: str, given: dict[str, str], names: str
) -> None:
    with pytest.raises(CannotStart, match=names):
        check_exposure(Settings.read({"SHOP_HOST": host, **given}))


@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("127.0.0.1", {}),
        ("::1", {}),
        ("[::1]", {}),
        ("localhost", {}),
        ("0.0.0.0", {"SHOP_ALLOW_PLAINTEXT": "true", "SHOP_ALLOW_ANONYMOUS": "true"}),  # noqa: S104  # said so twice
        ("0.0.0.0", {"SHOP_TLS_CERT": "c", "SHOP_TLS_KEY": "k", "SHOP_TOKENS": "t"}),  # noqa: S104  # with all it takes
        ("0.0.0.0", {"SHOP_TLS_CERT": "c", "SHOP_TLS_KEY": "k", "SHOP_TLS_CLIENT_CA": "ca"}),  # noqa: S104  # likewise
        ("0.0.0.0", {"SHOP_ALLOW_PLAINTEXT": "true", "SHOP_TOKENS": "t"}),  # noqa: S104  # behind a proxy that speaks TLS
    ],
)
def test_loopback_needs_nothing_and_all_else_needs_an_explicit_choice(host: str, given: dict[str, str]) -> None:
    check_exposure(Settings.read({"SHOP_HOST": host, **given}))


async def test_an_expired_certificate_or_token_file_that_is_none_keeps_a_server_from_starting(tmp_path: Path) -> None:
    old = Authority(tmp_path).issue("old", days=-1)
    for given, says in (
        ({"tls_cert": old.certificate, "tls_key": old.key}, r"SHOP_TLS_\*: .*old\.crt: expired on"),
        ({"tokens": tmp_path / "none.toml"}, r"SHOP_TOKENS: .*none\.toml"),
    ):
        with pytest.raises(CannotStart, match=says):
            async with grpc_server(Settings.model_validate(given), []):
                pass
    with pytest.raises(CannotStart, match=r"SHOP_TLS_\*: .*none\.pem"):
        dialling(Settings(tls_ca=tmp_path / "none.pem"))


@asynccontextmanager
async def serving(shown: Files, **given: Path) -> AsyncIterator[RunningServer]:
    settings = Settings.model_validate({"tls_cert": shown.certificate, "tls_key": shown.key, **given})
    async with grpc_server(settings, []) as server:
        yield server


async def test_a_server_with_a_certificate_speaks_tls_to_whom_it_is_named_and_nothing_else(tmp_path: Path) -> None:
    ca, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with serving(ca.issue("shop", "127.0.0.1")) as server:
        assert await asked(server, ca.credentials()) == SERVING
        for credentials, host in (
            (None, "127.0.0.1"),
            (other.credentials(), "127.0.0.1"),
            (ca.credentials(), "localhost"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked(server, credentials, host=host)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    async with serving(ca.issue("shop", "127.0.0.1")) as server:
        assert await asyncio.to_thread(_speaks, server.port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert await asyncio.to_thread(_speaks, server.port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            assert await asyncio.to_thread(_speaks, server.port, ssl.TLSVersion.TLSv1_1) is None


def _speaks(port: int, version: ssl.TLSVersion) -> str | None:
    """The version that was agreed on, if only this one is offered; None: no agreement."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL itself would not speak 1.1 otherwise
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port)) as plain:
        try:
            with context.wrap_socket(plain) as spoken:
                return spoken.version()
        except ssl.SSLError:
            return None


async def test_a_certificate_that_was_replaced_is_shown_without_a_restart_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    ca = Authority(tmp_path)
    shown = ca.issue("first", "127.0.0.1", file="shop")
    async with serving(shown) as server:
        assert await asyncio.to_thread(_name_shown, server.port) == "first"
        ca.issue("second", "127.0.0.1", file="shop")
        assert await asyncio.to_thread(_name_shown, server.port) == "second"
        shown.key.write_text("half a key")
        assert await asyncio.to_thread(_name_shown, server.port) == "second"
        ca.issue("third", "127.0.0.1", file="shop")
        assert await asyncio.to_thread(_name_shown, server.port) == "third"


def _name_shown(port: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as spoken:
        shown = x509.load_der_x509_certificate(spoken.getpeercert(binary_form=True) or b"")
    return shown.subject.rfc4514_string().removeprefix("CN=")


@pytest.mark.parametrize("with_its_own", [False, True])
async def test_a_service_trusts_the_cas_that_it_is_given_and_no_others(with_its_own: bool, tmp_path: Path) -> None:  # noqa: FBT001  # parametrized
    ca, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    own = ca.issue("router").environ("SHOP") if with_its_own else {}
    async with serving(ca.issue("shop", "127.0.0.1")) as server:
        trusting = dialling(Settings.read({"SHOP_TLS_CA": str(ca.ca), **own}))
        mistaken = dialling(Settings.read({"SHOP_TLS_CA": str(strangers.ca), **own}))
        assert trusting and mistaken
        assert await asked(server, trusting()) == SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
            await asked(server, mistaken())


async def test_what_a_service_dials_with_follows_its_files_too(tmp_path: Path) -> None:
    ca, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    strangers.issue("router", file="router")
    async with serving(ca.issue("shop", "127.0.0.1"), tls_client_ca=ca.ca) as server:
        files = {"tls_cert": tmp_path / "router.crt", "tls_key": tmp_path / "router.key", "tls_ca": ca.ca}
        credentials = dialling(Settings.model_validate(files))
        assert credentials
        with pytest.raises(grpc.aio.AioRpcError):
            await asked(server, credentials())
        ca.issue("router", file="router")
        assert await asked(server, credentials()) == SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await asked(server, ca.credentials())
    assert dialling(Settings()) is None


async def test_the_health_port_needs_no_certificate_follows_the_server_and_serves_nothing_else(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    shown = ca.issue("shop", "127.0.0.1")
    settings = Settings(tls_cert=shown.certificate, tls_key=shown.key, tls_client_ca=ca.ca, health_port=0)
    async with grpc_server(settings, []) as server, dial(f"127.0.0.1:{server.health_port}") as channel:
        assert await health(channel) == SERVING
        get_servers: Any = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_servers(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.health.enter_graceful_shutdown()
        assert await health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING

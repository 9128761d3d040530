"""Certificates that are no good, in a system that speaks TLS: doctor names them, and so does the server concerned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from looksmith.cli.doctor import examined
from looksmith.cli.findings import Finding, Level
from services.chassis.process import CannotStart
from services.chassis.server import grpc_server
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.compose import apis
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.doctor.doctored import SETTINGS, furnished
from tests.unit.chassis.authority import Authority, Files
from tests.unit.gpu_worker.worker_parts import facts

pytestmark = pytest.mark.integration

HOSTS = ("localhost", "127.0.0.1")
SECONDS = 1 / 86400  # as days


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    made = Authority(tmp_path)
    monkeypatch.setenv("LOOKSMITH_TLS_CA", str(made.ca))
    return made


@asynccontextmanager
async def registry_and_router(ca: Authority, of_registry: Files, of_router: Files) -> AsyncIterator[tuple[str, str]]:
    core, _ = await furnished()
    files = {"tls_cert": of_registry.certificate, "tls_key": of_registry.key}
    async with grpc_server(SETTINGS.model_copy(update=files), apis(core)) as registry:
        settings = RouterSettings.read(
            {
                "ROUTER_NAME": "r1",
                "ROUTER_REGISTRY": registry.address,
                "ROUTER_SHUTDOWN_GRACE_S": "0",
                "ROUTER_TLS_CA": str(ca.ca),
                **of_router.environ("ROUTER"),
            }
        )
        async with router(settings) as front:
            yield registry.address, front.address


def about(found: list[Finding], address: str) -> Finding:
    (one,) = [each for each in found if each.subject == f"certificate of {address}"]
    return one


async def test_a_certificate_that_has_expired_and_one_that_soon_will_are_named(ca: Authority) -> None:
    short = ca.issue("registry", *HOSTS, days=2.5 * SECONDS)
    async with registry_and_router(ca, short, ca.issue("router", *HOSTS, days=20)) as (registry, front):
        before = await examined([front], [registry])
        assert about(before, registry).level is Level.WARN
        assert about(before, registry).what == "ends in 0 days"
        assert about(before, front).level is Level.OK
        await asyncio.sleep(3)
        after = await examined([front], [registry])
    assert (about(after, registry).level, about(after, registry).what) == (Level.FAIL, "has expired")
    (unreached,) = [each for each in after if each.subject == f"registry {registry}"]
    assert (unreached.level, "expired" in unreached.what) == (Level.FAIL, True)
    with pytest.raises(CannotStart, match=r"registry.crt: expired on"):
        async with grpc_server(
            SETTINGS.model_copy(update={"tls_cert": short.certificate, "tls_key": short.key}),
            apis((await furnished())[0]),
        ):
            pass


async def test_a_server_that_trusts_the_wrong_ca_is_told_apart_from_one_that_shows_the_wrong_certificate(
    ca: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    stranger = other.issue("stranger", *HOSTS)
    async with registry_and_router(ca, stranger, ca.issue("router", *HOSTS)) as (registry, front):
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": registry,
                "WORKER_DISK_CACHE": str(tmp_path / "w1"),
                "WORKER_ROUTERS": front,
                "WORKER_TLS_CA": str(other.ca),
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        with capture_logs() as logs:
            async with gpu_worker(painting, engine=FakeEngine([facts()])), asyncio.timeout(10):
                while not (ended := [line for line in logs if line["event"] == "session.ended"]):  # noqa: ASYNC110  # logs tell nobody
                    await asyncio.sleep(0.02)
                found = await examined([front], [registry])
    shown = about(found, registry)
    assert shown.level is Level.FAIL
    assert shown.what.startswith("is not of the CA in LOOKSMITH_TLS_CA")
    assert about(found, front).level is Level.WARN  # it is one day old, and ends tomorrow
    assert any(each.level is Level.FAIL and "no worker has joined" in each.what for each in found)
    assert "CERTIFICATE_VERIFY_FAILED" in ended[0]["error"]

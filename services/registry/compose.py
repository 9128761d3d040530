"""Puts the registry together and takes it apart in reverse. The only place that constructs its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from looksmith.lora import Limits, ModuleTable
from looksmith.nouns import PRODUCTION, Action
from looksmith.v1 import brand_pb2_grpc, registry_pb2_grpc
from services.chassis.access import caller
from services.chassis.process import CannotStart
from services.chassis.server import RunningServer, ServedApi, grpc_server
from services.registry.commit_log import Surroundings
from services.registry.core import Core, assemble
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.gate import GatedStore
from services.registry.judging import judging
from services.registry.minio_store import MinioObjectStore
from services.registry.object_store import ObjectStore
from services.registry.servicer import AdapterRegistryServicer, BrandServicer, RegistryAdminServicer
from services.registry.settings import RegistrySettings
from services.registry.tables import load_tables

log = structlog.get_logger()

SPAN_NAMES = {"/looksmith.v1.AdapterRegistryService/PublishAdapter": "looksmith.publish"}

#: By every router for every request: a line each would be a sixth of what an answer costs.
ASKED_OFTEN = ("ResolveAdapter", "GetBrand")

#: Name by which health tells whether anything may be written: NOT_SERVING until the store was found fit for it.
WRITES = "looksmith.v1.AdapterRegistryService/writes"


@asynccontextmanager
async def registry(settings: RegistrySettings) -> AsyncIterator[RunningServer]:
    """A registry that serves from entry to exit.

    Raises:
        CannotStart: the store did not answer in time or turned the credentials or the bucket down, the folder of bases
            is not one, or the address is taken.
    """
    async with AsyncExitStack() as stack:
        tables = await _tables(settings)
        try:
            store = await stack.enter_async_context(
                MinioObjectStore(
                    endpoint=settings.store_endpoint,
                    access_key=settings.store_access_key,
                    secret_key=settings.store_secret_key.get_secret_value(),
                    bucket=settings.store_bucket,
                    secure=settings.store_secure,
                    region=settings.store_region,
                )
            )
        except StoreRefused as error:
            asked = "REGISTRY_STORE_ACCESS_KEY, REGISTRY_STORE_SECRET_KEY or REGISTRY_STORE_BUCKET"
            raise CannotStart(f"{asked} is not right for {settings.store_endpoint}: {error}") from error
        except (StoreUnavailable, ValueError) as error:  # the SDK finds the endpoint malformed
            raise CannotStart(f"REGISTRY_STORE_ENDPOINT={settings.store_endpoint}: {error}") from error
        yield await stack.enter_async_context(registry_on(store, settings, tables))


@asynccontextmanager
async def registry_on(
    store: ObjectStore, settings: RegistrySettings, tables: Mapping[str, ModuleTable]
) -> AsyncIterator[RunningServer]:
    """A registry on any store. It serves at once; writes wait for what a probe of the store finds out.

    Raises:
        CannotStart: the address is taken, or the file of tokens cannot be used.
    """
    async with AsyncExitStack() as stack:
        around = Surroundings(writer=settings.name)
        gate = GatedStore(store, around=around)
        core = assemble(
            store=gate,
            judging=judging(tables, replace(Limits(), file_bytes=settings.max_adapter_bytes)),
            around=around,
            head_max_age_s=settings.head_max_age_s,
            feed_every_s=settings.feed_every_s,
            gc_grace_s=settings.gc_grace_s,
            upload_expiry_s=settings.upload_expiry_s,
            commit_window_s=settings.commit_window_s,
            who=lambda: caller().name,
            store_name=settings.store_endpoint,
            breaches=gate.breaches,
        )
        await stack.enter_async_context(_beside(_keep_fresh(core, settings.reconcile_s)))
        log.info("registry.ready", store=settings.store_endpoint, bucket=settings.store_bucket, bases=sorted(tables))
        server = await stack.enter_async_context(
            grpc_server(
                settings,
                apis(core, settings.protected_aliases),
                span_names=SPAN_NAMES,
                quiet=ASKED_OFTEN,
            )
        )
        stack.callback(core.watches.stop)
        await server.health.set(WRITES, HealthCheckResponse.NOT_SERVING)
        await stack.enter_async_context(_beside(_open_when_fit(gate, server)))
        await stack.enter_async_context(_beside(core.collector.run(settings.gc_every_s)))
        await stack.enter_async_context(_beside(core.feed.write()))
        await stack.enter_async_context(_beside(core.feed.follow(core.catalog.refresh)))
        yield server


def apis(core: Core, protected_aliases: Sequence[str] = (PRODUCTION,)) -> list[ServedApi]:
    """The services of a registry."""
    adapters = AdapterRegistryServicer(
        catalog=core.catalog,
        publisher=core.publisher,
        uploads=core.uploads,
        watches=core.watches,
        to_move=lambda alias: Action.PROMOTE if alias in protected_aliases else Action.PUBLISH,
    )
    brands = BrandServicer(brands=core.brands, eraser=core.eraser)
    admin = RegistryAdminServicer(collector=core.collector, checker=core.checker, status=core.status)
    return [
        ServedApi(
            "looksmith.v1.AdapterRegistryService",
            lambda server: registry_pb2_grpc.add_AdapterRegistryServiceServicer_to_server(adapters, server),
        ),
        ServedApi(
            "looksmith.v1.BrandService",
            lambda server: brand_pb2_grpc.add_BrandServiceServicer_to_server(brands, server),
        ),
        ServedApi(
            "looksmith.v1.RegistryAdminService",
            lambda server: registry_pb2_grpc.add_RegistryAdminServiceServicer_to_server(admin, server),
        ),
    ]


async def _tables(settings: RegistrySettings) -> Mapping[str, ModuleTable]:
    try:
        return await asyncio.to_thread(load_tables, settings.bases)
    except (ValueError, OSError) as error:
        raise CannotStart(f"REGISTRY_BASES: {error}") from error


async def _keep_fresh(core: Core, every_s: float) -> None:
    """Reads all heads now and again."""
    while True:
        try:
            await core.brands.reconcile()
            await core.catalog.reconcile()
        except StoreUnavailable as error:
            log.warning("store.unavailable", error=error.message)
        except Exception:  # one bad record must not end the reading of the others for good
            log.exception("reconcile.failed")
        await asyncio.sleep(every_s)


async def _open_when_fit(gate: GatedStore, server: RunningServer) -> None:
    """Tells health once the store takes writes; where it must not, health stays as it was."""
    async with gate.learning() as findings:
        if findings.conforming:
            await server.health.set(WRITES, HealthCheckResponse.SERVING)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs something beside everything else, from entry to its end or exit."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

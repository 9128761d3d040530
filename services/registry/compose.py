"""Puts the registry together and takes it apart in reverse. The only place that constructs its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import structlog

from looksmith.lora import Limits, ModuleTable
from looksmith.v1 import brand_pb2_grpc, registry_pb2_grpc
from services.chassis.process import CannotStart
from services.chassis.server import RunningServer, ServedApi, grpc_server
from services.registry.commit_log import Surroundings
from services.registry.core import Core, assemble
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.judging import judging
from services.registry.minio_store import MinioObjectStore
from services.registry.servicer import AdapterRegistryServicer, BrandServicer
from services.registry.settings import RegistrySettings
from services.registry.tables import load_tables

log = structlog.get_logger()

SPAN_NAMES = {"/looksmith.v1.AdapterRegistryService/PublishAdapter": "looksmith.publish"}


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
        except (StoreUnavailable, StoreRefused, ValueError) as error:  # the SDK finds the endpoint malformed
            raise CannotStart(f"REGISTRY_STORE_ENDPOINT={settings.store_endpoint}: {error}") from error
        core = assemble(
            store=store,
            judging=judging(tables, replace(Limits(), file_bytes=settings.max_adapter_bytes)),
            around=Surroundings(writer=settings.name),
            head_max_age_s=settings.head_max_age_s,
            spool_folder=settings.spool,
        )
        await stack.enter_async_context(_kept_fresh(core, settings.reconcile_s))
        log.info("registry.ready", store=settings.store_endpoint, bucket=settings.store_bucket, bases=sorted(tables))
        yield await stack.enter_async_context(grpc_server(settings, apis(core), span_names=SPAN_NAMES))


def apis(core: Core) -> list[ServedApi]:
    """The two services of a registry."""
    adapters = AdapterRegistryServicer(catalog=core.catalog, publisher=core.publisher)
    brands = BrandServicer(brands=core.brands)
    return [
        ServedApi(
            "looksmith.v1.AdapterRegistryService",
            lambda server: registry_pb2_grpc.add_AdapterRegistryServiceServicer_to_server(adapters, server),
        ),
        ServedApi(
            "looksmith.v1.BrandService",
            lambda server: brand_pb2_grpc.add_BrandServiceServicer_to_server(brands, server),
        ),
    ]


async def _tables(settings: RegistrySettings) -> Mapping[str, ModuleTable]:
    try:
        return await asyncio.to_thread(load_tables, settings.bases)
    except (ValueError, OSError) as error:
        raise CannotStart(f"REGISTRY_BASES: {error}") from error


@asynccontextmanager
async def _kept_fresh(core: Core, every_s: float) -> AsyncIterator[None]:
    """Reads all heads now and again, beside everything else."""

    async def keep_reading() -> None:
        while True:
            try:
                await core.brands.reconcile()
                await core.catalog.reconcile()
            except StoreUnavailable as error:
                log.warning("store.unavailable", error=error.message)
            except Exception:  # one bad record must not end the reading of the others for good
                log.exception("reconcile.failed")
            await asyncio.sleep(every_s)

    task = asyncio.create_task(keep_reading())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

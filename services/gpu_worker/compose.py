"""Puts a worker together from its settings. The only place that constructs its parts."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from looksmith import __version__
from looksmith.nouns import Tier
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.channel import open_channel
from services.chassis.painting import RecipeFacts
from services.chassis.security import dialling
from services.chassis.server import RunningServer, ServedApi, check_settings, grpc_server
from services.gpu_worker import telemetry
from services.gpu_worker.clock import Clock, steady_clock
from services.gpu_worker.departure import OpenCalls, leave
from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import Engine
from services.gpu_worker.engine.recipe import Recipe
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.sources import Sources
from services.gpu_worker.engine.timed import TimedEngine
from services.gpu_worker.engine.timed_costs import TimedCosts
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.generation import Generation
from services.gpu_worker.machine import Machine
from services.gpu_worker.painter import Painter
from services.gpu_worker.ports import Registry
from services.gpu_worker.registry_watch import RegistryWatch
from services.gpu_worker.reset import EngineReset, end_process
from services.gpu_worker.servicer import ImageGenerationServicer
from services.gpu_worker.session import RouterSession
from services.gpu_worker.settings import WorkerSettings
from services.gpu_worker.settlement import Settler
from services.gpu_worker.tiers import AdapterTiers
from services.gpu_worker.withdrawals import Enforcement, Withdrawals
from services.registry.client import RegistryClient
from services.router.client import FleetClient, Registration

GENERATION = "looksmith.v1.ImageGenerationService"
_GENERATE = f"/{GENERATION}/Generate"

#: The fake and the timed engine have no weights, so that their recipes' digests are those of none.
_NO_WEIGHTS = "0" * 64


@asynccontextmanager
async def gpu_worker(
    settings: WorkerSettings,
    *,
    registry: Registry | None = None,
    engine: Engine | None = None,
    new_engine: Callable[[], Engine] | None = None,
    end_process: Callable[[int], object] = end_process,
) -> AsyncIterator[RunningServer]:
    """A worker that serves and reports from entry to exit.

    ``registry``, ``engine``, what a reset replaces that by, and ``end_process`` replace the real ones in tests.

    It listens once its engine is loaded and warm, so that health is SERVING from the first answer on. On exit it turns
    NOT_SERVING, tells its routers, and finishes its jobs while sessions and server live on; not so where it ends by an
    exception, which nobody should wait for.

    Raises:
        CannotStart: these settings can't be served with.
        RecipeError: a recipe can't be used; the message names the file and the key.
    """
    check_settings(settings)
    clock = steady_clock()
    async with AsyncExitStack() as stack:
        credentials = dialling(settings)
        if registry is None:
            token = settings.registry_token.get_secret_value()
            channel = open_channel(settings.registry, token=token, credentials=credentials)
            registry = RegistryClient(await stack.enter_async_context(channel))
        new_engine = new_engine or partial(make_engine, settings, clock)
        thread = await stack.enter_async_context(EngineThread(engine or new_engine(), clock=clock))
        del engine  # a reset is to free it: from here on only the thread knows it
        tiers = AdapterTiers(
            disk=DiskCache(settings.disk_cache, limit_bytes=settings.disk_cache_bytes),
            registry=registry,
            engine_thread=thread,
            host_bytes=settings.host_bytes,
            clock=clock,
        )
        await stack.enter_async_context(tiers.running())
        painter = Painter(
            name=settings.name, engine_thread=thread, tiers=tiers, max_queued=settings.max_queued, clock=clock
        )
        await stack.enter_async_context(painter.running())
        telemetry.observe(painter, tiers)
        withdrawals = Withdrawals(registry=registry)
        settler = Settler(
            registry=registry,
            recipes=thread.engine.recipes,
            dropped_words=lambda *asked: thread.engine.dropped_words(*asked),  # noqa: PLW0108  # there will be others
        )
        generation = Generation(
            worker=settings.name,
            engine=thread.engine.name,
            settler=settler,
            painter=painter,
            withdrawals=withdrawals,
            tier_of=lambda digest: tiers.residency().get(digest, Tier.STORE),
            clock=clock,
            new_id=lambda: uuid.uuid4().hex,
        )
        enforcement = Enforcement(withdrawals=withdrawals, forget=tiers.forget, recheck=generation.end_refused)
        watch = RegistryWatch(
            watch=lambda cursor: registry.watch(cursor=cursor), hear=enforcement.hear, jitter=random.random
        )
        await stack.enter_async_context(watch.running())
        servicer = ImageGenerationServicer(generation=generation, new_request_id=lambda: uuid.uuid4().hex)
        api = ServedApi(GENERATION, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(servicer, server))
        calls = OpenCalls(_GENERATE)
        server = await stack.enter_async_context(
            grpc_server(settings, [api], span_names={_GENERATE: "worker.generate"}, layers=[calls.layer])
        )
        registration = Registration(
            name=settings.name,
            incarnation=uuid.uuid4().hex,
            address=settings.advertise or server.address,
            recipes=tuple(thread.engine.recipes),
            engine=thread.engine.name,
            device=thread.engine.device,
            speed=settings.speed,
            max_rows=thread.engine.max_rows,
            version=__version__,
            host_limit_bytes=settings.host_bytes,
            disk_limit_bytes=settings.disk_cache_bytes,
        )

        def serve(recipes: Sequence[RecipeFacts]) -> None:
            """What a new engine has: routers hear of it only if recipe files have changed meanwhile."""
            nonlocal registration
            settler.serve(recipes)
            if tuple(recipes) != registration.recipes:
                registration = replace(registration, recipes=tuple(recipes))
                for session in sessions:
                    session.rejoin(registration)

        async def tell_health(status: int) -> None:
            for name in ("", GENERATION):
                await server.health.set(name, status)

        reset = EngineReset(
            engine_thread=thread,
            painter=painter,
            tiers=tiers,
            check=partial(_recipes, settings),
            make=new_engine,
            rebuilt=serve,
            tell_health=tell_health,
            end_process=end_process,
            finish_s=settings.drain_s,
            clock=clock,
        )
        machine = Machine(settings.disk_cache)
        sessions = [
            RouterSession(
                address=address,
                registration=registration,
                painter=painter,
                tiers=tiers,
                connect=lambda router: FleetClient.connect(
                    router, token=settings.router_token.get_secret_value(), credentials=credentials and credentials()
                ),
                jitter=random.random,
                machine=machine,
                reset=reset,
            )
            for address in settings.routers
        ]
        reset.report_by([session.report_now for session in sessions])
        for session in sessions:
            await stack.enter_async_context(_kept_up(session))
        await stack.enter_async_context(reset.running())
        yield server
        await server.health.enter_graceful_shutdown()
        await leave(
            calls=calls,
            drain=painter.drain,
            reports=[session.report_now() for session in sessions],
            drain_s=settings.drain_s,
            clock=clock,
        )


def make_engine(settings: WorkerSettings, clock: Clock) -> Engine:
    """The engine that the settings name.

    Raises:
        RecipeError: a recipe can't be used.
    """
    recipes = _recipes(settings)
    if settings.engine in {"fake", "timed"}:
        facts = [recipe.facts(base_digest=_NO_WEIGHTS, distill_digest="") for recipe in recipes]
        if settings.engine == "fake":
            return FakeEngine(facts, clock=clock)
        return TimedEngine(
            facts,
            costs=TimedCosts.measured(settings.timed_scale),
            batch_sizes=settings.batch_sizes,
            slots=sum(settings.slots.values()),
            clock=clock,
        )
    return painting_engine(recipes, settings, clock)


def _recipes(settings: WorkerSettings) -> list[Recipe]:
    """Raises: RecipeError."""
    sources = Sources(bases=settings.bases)
    return [read_recipe(Path(recipe), sources) for recipe in settings.recipes]


def painting_engine(recipes: Sequence[Recipe], settings: WorkerSettings, clock: Clock) -> Engine:
    """The reference or the bank engine, with one part for each base that the recipes have.

    Raises:
        RecipeError: recipes can't be served together.
        DeviceTooSmall: they need more than the device has.
    """
    # Here and not above: a worker with another engine starts without torch, and torch reads its threads on import.
    from services.gpu_worker.engine.bank_engine import BankEngine  # noqa: PLC0415
    from services.gpu_worker.engine.ledger import check_device  # noqa: PLC0415
    from services.gpu_worker.engine.reference import ReferenceEngine  # noqa: PLC0415
    from services.gpu_worker.engine.several_bases import SeveralBases  # noqa: PLC0415

    batched = settings.engine != "reference"
    check_device(
        recipes,
        device=settings.device,
        limit=settings.device_bytes,
        slots=settings.slots if batched else {},
        rows=max(settings.batch_sizes) if batched else 1,
        batched=batched,
    )
    by_base: dict[object, list[Recipe]] = {}
    for recipe in recipes:
        by_base.setdefault(recipe.weights, []).append(recipe)
    engines: list[Engine] = []
    banks: dict[str, BankEngine] = {}  # by family
    for alike in by_base.values():
        reference = ReferenceEngine(
            alike, device=settings.device, threads=settings.threads, slots=settings.peft_slots, clock=clock
        )
        if settings.engine == "reference":
            engines.append(reference)
            continue
        family = alike[0].family
        bank = BankEngine(
            reference,
            slots=settings.slots,
            batch_sizes=settings.batch_sizes,
            compiled=settings.disk_cache / "compiled",
            compiled_bytes=settings.compiled_bytes,
            beside=banks.get(family),
        )
        banks.setdefault(family, bank)
        engines.append(bank)
    return engines[0] if len(engines) == 1 else SeveralBases(engines)


@asynccontextmanager
async def _kept_up(session: RouterSession) -> AsyncIterator[None]:
    task = asyncio.create_task(session.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

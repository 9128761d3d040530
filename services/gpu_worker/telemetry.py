"""The worker's metrics, and its spans but for the swap's, which are lease.py's. Prompts never enter them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.util.types import AttributeValue

from looksmith.nouns import Tier
from services.chassis.painting_events import ImageBlocked
from services.gpu_worker.clock import seconds
from services.gpu_worker.engine.protocol import Stage, StageDone
from services.gpu_worker.painter import Bound, Painter
from services.gpu_worker.tiers import AdapterTiers

tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)

swap_seconds = meter.create_histogram(
    "looksmith_worker_swap", unit="s", description="Time due to adapters, by tier and by whether it was waited for."
)
wait_seconds = meter.create_histogram("looksmith_worker_wait", unit="s", description="Time jobs waited for their turn.")
denoise_seconds = meter.create_histogram("looksmith_worker_denoise", unit="s", description="Denoising of one image.")
images_painted = meter.create_counter("looksmith_worker_images", description="Images painted and sent, by brand.")
images_blocked = meter.create_counter(
    "looksmith_worker_images_blocked", description="Images painted and withheld, by recipe and reason."
)
gpu_seconds = meter.create_counter(
    "looksmith_worker_gpu_seconds", unit="s", description="Seconds of the device, by brand."
)


def span(name: str, start_ns: int, end_ns: int, attributes: Mapping[str, AttributeValue] | None = None) -> None:
    """Records what ran from ``start_ns`` to ``end_ns`` under the current span."""
    tracer.start_span(name, start_time=start_ns, attributes=attributes).end(max(start_ns, end_ns))


def record_bound(bound: Bound) -> None:
    """The wait of a job, which every job has, however short, and the metrics of its swap."""
    swap = bound.swap
    tier = swap.tier.name.lower() if swap.tier else "none"
    span("wait", bound.wait_start_ns, bound.wait_end_ns)
    wait_seconds.record(seconds(bound.wait_start_ns, bound.wait_end_ns))
    swap_seconds.record(swap.visible_s, {"tier": tier, "kind": "visible"})
    swap_seconds.record(swap.hidden_s, {"tier": tier, "kind": "hidden"})


def record_stage(done: StageDone) -> None:
    if done.stage is Stage.DENOISE:
        span(
            done.stage.value,
            done.start_ns,
            done.end_ns,
            {"looksmith.steps": done.steps, "looksmith.batch": done.batch},
        )
        denoise_seconds.record(seconds(done.start_ns, done.end_ns))
    else:
        span(done.stage.value, done.start_ns, done.end_ns)


def record_blocked(blocked: ImageBlocked, *, recipe: str) -> None:
    images_blocked.add(1, {"recipe": recipe, "reason": blocked.reason})
    trace.get_current_span().add_event(
        "image.blocked", {"looksmith.image": blocked.image, "looksmith.reason": blocked.reason}
    )


def observe(painter: Painter, tiers: AdapterTiers) -> None:
    """Gauges that read the worker whenever metrics are collected."""

    def residency(_: CallbackOptions) -> Iterable[Observation]:
        here = Counter(tiers.residency().values())
        return [Observation(here[tier], {"tier": tier.name.lower()}) for tier in Tier if tier is not Tier.STORE]

    def slots(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(tiers.slots_used, {"state": "used"}),
            Observation(tiers.slots - tiers.slots_used, {"state": "free"}),
        ]

    def queued(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(painter.queued_jobs)]

    meter.create_observable_gauge(
        "looksmith_worker_adapters", [residency], description="Adapters here, by their fastest tier."
    )
    meter.create_observable_gauge("looksmith_worker_slots", [slots], description="Slots of the device.")
    meter.create_observable_gauge("looksmith_worker_queue", [queued], description="Jobs waiting.")

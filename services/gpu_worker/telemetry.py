"""The worker's spans and metrics. Spans are made from times that are over; prompts never enter them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.util.types import AttributeValue

from looksmith.nouns import Tier
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
images_painted = meter.create_counter("looksmith_worker_images", description="Images painted, by brand.")
gpu_seconds = meter.create_counter(
    "looksmith_worker_gpu_seconds", unit="s", description="Seconds of the device, by brand."
)


def span(
    name: str,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    parent: otel_context.Context | None = None,
) -> otel_context.Context:
    """Records what ran from ``start_ns`` to ``end_ns`` under the current span, or ``parent``; returns its context."""
    made = tracer.start_span(name, context=parent, start_time=start_ns, attributes=attributes)
    made.end(max(start_ns, end_ns))
    return trace.set_span_in_context(made, parent)


def record_bound(bound: Bound) -> None:
    """The wait and the swap of a job, which every job has, however short."""
    swap = bound.swap
    tier = swap.tier.name.lower() if swap.tier else "none"
    span("wait", bound.wait_start_ns, bound.wait_end_ns)
    under = span(
        "adapter.swap",
        swap.start_ns,
        swap.end_ns,
        {
            "looksmith.tier": tier,
            "looksmith.bytes": swap.fetched_bytes,
            "looksmith.visible_s": swap.visible_s,
            "looksmith.hidden_s": swap.hidden_s,
        },
    )
    for stage in swap.stages:
        span(stage.stage.value, stage.start_ns, stage.end_ns, parent=under)
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

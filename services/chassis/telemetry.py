"""Where logs, traces and metrics of a process go. Reads the standard OTEL_* variables; knows no service.

Without an OTLP endpoint in the environment, spans are made but not exported.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import structlog
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, start_http_server
from structlog.tracebacks import ExceptionDictTransformer

from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

#: Seconds: from a swap of a resident adapter to a request's whole patience.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)


def configure_logging(settings: ServiceSettings) -> None:
    """Events with fields on standard error, each with the trace it belongs to."""
    pretty = settings.log_format == "pretty"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            # Without local variables, which hold prompts
            *([] if pretty else [structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))]),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if pretty
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _add_trace(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
    return event


@contextmanager
def telemetry(service: str, instance: str, settings: ServiceSettings, environ: Mapping[str, str]) -> Iterator[None]:
    """Sets up logs, traces and metrics for the life of the process; flushes what is left on the way out."""
    configure_logging(settings)
    resource = Resource.create({SERVICE_NAME: f"looksmith-{service}", SERVICE_INSTANCE_ID: instance})
    tracers = TracerProvider(resource=resource)
    if any(environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_")):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # slow

        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracers)
    registry = CollectorRegistry()
    meters = MeterProvider(
        metric_readers=[PrometheusMetricReader(registry=registry)],
        views=[View(instrument_type=Histogram, aggregation=ExplicitBucketHistogramAggregation(BUCKETS))],
        resource=resource,
    )
    metrics.set_meter_provider(meters)
    with ExitStack() as stack:
        stack.callback(tracers.shutdown)
        stack.callback(meters.shutdown)
        if settings.metrics_port is not None:
            server, thread = start_http_server(settings.metrics_port, settings.host, registry)
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            log.info("metrics.serving", address=f"{settings.host}:{server.server_port}")
        yield

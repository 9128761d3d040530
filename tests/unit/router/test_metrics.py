import asyncio
from contextlib import nullcontext

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from services.router import metrics
from services.router.errors import NoWorker


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    monkeypatch.setattr(metrics, "requests", meter.create_counter("requests"))
    monkeypatch.setattr(metrics, "end_to_end", meter.create_histogram("end_to_end"))
    return reader


@pytest.mark.parametrize(
    ("raised", "outcome", "reason"),
    [
        (None, "OK", ""),
        (NoWorker("none"), "UNAVAILABLE", "NO_WORKER"),
        (asyncio.CancelledError(), "CANCELLED", ""),
        (GeneratorExit(), "CANCELLED", ""),
        (KeyError("a bug"), "INTERNAL", "INTERNAL"),
    ],
)
def test_request_is_counted_once_by_how_it_ended(
    reader: InMemoryMetricReader, raised: BaseException | None, outcome: str, reason: str
) -> None:
    with nullcontext() if raised is None else pytest.raises(type(raised)), metrics.request_counted():
        if raised:
            raise raised
    data = reader.get_metrics_data()
    assert data
    points = {m.name: m.data.data_points[0] for m in data.resource_metrics[0].scope_metrics[0].metrics}
    count, seconds = points["requests"], points["end_to_end"]
    assert isinstance(count, NumberDataPoint) and isinstance(seconds, HistogramDataPoint)
    assert (count.value, dict(count.attributes or {})) == (1, {"outcome": outcome, "reason": reason})
    assert (seconds.count, dict(seconds.attributes or {})) == (1, {"outcome": outcome})

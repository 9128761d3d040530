"""docs/metrics.md against the code: every instrument and every span, with unit and type, and nothing else."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from services.gpu_worker.engine.protocol import Stage
from tests.unit.deploy.metrics_page import PAGE, documented_metrics, documented_spans

SERVICES = Path(__file__).parents[3] / "services"
UNITS = {"s": "seconds", "By": "bytes"}


@functools.cache
def sources() -> tuple[str, ...]:
    """The text of every module but those that are generated."""
    paths = (path for path in SERVICES.rglob("*.py") if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")))
    return tuple(path.read_text() for path in paths)


@functools.cache
def nodes() -> tuple[ast.AST, ...]:
    """All that the modules consist of, as far as they have to do with metrics or spans."""
    telling = (source for source in sources() if "meter" in source or "span" in source)
    return tuple(node for source in telling for node in ast.walk(ast.parse(source)))


def calls() -> Iterator[ast.Call]:
    yield from (node for node in nodes() if isinstance(node, ast.Call))


def text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def exposed(kind: str, name: str, unit: str, registry: CollectorRegistry, meter: Meter) -> str:
    """The name that /metrics has for an instrument, and its type, by the exporter that servers use."""

    def one(_: CallbackOptions) -> list[Observation]:
        return [Observation(1)]

    match kind:
        case "create_counter":
            meter.create_counter(name, unit=unit).add(1)
        case "create_histogram":
            meter.create_histogram(name, unit=unit).record(1)
        case "create_gauge":
            meter.create_gauge(name, unit=unit).set(1)
        case "create_observable_gauge":
            meter.create_observable_gauge(name, [one], unit=unit)
        case _:
            raise AssertionError(f"the test does not know {kind}")
    (family,) = (each for each in registry.collect() if each.name != "target")
    return f"{family.name}_total" if family.type == "counter" else family.name


def instruments() -> dict[str, tuple[str, str]]:
    """By the name that Prometheus sees: type, and unit if it has one."""
    found = {}
    for node in calls():
        if (kind := called(node)).startswith("create_") and (name := text(node.args[0] if node.args else None)):
            if not name.startswith("looksmith_"):
                continue
            unit = next((text(each.value) for each in node.keywords if each.arg == "unit"), "")
            registry = CollectorRegistry()
            provider = MeterProvider([PrometheusMetricReader(registry=registry)])
            shown = exposed(kind, name, unit, registry, provider.get_meter("test"))
            provider.shutdown()
            found[shown] = (kind.rpartition("_")[2], UNITS.get(unit, unit))
    return found


def spans() -> set[str]:
    found = {stage.value for stage in Stage}
    for node in calls():
        if called(node) in {"start_as_current_span", "start_span", "span"} and node.args:
            found.add(text(node.args[0]))
        found |= {text(each.value) for each in node.keywords if each.arg == "span_name"}
    for each in nodes():
        match each:
            case ast.AnnAssign(target=ast.Name(id="span_name"), value=default):
                found.add(text(default))
            case ast.Assign(targets=[ast.Name(id="span_names" | "SPAN_NAMES")], value=ast.Dict(values=better)):
                found |= set(map(text, better))
            case ast.keyword(arg="span_names", value=ast.Dict(values=better)):
                found |= set(map(text, better))
    return found - {""}


def test_every_instrument_is_on_the_page_and_nothing_else() -> None:
    page, code = documented_metrics(), instruments()
    assert set(page) == set(code)
    for name, (kind, unit) in code.items():
        assert page[name].kind == kind, name
        assert page[name].unit == unit or not unit, name
        assert page[name].unit, name


def test_every_span_is_on_the_page_and_nothing_else() -> None:
    assert documented_spans() == spans()


def test_every_attribute_of_a_span_is_on_the_page() -> None:
    """What is written like one, in the code, and is neither a span's name nor a package's; metrics have no dots."""
    attributes = {each for source in sources() for each in re.findall(r'"(looksmith\.[a-z_]+(?:\.[a-z_]+)?)"', source)}
    page = PAGE.read_text()
    assert attributes - spans()
    assert {each for each in attributes if f"`{each}`" not in page and find_spec(each) is None} == set()

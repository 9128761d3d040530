"""The shipped dashboards and alerts, asked of a real Prometheus that has seen a real system under load."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
import yaml

from services.registry.seaweedfs import RunningStore
from tests.integration.observability.scraped_system import (
    RATE_INTERVAL,
    SHIPPED,
    WORKERS,
    Prometheus,
    needed_tool,
    scraped_system,
)
from tests.unit.deploy.metrics_page import documented_metrics

pytestmark = [pytest.mark.integration, pytest.mark.slow]


OF_EVERY_SERIES = {"__name__", "job", "instance", "le"}


@dataclass(frozen=True)
class Query:
    """One query of one panel. ``legend`` names labels that the answer must have."""

    panel: str
    expression: str
    legend: str

    @property
    def runnable(self) -> str:
        """As Grafana would send it, with intervals that suit some seconds of data."""
        given = {"$__rate_interval": RATE_INTERVAL, "$__range": RATE_INTERVAL, "$brand": ".*"}
        text = self.expression
        for name, value in given.items():
            text = text.replace(name, value)
        assert "$" not in text, f"a variable that the test does not know: {text}"
        return text


def queries() -> Iterator[Query]:
    for file in sorted((SHIPPED / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                name = f"{file.stem}: {panel['title']} {target['refId']}"
                yield Query(name, target["expr"], target["legendFormat"])


def alerts() -> dict[str, str]:
    groups = yaml.safe_load((SHIPPED / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(weed: RunningStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    needed_tool()
    async with scraped_system(weed, tmp_path_factory.mktemp("scraped")) as running:
        yield running


def test_every_server_is_scraped(prometheus: Prometheus) -> None:
    found = prometheus.query("sum by (job) (up)")
    assert {labels["job"]: value for labels, value in found} == {"registry": 1, "router": 1, "gpu-worker": len(WORKERS)}


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.panel)
def test_a_panel_has_data_under_load(prometheus: Prometheus, query: Query) -> None:
    found = prometheus.most_under_load(query.runnable)
    assert found, "no series had a value"
    assert any(value > 0 for _, value in found), found
    for label in re.findall(r"{{(\w+)}}", query.legend):
        assert all(label in labels for labels, _ in found), f"the legend names {label}: {found}"


@pytest.mark.parametrize("name", list(alerts()))
def test_what_an_alert_looks_at_is_there(prometheus: Prometheus, name: str) -> None:
    """Each metric that it names, with each label; that it fires when it should is promtool's test."""
    selectors = re.findall(r"\b(looksmith_\w+|up)\b({[^}]*})?", alerts()[name])
    assert selectors
    for metric, matchers in selectors:
        labels = re.findall(r'(\w+)[=!]~?"', matchers)
        present = "".join(f'{label}!="",' for label in labels)
        assert prometheus.most_under_load(f"count({metric}{{{present}}})"), (metric, labels)


def test_metrics_have_the_labels_that_their_page_says(prometheus: Prometheus) -> None:
    """Those that this load makes; which there are at all is held against the code elsewhere."""
    seen: dict[str, set[str]] = {}
    page = documented_metrics()
    for labels, _ in prometheus.query('{__name__=~"looksmith_.+"}'):
        name = labels["__name__"]
        own = {label for label in labels if label not in OF_EVERY_SERIES and not label.startswith("otel_scope_")}
        if page.get(family := re.sub("_(bucket|sum|count)$", "", name)):
            name = family
        seen.setdefault(name, set()).update(own)
    assert {name: set(page[name].labels) for name in seen} == seen
    assert len(seen) > len(page) / 2


def test_every_rule_was_evaluated_and_a_system_that_is_well_raises_no_alert(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alerts(), "ok")
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_no_device_is_counted_as_busier_than_all_the_time(prometheus: Prometheus) -> None:
    busy = prometheus.most_under_load(f"sum by (instance) (rate(looksmith_worker_gpu_seconds_total[{RATE_INTERVAL}]))")
    assert all(0 < share <= 1.1 for _, share in busy), busy  # rates are extrapolated a little

"""Alerts, dashboards and runbooks: rules that fire when they should, and pages that lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
import yaml

from looksmith import errors
from looksmith.cli.app import app
from tests.unit.deploy.metrics_page import documented_metrics

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "deploy" / "observability"
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
DASHBOARDS = sorted((SHIPPED / "dashboards").glob("*.json"))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((SHIPPED / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            yield f"{file.stem}: {panel['title']}", panel


def promtool(*arguments: str) -> None:
    """Runs it in the folder of the rules; skips where it is not installed, but not in CI."""
    if not shutil.which("promtool"):
        why = "needs promtool (Debian's package prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    done = subprocess.run(["promtool", *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_would_read_its_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_when_they_should_and_not_when_all_is_well() -> None:
    promtool("test", "rules", "alerts.test.yaml")


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((SHIPPED / "alerts.test.yaml").read_text())["tests"]
    expected = [(each["alertname"], bool(each["exp_alerts"])) for test in tests for each in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {name for name, fires in expected if fires} == names
    assert {name for name, fires in expected if not fires} == names


def test_every_alert_has_a_page_that_names_it_and_every_page_has_an_alert() -> None:
    pages = {}
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        page = ROOT / rule["annotations"]["runbook_url"]
        assert page.read_text().splitlines()[0].endswith(f": {rule['alert']}")
        pages[page] = rule["alert"]
    assert sorted(pages) == RUNBOOKS


def test_labels_that_queries_ask_for_have_values_that_there_are() -> None:
    """A misspelt reason or outcome would never match, and nobody would notice."""
    known_reasons = {reason for path in (ROOT / "services").rglob("errors.py") for reason in reasons_in(path)}
    known_reasons |= reasons_in(Path(errors.__file__))
    codes = {code.name for code in grpc.StatusCode}
    attempts = {"finished", "failed", "refused", "superseded", "cancelled"}
    asked = [rule["expr"] for rule in rules()]
    asked += [target["expr"] for _, panel in panels() for target in panel["targets"]]
    seen = set()
    for expression in asked:
        for metric, matchers in re.findall(r"\b(looksmith_\w+){([^}]*)}", expression):
            for label, values in re.findall(r'(\w+)[=!]~?"([^"]+)"', matchers):
                known = {
                    "reason": known_reasons,
                    "status": codes,
                    "outcome": attempts if "attempts" in metric else codes,
                    "kind": {"visible", "hidden"},
                    "job": {"registry", "router", "gpu-worker"},
                    "method": {"ResolveAdapter", "DownloadAdapter"},
                    "brand": {"$brand"},
                }[label]
                assert set(values.split("|")) <= known, (metric, label, values)
                seen.add(label)
    assert {"reason", "status", "outcome", "kind"} <= seen


def reasons_in(path: Path) -> set[str]:
    return set(re.findall(r'reason = "([A-Z_]+)"', path.read_text()))


@pytest.mark.parametrize(("name", "panel"), list(panels()), ids=[name for name, _ in panels()])
def test_a_panel_says_what_it_shows_in_what_unit_and_no_mean_alone(name: str, panel: dict[str, Any]) -> None:
    assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "prometheus"
    for target in panel["targets"]:
        for metric in re.findall(r"\blooksmith_\w+", target["expr"]):
            assert re.sub("_(bucket|sum|count)$", "", metric) in documented_metrics(), metric
        assert not re.search(r"_sum\b.*/.*_count\b", target["expr"]), "a mean hides what one request in twenty waits"
    if "histogram_quantile" in panel["targets"][0]["expr"]:
        assert any("0.95" in target["expr"] for target in panel["targets"])


def test_dashboards_are_few_and_their_panels_lie_side_by_side() -> None:
    assert len(DASHBOARDS) == 4
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        assert len(board["panels"]) <= 8
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken and at["x"] + at["w"] <= 24
            taken |= cells


def test_grafana_and_kustomize_are_given_every_file() -> None:
    maps = yaml.safe_load((SHIPPED / "kustomization.yaml").read_text())["configMapGenerator"]
    given = {name for each in maps for name in each["files"]}
    there = {str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.suffix in {".json", ".yaml", ".yml"}}
    assert given == there - {"kustomization.yaml", "alerts.test.yaml"}


def test_the_collector_carries_traces_and_nothing_else() -> None:
    config = yaml.safe_load((SHIPPED / "collector.yaml").read_text())
    (pipeline,) = config["service"]["pipelines"].items()
    assert pipeline[0] == "traces"
    for part in ("receivers", "processors", "exporters"):
        assert set(pipeline[1][part]) == set(config[part])
    assert set(config["service"]["extensions"]) == set(config["extensions"])


def commands() -> dict[str, set[str]]:
    """Every command of `looksmith` by its words, with its options."""
    found = {}

    def walk(command: object, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        found[" ".join(words)] = {
            option for each in getattr(command, "params", ()) for option in getattr(each, "opts", ())
        }

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("page", [*RUNBOOKS, ROOT / "docs" / "deploy.md"], ids=lambda page: page.stem)
def test_a_page_leads_to_commands_files_and_headings_that_there_are(page: Path) -> None:
    text, known = page.read_text(), commands()
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    lines = re.findall(r"^looksmith ([^\n#|]+)", blocks, flags=re.MULTILINE) + re.findall(r"`looksmith ([^`]+)`", text)
    for line in lines:
        words = line.split()
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
        assert name is not None, f"there is no such command: looksmith {line}"
        for option in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert option in known[name], f"looksmith {name} has no {option}"
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith("http"):
            assert target.exists(), link
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in slugs, link


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_means_where_to_look_and_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert text.index("**Look here**") < text.index("**Do this**")
    code = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    for event in re.findall(r"\b((?:store|session|call)\.[a-z_]+)\b", text):
        assert f'"{event}"' in code, f"nothing logs {event}"
    for setting in re.findall(r"\b(?:REGISTRY|ROUTER|WORKER)_[A-Z_]+\b", text):
        assert setting in (ROOT / "docs" / "configuration.md").read_text() or f'"{setting}"' in code, setting

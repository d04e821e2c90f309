"""The dashboard and the alerting rules: Grafana's own schema, Prometheus' own parser, and metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
PROMTOOL = shutil.which("promtool")
METRICS = Path(__file__).parents[2] / "edgesparse" / "service" / "web" / "metrics.py"


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return content


def expressions() -> list[str]:
    """Every expression of the dashboard, with its variables replaced."""
    texts = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(job|instance|camera)", ".*", text) for text in texts]


def rules() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def unknown(content: Any, known: Any, where: str = "") -> list[str]:
    """Parts of the content that Grafana's schema has dropped."""
    if isinstance(content, dict):
        return [
            fault
            for key, value in content.items()
            for fault in (unknown(value, known[key], f"{where}/{key}") if key in known else [f"{where}/{key}"])
        ]
    if isinstance(content, list):
        pairs = zip(content, known, strict=True)
        return [fault for i, (a, b) in enumerate(pairs) for fault in unknown(a, b, f"{where}/{i}")]
    return [] if content == known else [where]


@pytest.mark.grafana
def test_the_dashboard_has_nothing_that_grafana_s_schema_does_not_know() -> None:
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    model = pytest.importorskip("grafana_foundation_sdk.models.dashboard").Dashboard

    def read_back(content: dict[str, Any]) -> Any:
        return json.loads(encoder.JSONEncoder().encode(model.from_json(content)))

    content = dashboard()
    assert unknown(content, read_back(content)) == []
    assert unknown({"panls": []}, read_back({"panls": []})) == ["/panls"]
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(numbers) == len(set(numbers))
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in content["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap or stick out"


def test_every_metric_that_is_shown_or_alerted_on_exists() -> None:
    text = METRICS.read_text()
    endings = r"_(total|bucket|sum|count)$"
    for expression in (*expressions(), *rules()):
        for name in re.findall(r"edgesparse_(\w+)", expression):
            assert f'"{re.sub(endings, "", name)}"' in text or f'"edgesparse_{re.sub(endings, "", name)}"' in text, name


@pytest.mark.promtool
@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt install prometheus")
def test_prometheus_reads_every_expression_and_the_alerts_fire(tmp_path: Path) -> None:
    checked = tmp_path / "dashboard.yaml"
    records = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(expressions())]
    checked.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    for command in (("check", "rules", str(checked), "alerts.yaml"), ("test", "rules", "alerts_test.yaml")):
        done = subprocess.run([str(PROMTOOL), *command], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

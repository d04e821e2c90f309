"""From keys to a device that runs a bundle, by the verbs and with ONNX Runtime: all of it for real but the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import squares
import yaml
from commands import Command

from edgesparse.build.ready import open_detector
from edgesparse.package.store import open_package


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    squares.detector(tmp_path / "squares.onnx")
    labels = tmp_path / "labels"
    labels.mkdir()
    squares.labelled(labels)
    said = {
        "model": "squares.onnx",
        "head": "yolov8",
        "build": {"backend": "onnxruntime"},
        "accept": {"annotations": "labels/instances_val.json", "min_map": 50},
        "calibrate": {"pictures": "labels", "count": 2},
        "deploy": {"count": 3, "max_latency_ms": 10_000},
    }
    path = tmp_path / "squares.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def test_from_keys_to_a_device_and_back(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    assert edgesparse("keys", "new", "factory", "--days", "10").code == 0
    (tmp_path / "factory.pub").rename(tmp_path / "trusted" / "factory.pub")
    for version in ("1.0", "1.1"):
        made = edgesparse("bundle", recipe, "-o", f"{version}.esb", "--key", "factory.key", "--version", version)
        assert made.code == 0 and f"squares {version}" in made.out, made.err

    device = ("--root", "device", "--restart", "", "--json")
    deploy = ("--trusted", "trusted", *device)
    assert edgesparse("deploy", "1.0.esb", "--check", *deploy).json["result"] == "would deploy"
    assert edgesparse("status", "--root", "device", "--json").json["running"] is None
    first = edgesparse("deploy", "1.0.esb", *deploy)
    assert first.code == 0 and first.json["changed"] and first.json["slot"] == "a", first.err
    again = edgesparse("deploy", "1.0.esb", *deploy)
    assert again.code == 0 and not again.json["changed"] and again.json["result"] == "nothing to do"
    second = edgesparse("deploy", "1.1.esb", *deploy)
    assert second.code == 0 and second.json["slot"] == "b"
    back = edgesparse("rollback", *device)
    assert back.code == 0 and back.json["version"] == "1.0"

    status = edgesparse("status", "--root", "device", "--json").json
    assert status["running"]["version"] == "1.0" and status["other"]["version"] == "1.1"
    assert [line["result"] for line in status["history"]] == ["deployed", "deployed", "rolled back"]
    refused = edgesparse("deploy", "1.0.esb", "--trusted", "elsewhere", *device)
    assert refused.code == 1 and json.loads(refused.out)["result"] == "refused" and "no trusted key" in refused.err
    with open_detector(open_package(tmp_path / "device" / "current" / "package")) as detector:
        assert len(detector(squares.picture([(1, 2, 0), (5, 5, 1)]))) == 2

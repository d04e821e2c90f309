"""From keys to a device running a bundle, on ONNX Runtime: everything is real except the service."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bundles
import pytest
import squares
import yaml
from commands import Command

from edgesparse.builder.targets import open_detector
from edgesparse.package.store import open_package


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    squares.detector(tmp_path / "squares.onnx")
    labels = tmp_path / "labels"
    labels.mkdir()
    squares.coco_annotations(labels)
    settings = {
        "model": "squares.onnx",
        "head": "yolov8",
        "build": {"backend": "onnxruntime"},
        "accept": {"annotations": "labels/instances_val.json", "min_map": 50},
        "calibrate": {"images": "labels", "count": 2},
        "deploy": {"count": 3, "max_latency_ms": 10_000},
    }
    path = tmp_path / "squares.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_from_keys_to_a_device_and_back(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    assert edgesparse("keys", "new", "factory", "--days", "10").code == 0
    (tmp_path / "factory.pub").rename(tmp_path / "trusted" / "factory.pub")
    for version in ("1.0", "1.1"):
        bundle = edgesparse("bundle", recipe, "-o", f"{version}.esb", "--key", "factory.key", "--version", version)
        assert bundle.code == 0 and f"squares {version}" in bundle.out, bundle.err

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
    assert "building" in first.err and "building" not in second.err  # nothing that the engine depends on has changed
    back = edgesparse("rollback", *device)
    assert back.code == 0 and back.json["version"] == "1.0"

    status = edgesparse("status", "--root", "device", "--json").json
    assert status["running"]["version"] == "1.0" and status["other"]["version"] == "1.1"
    assert [line["result"] for line in status["history"]] == ["deployed", "deployed", "rolled back"]
    refused = edgesparse("deploy", "1.0.esb", "--trusted", "elsewhere", *device)
    assert refused.code == 1 and json.loads(refused.out)["result"] == "refused" and "no trusted key" in refused.err
    with open_detector(open_package(tmp_path / "device" / "current" / "package")) as detector:
        assert len(detector(squares.image([(1, 2, 0), (5, 5, 1)]))) == 2


def test_keys_are_created_listed_and_rotated(edgesparse: Command, tmp_path: Path) -> None:
    assert (
        "wrote factory.key and factory.pub, valid until 20" in edgesparse("keys", "new", "factory", "--days", "9").err
    )
    assert edgesparse("keys", "public", "factory.key").out == (tmp_path / "factory.pub").read_text()
    assert edgesparse("keys", "new", "factory").message.startswith("factory.key exists")
    done = edgesparse("keys", "rotate", "factory.key", "next", "-o", "both", "--overlap", "3")
    assert done.code == 0 and "next: put both into /etc/edgesparse/trusted" in done.err
    shown = edgesparse("keys", "show", "both", "--json").json["keys"]
    assert [key["name"] for key in shown] == ["factory", "next"] and shown[0]["expires"] and not shown[1]["expires"]
    assert "never expires" in edgesparse("keys", "show", "both").out
    (tmp_path / "factory.key").chmod(0o644)
    refused = edgesparse("keys", "public", "factory.key")
    assert refused.code == 1 and refused.message.endswith("needed 600: run 'chmod 600 factory.key'")


def test_wrong_use_is_refused_and_writes_nothing(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    edgesparse("keys", "new", "factory")
    for arguments in (("deploy",), ("deploy", "x.esb", "--recover"), ("bundle", recipe), ("rollback", "now")):
        assert edgesparse(*arguments).code == 2
    before = sorted(tmp_path.iterdir())
    assert "cannot read the key other.key" in edgesparse("bundle", recipe, "-o", "x.esb", "--key", "other.key").message
    (tmp_path / "taken.esb").write_text("mine")
    taken = edgesparse("bundle", recipe, "-o", "taken.esb", "--key", "factory.key")
    assert taken.code == 2 and "pass --force" in taken.message and (tmp_path / "taken.esb").read_text() == "mine"
    (tmp_path / "taken.esb").unlink()
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "factory.pub").write_bytes((tmp_path / "factory.pub").read_bytes())
    device = ("--trusted", "trusted", "--root", "device", "--restart", "")
    assert (
        edgesparse("deploy", "none.esb", *device).message
        == "cannot read the bundle none.esb: No such file or directory"
    )
    assert edgesparse("deploy", recipe, *device).message.endswith(
        "is not a bundle: create one with 'edgesparse bundle'"
    )
    good = bundles.signed(tmp_path / "good.esb", tmp_path / "factory.key")
    bad = good.with_name("bad.esb")
    bad.write_bytes(good.read_bytes().replace(b"xxxx", b"yyyy"))
    assert "model/model.onnx is not what was signed" in edgesparse("deploy", bad, *device).message
    assert bundles.tree(tmp_path / "device") == {}
    for path in (good, bad, tmp_path / "device"):
        path.rmdir() if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "good.contents")
    lacking = edgesparse("deploy", recipe, "--trusted", "trusted", "--root", "device", "--restart", "none-such now")
    assert lacking.code == 3 and "no command 'none-such' here" in lacking.message
    assert edgesparse("deploy", "--recover", "--root", "device", "--json").json["result"] == "nothing to do"
    (tmp_path / "trusted" / "factory.pub").unlink()
    (tmp_path / "trusted").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_a_repository_for_triton(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    done = edgesparse("export", "triton", tmp_path / "squares.onnx", "-o", "repository")
    assert done.code == 0 and "next: tritonserver --model-repository=" in done.out
    assert (tmp_path / "repository" / "squares" / "config.pbtxt").is_file()
    assert "exists" in edgesparse("export", "triton", tmp_path / "squares.onnx", "-o", "repository").message

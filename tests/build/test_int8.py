"""INT8 in every form from one look at the pictures, and from none the second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesparse.build import int8
from edgesparse.build.int8 import hash_of, quantise, write_pictures
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import ConfigError
from edgesparse.graph import calibration_cache, sparsity
from edgesparse.graph import model as graph

LOOK = InputSpec(size=(64, 64))


@pytest.fixture
def job(sparse_model: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path / "state"))
    spec = DetectorSpec(head="yolov8", classes=("red", "green"), input=LOOK)
    wanted = {"pictures": str(labels.parent), "count": 4}
    (tmp_path / "work").mkdir()
    said = {"onnx": str(sparse_model), "folder": str(tmp_path / "work"), "calibrate": wanted, "batch": 1}
    return {**said, "spec": spec.model_dump_json()}


def quiet(step: str, done: int, total: int) -> None:
    """Nothing is shown."""


def test_every_form_is_written_and_2to4_stays(job: dict[str, Any]) -> None:
    said = quantise(job, quiet)
    models = {name: graph.load(Path(said[name])) for name in ("fuse", "sparse", "grid")}
    pairs = {name: sum(node.op_type == "QuantizeLinear" for node in m.graph.node) for name, m in models.items()}
    assert pairs["grid"] == 0 < pairs["fuse"] and pairs["sparse"] > 0
    for model in models.values():
        states = {layer.name: layer.state for layer in sparsity.inspect(model).layers}
        assert (states["conv1"], states["conv2"]) == ("sparse", "sparse")
    table = calibration_cache.read(Path(said["table"]).read_bytes())
    assert {"wide0", "wide1", "wide2"} <= set(table.scales)
    assert "output0" not in table.scales
    assert said["notes"][0].startswith("INT8: 4 pictures; ")


def test_it_is_made_once_on_a_device_unless_something_changes(
    job: dict[str, Any], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantise(job, quiet)
    files = {name: Path(first[name]).read_bytes() for name in ("fuse", "sparse", "grid", "table")}

    def again(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patched:
        patched.setattr(int8, "recover", again)
        second = quantise(job, quiet)
        assert {name: Path(second[name]).read_bytes() for name in files} == files
        assert second["notes"] == first["notes"]
        with pytest.raises(AssertionError, match="made again"):
            quantise({**job, "calibrate": {**job["calibrate"], "count": 3}}, quiet)
        (kept,) = (tmp_path / "state/int8").iterdir()
        (kept / "weight_scales.npz").write_bytes(b"damaged")
        with pytest.raises(AssertionError, match="made again"):
            quantise(job, quiet)
    quantise(job, quiet)
    assert [path.name for path in (tmp_path / "state/int8").iterdir()] == [kept.name]


def test_pictures_for_tensorrt_are_what_the_network_takes(labels: Path, tmp_path: Path) -> None:
    files = sorted(labels.parent.glob("*.png"))
    write_pictures(tmp_path / "p.npy", files, LOOK)
    rows = np.load(tmp_path / "p.npy")
    assert rows.shape == (4, 3, 64, 64) and rows.dtype == np.float32
    assert rows.min() >= 0 and rows.max() == 1.0


def test_pictures_are_known_by_what_they_hold(labels: Path) -> None:
    before = hash_of(labels.parent)
    (labels.parent / "3.png").rename(labels.parent / "9.png")
    assert hash_of(labels.parent) == before
    (labels.parent / "9.png").unlink()
    assert hash_of(labels.parent) != before
    for path in labels.parent.glob("*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match="no pictures in"):
        hash_of(labels.parent)

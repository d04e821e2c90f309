"""No gate passes with a reference that does not score, and the error names what does not match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import squares

from benchmarks.orin_slice import networks
from edgesparse.builder.build import build
from edgesparse.compress.maps import cut, set_head
from edgesparse.config import parse
from edgesparse.errors import AccuracyGateFailed

pytestmark = pytest.mark.usefixtures("quick")
HIDDEN = {"mean": [0, 0, -2]}
"""An input under which the detector of squares finds nothing."""


def make(model: Path, accept: dict[str, Any], **settings: Any) -> None:
    fields = {"model": str(model), "build": {"backend": "onnxruntime"}, "accept": accept, **settings}
    build(parse(fields, "recipe"), model.parent / "engines")


@pytest.mark.parametrize(
    ("settings", "shift", "message"),
    [
        ({"input": HIDDEN}, 0, r"it finds nothing on 4 images \(highest confidence 0.00\): check the recipe's head"),
        ({"classes": ["green", "red"]}, 0, r"its boxes match the labels' when classes are ignored \(mAP50 \d+\)"),
        ({}, 4.0, r"none of its 24 confident boxes is where the labels have one"),
    ],
    ids=["input", "order of the names", "other images"],
)
def test_a_reference_that_does_not_score_is_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, Any], shift: float, message: str
) -> None:
    labels = squares.coco_annotations(tmp_path)
    model = squares.detector(tmp_path / "squares.onnx", shift=shift)
    with pytest.raises(AccuracyGateFailed, match=rf"^the reference itself scores 0.0 mAP on .*, needed 1 .*{message}"):
        make(model, {"annotations": str(labels), "max_map_drop": 1}, **settings)
    assert [path.name for path in (tmp_path / "engines/squares").iterdir()] == [".lock"]


def test_a_ruined_detector_with_a_good_reference_is_refused(tmp_path: Path) -> None:
    labels = squares.coco_annotations(tmp_path)
    good = squares.detector(tmp_path / "good.onnx")
    ruined = squares.detector(tmp_path / "squares.onnx", shift=1000.0)
    with pytest.raises(AccuracyGateFailed, match=r"found 0.0 mAP, 100.0 under the reference's 100.0"):
        make(ruined, {"annotations": str(labels), "reference": str(good), "max_map_drop": 1})


def test_a_reference_that_decodes_its_boxes_is_read_by_its_own_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `slim` the model has maps, and the original that it is compared with has boxes."""
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.125, 256))
    original, network = tmp_path / "original.onnx", networks.yolov8("tiny", "relu", 64, 3)
    onnx.save(network, str(original))
    slimmed = cut(network)
    set_head(slimmed, "yolov8-maps")
    onnx.save(slimmed, str(tmp_path / "slim.onnx"))
    squares.coco_annotations(tmp_path)
    accept = {"images": str(tmp_path), "reference": str(original)}
    make(tmp_path / "slim.onnx", accept, run={"conf": 0.001})
    assert (tmp_path / "engines/slim/current").exists()


def test_a_reference_that_detects_nothing_is_refused_without_labels_too(tmp_path: Path) -> None:
    squares.coco_annotations(tmp_path)
    model = squares.detector(tmp_path / "squares.onnx")
    with pytest.raises(AccuracyGateFailed, match="the reference itself detects nothing on the images in"):
        make(model, {"images": str(tmp_path)}, input=HIDDEN)

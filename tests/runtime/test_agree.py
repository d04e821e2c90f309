"""Detections of two detectors compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import squares
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesparse.backends.onnxruntime import OnnxRuntimeBackend
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import ConfigError
from edgesparse.runtime.agree import agreement, compare
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Of (x1, y1, x2, y2, confidence, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def test_boxes_are_paired_by_class_and_overlap() -> None:
    reference = found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (50, 50, 60, 60, 0.7, 1))
    candidate = found((0, 0, 10, 10, 0.8, 0), (20, 20, 30, 35, 0.5, 0), (50, 50, 60, 60, 0.7, 2), (0, 0, 4, 4, 0.3, 0))
    said = agreement([(reference, candidate), (found(), found())])
    assert (said.images, said.boxes, said.extra) == (2, 3, 2)
    assert said.recall == pytest.approx(2 / 3) and said.precision == pytest.approx(2 / 4)
    assert said.iou == pytest.approx((1 + 2 / 3) / 2)
    assert said.score_mean == pytest.approx(0.2, abs=1e-6) and said.score_max == pytest.approx(0.3, abs=1e-6)
    assert "66.7 % of the reference's 3 boxes on 2 images" in said.verdict and "weaker" in said.verdict
    assert json.loads(json.dumps(said.as_dict()))["recall"] == 0.6667


def test_each_box_is_paired_once_and_the_nearest_goes_first() -> None:
    reference = found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 12, 0.8, 0))
    said = agreement([(reference, found((0, 0, 10, 12, 0.7, 0)))])
    assert (said.recall, said.precision, said.iou) == (0.5, 1.0, 1.0) and said.score_max == pytest.approx(0.1, abs=1e-6)


def test_nothing_to_compare_is_an_error_and_nothing_found_is_nought() -> None:
    with pytest.raises(ConfigError, match="finds nothing on 0 images"):
        agreement([])
    with pytest.raises(ConfigError, match="finds nothing on 1 images"):
        agreement([(found(), found((0, 0, 10, 10, 0.9, 0)))])
    said = agreement([(found((0, 0, 10, 10, 0.9, 0)), found())])
    assert (said.recall, said.precision, said.extra, said.iou) == (0, 0, 0, 0)


CORNER, SIDE = st.integers(0, 12), st.integers(0, 9)
BOX = st.builds(
    lambda x, y, w, h, score, label: (x, y, x + w, y + h, score, label),
    *(CORNER, CORNER, SIDE, SIDE),
    *(st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 2)),
)
FOUND = st.lists(BOX, max_size=12).map(lambda rows: found(*rows))


@given(st.lists(FOUND, min_size=1, max_size=4))
def test_a_detector_agrees_with_itself(detections: list[Detections]) -> None:
    assume(any(map(len, detections)))
    said = agreement([(each, each) for each in detections])
    assert (said.recall, said.precision, said.iou, said.score_max, said.extra) == (1, 1, 1, 0, 0)


@given(FOUND, FOUND)
def test_neither_order_nor_side_matters(one: Detections, other: Detections) -> None:
    assume(len(one) and len(other))
    said, back = agreement([(one, other)]), agreement([(other, one)])
    assert said.recall == back.precision and said.precision == back.recall
    # from the last to the first
    turned = [Detections(d.xyxy[::-1], d.confidence[::-1], d.class_id[::-1]) for d in (one, other)]
    again = agreement([(turned[0], turned[1])])
    assert (again.recall, again.extra) == (said.recall, said.extra)
    assert again.iou == pytest.approx(said.iou)
    assert 0 <= said.recall <= 1 and said.extra + round(said.recall * len(one)) == len(other)


def test_two_detectors_on_images(tmp_path: Path) -> None:
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    images = [squares.image([(1, 2, 0), (5, 5, 1)]), squares.image([(3, 3, 0)])]
    backend = OnnxRuntimeBackend()
    seen: list[int] = []
    with (
        Detector(backend.load(squares.detector(tmp_path / "a.onnx")), spec) as one,
        Detector(backend.load(squares.detector(tmp_path / "b.onnx", shift=2.0)), spec) as moved,
    ):
        assert compare(one, one, images).recall == 1
        said = compare(one, moved, images, iou=0.3, progress=seen.append)
        assert (said.images, said.boxes, said.recall, said.score_max) == (2, 3, 1, 0) and seen == [1, 2]
        assert said.iou == pytest.approx(36 / 92, abs=0.01)
        assert compare(one, moved, images).recall == 0

"""Agreement between two detectors."""

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


def detected(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections from rows of (x1, y1, x2, y2, confidence, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def test_boxes_are_paired_by_class_and_overlap() -> None:
    reference = detected((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0), (50, 50, 60, 60, 0.7, 1))
    candidate = detected(
        (0, 0, 10, 10, 0.8, 0), (20, 20, 30, 35, 0.5, 0), (50, 50, 60, 60, 0.7, 2), (0, 0, 4, 4, 0.3, 0)
    )
    result = agreement([(reference, candidate), (detected(), detected())])
    assert (result.images, result.boxes, result.extra) == (2, 3, 2)
    assert result.recall == pytest.approx(2 / 3) and result.precision == pytest.approx(2 / 4)
    assert result.iou == pytest.approx((1 + 2 / 3) / 2)
    assert result.score_mean == pytest.approx(0.2, abs=1e-6) and result.score_max == pytest.approx(0.3, abs=1e-6)
    assert "66.7 % of the reference's 3 boxes on 2 images" in result.verdict and "weaker" in result.verdict
    assert json.loads(json.dumps(result.as_dict()))["recall"] == 0.6667


def test_each_box_is_paired_once_and_the_largest_overlap_first() -> None:
    reference = detected((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 12, 0.8, 0))
    result = agreement([(reference, detected((0, 0, 10, 12, 0.7, 0)))])
    assert (result.recall, result.precision, result.iou) == (0.5, 1.0, 1.0)
    assert result.score_max == pytest.approx(0.1, abs=1e-6)


def test_nothing_to_compare_is_an_error_and_no_detections_agree_by_zero() -> None:
    with pytest.raises(ConfigError, match="detects nothing on 0 images"):
        agreement([])
    with pytest.raises(ConfigError, match="detects nothing on 1 images"):
        agreement([(detected(), detected((0, 0, 10, 10, 0.9, 0)))])
    result = agreement([(detected((0, 0, 10, 10, 0.9, 0)), detected())])
    assert (result.recall, result.precision, result.extra, result.iou) == (0, 0, 0, 0)


CORNER, SIDE = st.integers(0, 12), st.integers(0, 9)
BOX = st.builds(
    lambda x, y, w, h, score, label: (x, y, x + w, y + h, score, label),
    *(CORNER, CORNER, SIDE, SIDE),
    *(st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 2)),
)
DETECTIONS = st.lists(BOX, max_size=12).map(lambda rows: detected(*rows))


@given(st.lists(DETECTIONS, min_size=1, max_size=4))
def test_a_detector_agrees_with_itself(detections: list[Detections]) -> None:
    assume(any(map(len, detections)))
    result = agreement([(each, each) for each in detections])
    assert (result.recall, result.precision, result.iou, result.score_max, result.extra) == (1, 1, 1, 0, 0)


@given(DETECTIONS, DETECTIONS)
def test_neither_order_nor_side_matters(left: Detections, right: Detections) -> None:
    assume(len(left) and len(right))
    result, back = agreement([(left, right)]), agreement([(right, left)])
    assert result.recall == back.precision and result.precision == back.recall
    # in reverse order
    reversed_ = [Detections(d.xyxy[::-1], d.confidence[::-1], d.class_id[::-1]) for d in (left, right)]
    again = agreement([(reversed_[0], reversed_[1])])
    assert (again.recall, again.extra) == (result.recall, result.extra)
    assert again.iou == pytest.approx(result.iou)
    assert 0 <= result.recall <= 1 and result.extra + round(result.recall * len(left)) == len(right)


def test_two_detectors_on_images(tmp_path: Path) -> None:
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    images = [squares.image([(1, 2, 0), (5, 5, 1)]), squares.image([(3, 3, 0)])]
    backend = OnnxRuntimeBackend()
    seen: list[int] = []
    with (
        Detector(backend.load(squares.detector(tmp_path / "a.onnx")), spec) as left,
        Detector(backend.load(squares.detector(tmp_path / "b.onnx", shift=2.0)), spec) as moved,
    ):
        assert compare(left, left, images).recall == 1
        result = compare(left, moved, images, iou=0.3, progress=seen.append)
        assert (result.images, result.boxes, result.recall, result.score_max) == (2, 3, 1, 0) and seen == [1, 2]
        assert result.iou == pytest.approx(36 / 92, abs=0.01)
        assert compare(left, moved, images).recall == 0

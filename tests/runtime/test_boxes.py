"""The rule for valid boxes: invalid candidates never change the result for the valid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.boxes import COUNTED, ROUNDING, all_valid, faults, valid_boxes
from edgesparse.runtime.detector import Detector

CLASSES = ("a", "b", "c")
Row = tuple[float, float, float, float, float, float]
"""x1, y1, x2, y2, confidence, class."""

corner = st.integers(0, 60)
good = st.tuples(corner, corner, st.integers(1, 30), st.integers(1, 30), st.integers(30, 100), st.integers(0, 2)).map(
    lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3], r[4] / 100, r[5])
)
never = st.sampled_from([np.nan, np.inf, -np.inf])
faulty = st.one_of(
    st.tuples(never, corner, corner, corner, st.just(0.9), st.integers(0, 2)),
    st.tuples(corner, corner, corner, never, st.just(0.9), st.integers(0, 2)),
    st.tuples(st.just(9), st.just(9), st.integers(-50, 9), st.integers(10, 50), st.just(1.0), st.integers(0, 2)),
    st.tuples(st.just(9), st.just(9), st.integers(10, 50), st.integers(-50, 9), st.just(1.0), st.integers(0, 2)),
    st.tuples(st.just(0), st.just(0), corner, corner, st.sampled_from([1.01, 72.2, np.inf, np.nan]), st.just(0)),
    st.tuples(st.just(0), st.just(0), st.just(9), st.just(9), st.just(0.9), st.sampled_from([-1, 3, 80, 0.5, np.nan])),
)


def detections(folder: Path, head: str, rows: list[Row]) -> tuple[list[Any], int]:
    """Detections of a detector with these outputs, and its count of invalid candidates."""
    shape = [1, 20 if head == "end2end" else 84, 6]  # 64x64 has 84 cells
    values = np.zeros(shape)
    values[0, : len(rows)] = np.reshape(rows, (-1, 6))
    plan = {
        "inputs": [["images", [1, 3, 64, 64], "float32"]],
        "outputs": [["output0", shape, "float32"]],
        "values": {"output0": values.tolist()},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    spec = DetectorSpec(head=head, classes=CLASSES, input=InputSpec(size=(64, 64)))
    with Detector(backend("null").load(folder / "plan.json"), spec, Run(iou=0.45)) as detect:
        result = detect(np.zeros((64, 64, 3), np.uint8))
        return [result.xyxy.tolist(), result.confidence.tolist(), result.class_id.tolist()], detect.dropped


@pytest.mark.parametrize("head", ["end2end", "deepstream-yolo"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(good, max_size=10), st.lists(faulty, min_size=1, max_size=6), st.randoms(use_true_random=False))
@example([(10, 10, 30, 30, 0.9, 1)], [(30, 10, 10, 30, 1.0, 1)], None)
def test_what_is_no_box_changes_nothing(
    tmp_path: Path, head: str, boxes: list[Row], broken: list[Row], order: Any
) -> None:
    unique = [(*box[:4], box[4] - i * 1e-4, box[5]) for i, box in enumerate(boxes)]  # no ties: order does not matter
    mixed = [*unique, *broken]
    if order is not None:
        order.shuffle(mixed)
    assert detections(tmp_path, head, mixed) == (detections(tmp_path, head, unique)[0], len(broken))


@pytest.mark.parametrize("few", [0, 100])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(good, faulty), max_size=12))
def test_faults_count_each_candidate_that_is_no_box_once(
    monkeypatch: pytest.MonkeyPatch, few: int, rows: list[Row]
) -> None:
    monkeypatch.setattr("edgesparse.runtime.boxes.FEW", few)
    table = np.array(rows, np.float32).reshape(-1, 6)
    xyxy, confidence = table[:, :4], table[:, 4]
    class_id = np.where(table[:, 5] == np.rint(table[:, 5]), table[:, 5], -1).astype(np.int64)
    valid = valid_boxes(xyxy, confidence, class_id, 3)
    usual = bool(valid.all() and (confidence <= 1).all())
    with np.errstate(invalid="ignore"):
        assert not rows or all_valid(xyxy, confidence, class_id, 3) == usual
    assert sum(faults(xyxy, confidence, class_id, 3).values()) == int((~valid).sum())


@pytest.mark.parametrize(
    ("row", "valid"),
    [
        ((0, 0, 1, 1, 1 + ROUNDING / 2, 0), True),
        ((0, 0, 1, 1, 1 + 2 * ROUNDING, 0), False),
        ((0, 0, 1, 1, 0, 2), True),
        ((0, 0, 1, 1, -0.1, 2), False),
        ((-5, -5, -1, -1, 0.5, 0), True),
        ((0, 0, 0, 1, 0.5, 0), False),
        ((0, 0, 1, 1, 0.5, 3), False),
    ],
)
def test_limits_of_the_rule(row: Row, valid: bool) -> None:
    table = np.array([row], np.float32)
    assert valid_boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), 3).tolist() == [valid]


def test_noise_is_not_counted() -> None:
    low = np.float32(COUNTED / 2)
    assert faults(np.zeros((1, 4), np.float32), np.array([low]), np.zeros(1, np.int64), 3) == {}

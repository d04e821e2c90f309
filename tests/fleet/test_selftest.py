"""The self-test compares masks, keypoints and rotated boxes, too, if the detector reports them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesparse.config import Deploy, Recipe
from edgesparse.fleet import selftest
from edgesparse.package.store import Package
from edgesparse.runtime.detections import Detections

BOX = Detections(np.array([[0, 0, 80, 60]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
RIGHT = replace(BOX, rotated=np.array([[40, 30, 70, 8, 0.4]], np.float32))
WRONG = replace(BOX, rotated=np.array([[40, 30, 8, 70, 0.4]], np.float32))


class Fixed:
    """A detector that always returns the same."""

    notice = ""

    def __init__(self, detections: Detections) -> None:
        self._detections = detections

    def __call__(self, image: Any) -> Detections:
        return self._detections


def result(folder: Path, seen: Detections, monkeypatch: pytest.MonkeyPatch) -> selftest.SelfTest:
    @contextmanager
    def opened(*_: Any) -> Any:
        yield Fixed(seen)

    monkeypatch.setattr(selftest, "open_detector", opened)
    return selftest.run(folder, Package.__new__(Package), Recipe(model=Path("x.onnx")))


def test_a_rotated_box_at_another_angle_fails_although_the_upright_one_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((60, 80, 3), np.uint8))
    detector: Any = Fixed(RIGHT)
    assert selftest.write(tmp_path / selftest.FILE, detector, [tmp_path / "0.png"], ["0.png"]) == 1
    assert result(tmp_path, RIGHT, monkeypatch).why_not(Deploy()) is None
    assert "found 0 %" in str(result(tmp_path, WRONG, monkeypatch).why_not(Deploy()))


def test_boxes_alone_are_stored_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((60, 80, 3), np.uint8))
    detector: Any = Fixed(BOX)
    selftest.write(tmp_path / selftest.FILE, detector, [tmp_path / "0.png"], ["0.png"])
    assert json.loads((tmp_path / selftest.FILE).read_text()) == {"0.png": [[0.0, 0.0, 80.0, 60.0, 1.0, 0]]}
    assert result(tmp_path, BOX, monkeypatch).recall == 1

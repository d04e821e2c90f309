"""What each possible head detects in an image: shown by `recipe --image`, and used if it settles a tie."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import squares
from click.testing import CliRunner
from numpy.typing import NDArray

from edgesparse.builder.recognition import HeadSeen, heads_that_fit, settled
from edgesparse.cli import verbs
from edgesparse.errors import ImageError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import SHAPES, VALUES


@pytest.fixture
def image(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "image.png"), squares.image([(1, 2, 0), (5, 5, 1)]))
    return tmp_path / "image.png"


def maps(path: Path) -> Path:
    """Raw maps with one object in the middle of an input of 64 x 64, 24 pixels wide and high when read as YOLOv5."""
    outputs: dict[str, NDArray[np.float32]] = {}
    for stride in (8, 16, 32):
        raw = np.full((1, 3, 64 // stride, 64 // stride, 7), -6, np.float32)
        raw[0, 2, 64 // stride // 2, 64 // stride // 2] = (0, 0, 1, 1, 4, 4, -4) if stride == 8 else -6
        outputs[f"map{stride}"] = raw
    return squares.constant(path, outputs)


def test_the_head_with_the_strongest_evidence_is_shown_first_with_what_it_sees(tmp_path: Path, image: Path) -> None:
    seen, *others = heads_that_fit(squares.detector(tmp_path / "m.onnx"), None, image)
    assert (seen.name, seen.faults, len(seen.detections)) == ("yolov8", 0, 2)
    assert "red 1.00 at 8, 16, 16, 24" in seen.sees and settled([seen, *others]) is seen


def test_heads_of_the_same_layout_are_shown_each_with_its_own_boxes(tmp_path: Path, image: Path) -> None:
    seen = heads_that_fit(maps(tmp_path / "maps.onnx"), None, image)
    boxes = {each.name: each.sees for each in seen}
    assert [*boxes] == ["yolov3-maps", "yolov4-maps", "yolov5-maps", "yolov7-maps"]
    assert boxes["yolov5-maps"] == "0 0.96 at 1, 11, 64, 61" and len(set(boxes.values())) == 4
    assert settled(seen) is None


def test_without_evidence_each_head_that_can_read_the_outputs_is_shown(tmp_path: Path, image: Path) -> None:
    path = squares.constant(tmp_path / "m.onnx", {"output": np.zeros((1, 5000, 7), np.float32)})
    seen = heads_that_fit(path, None, image)
    assert {"yolov5", "rtdetr"} <= {each.name for each in seen}
    assert {(each.why, each.strength, each.sees) for each in seen} == {("can read the outputs", 0, "nothing")}
    assert settled(seen) is None


def test_a_head_that_cannot_run_is_shown_with_the_reason(tmp_path: Path, image: Path) -> None:
    """Its 2 classes do not match the 3 names in the file."""
    path = squares.detector(tmp_path / "m.onnx", names=["red", "green", "blue"])
    seen, *_ = heads_that_fit(path, None, image)
    assert "found 3 names, needed 2" in seen.sees and not seen.plausible


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot read the image"):
        heads_that_fit(squares.detector(tmp_path / "m.onnx"), None, tmp_path / "missing.png")


def seen(name: str, strength: int, boxes: int, faults: int = 0) -> HeadSeen:
    xyxy = np.tile(np.array([[0, 0, 9, 9]], np.float32), (boxes, 1))
    detections = Detections(xyxy, np.full(boxes, 0.9, np.float32), np.zeros(boxes, np.int64))
    return HeadSeen(name, "", strength, detections, faults)


@pytest.mark.parametrize(
    ("candidates", "name"),
    [
        ([seen("a", VALUES, 0), seen("b", SHAPES, 5)], "a"),
        ([seen("a", SHAPES, 3), seen("b", SHAPES, 0)], "a"),
        ([seen("a", SHAPES, 3), seen("b", SHAPES, 2, faults=400)], "a"),
        ([seen("a", SHAPES, 3), seen("b", SHAPES, 2)], None),
        ([seen("a", SHAPES, 0), seen("b", SHAPES, 0)], None),
        ([seen("a", 0, 3)], None),
        ([], None),
    ],
    ids=["the evidence", "boxes", "faults", "both see boxes", "none sees any", "no evidence", "no head"],
)
def test_only_what_is_clear_is_settled(candidates: list[HeadSeen], name: str | None) -> None:
    choice = settled(candidates)
    assert (choice.name if choice is not None else None) == name


def test_the_verb_shows_the_candidates_before_it_refuses(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recipe", str(maps(tmp_path / "maps.onnx")), "--image", str(image)]
    result = CliRunner().invoke(verbs, command)
    shown = result.output + capsys.readouterr().err
    assert shown.count("raw feature maps with anchors") == 4 and not (tmp_path / "maps.yaml").exists()
    assert "could be yolov3-maps or yolov4-maps" in str(result.exception)

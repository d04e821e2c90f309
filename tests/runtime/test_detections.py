"""Detections as users work with them: iteration, indexing, names, conversion to supervision."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision

from edgesparse.errors import BackendUnavailable
from edgesparse.runtime.detections import Detection, Detections

CLASSES = ("red", "green", "blue")


@pytest.fixture
def three() -> Detections:
    boxes = np.array([[0, 1, 10, 11], [20, 20, 40, 30], [5, 5, 9, 9]], np.float32)
    return Detections(
        boxes,
        np.array([0.9, 0.5, 0.25], np.float32),
        np.array([2, 0, 2]),
        zones=(("door",), (), ("door", "hall")),
        track_id=np.array([7, -1, 8]),
        classes=CLASSES,
    )


def test_iterating_yields_one_object_each(three: Detections) -> None:
    first, second, third = three
    assert first == Detection((0, 1, 10, 11), float(np.float32(0.9)), 2, "blue", ("door",), 7)
    assert second.name == "red" and second.zones == () and second.track_id == -1
    assert third == three[2] == three[-1] == three[np.int64(2)]
    assert [type(value) for value in (first.confidence, first.class_id, first.xyxy[0])] == [float, int, float]


def test_names_are_those_of_each_detection(three: Detections) -> None:
    assert three.names == ("blue", "red", "blue")
    unnamed = Detections(three.xyxy, three.confidence, three.class_id)
    assert unnamed.names == ("", "", "") and unnamed[0].track_id is None and unnamed[0].zones == ()
    assert Detections(three.xyxy, three.confidence, three.class_id, classes=("red",)).names == ("", "red", "")


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([True, False, True], [0, 2]),
        (np.array([2, 0]), [2, 0]),
        ([1], [1]),
        ([], []),
        (np.zeros(3, bool), []),
    ],
)
def test_selecting_keeps_every_field(three: Detections, key: object, rows: list[int]) -> None:
    some = three[key]  # type: ignore[call-overload]
    assert isinstance(some, Detections) and list(some) == [three[row] for row in rows]
    assert some.xyxy.shape == (len(rows), 4) and some.xyxy.dtype == np.float32 and some.classes == CLASSES


@pytest.mark.parametrize("key", [3, -4, [3], np.array([True])])
def test_a_position_or_mask_that_does_not_fit(three: Detections, key: object) -> None:
    with pytest.raises(IndexError):
        three[key]  # type: ignore[call-overload]


def test_no_detections() -> None:
    none = Detections.none(CLASSES)
    assert not none and list(none) == [] and none.names == () and none[:0].xyxy.shape == (0, 4)
    assert len(none.to_supervision()) == 0


def test_supervisions_annotators_draw_them(three: Detections) -> None:
    converted = three.to_supervision()
    assert list(converted.data["class_name"]) == ["blue", "red", "blue"]
    np.testing.assert_array_equal(converted.xyxy, three.xyxy)
    assert converted.tracker_id is not None and converted.tracker_id.tolist() == [7, -1, 8]
    scene = np.zeros((64, 64, 3), np.uint8)
    boxed = supervision.BoxAnnotator().annotate(scene.copy(), converted)
    labelled = supervision.LabelAnnotator().annotate(boxed.copy(), converted)
    assert boxed.any() and (labelled != boxed).any()
    traced = supervision.TraceAnnotator().annotate(scene.copy(), converted)
    assert traced.shape == scene.shape
    nothing = Detections.none(CLASSES).to_supervision()
    assert not supervision.LabelAnnotator().annotate(scene.copy(), nothing).any()


def test_what_is_drawn_on_is_not_the_detections_memory(three: Detections) -> None:
    three.to_supervision().xyxy[:] = 0
    assert three.xyxy.any()


def test_without_supervision_the_remedy_is_named(three: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(BackendUnavailable, match="pip install supervision"):
        three.to_supervision()

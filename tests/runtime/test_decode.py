"""Which head: from shapes, metadata and values; and what is said when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from raw_outputs import Box, batch

from edgesparse.backends import TensorSpec
from edgesparse.errors import ModelError
from edgesparse.runtime.heads.families import Layout
from edgesparse.runtime.heads.recognise import check, choose, names_in

Shapes = dict[str, tuple[int, ...]]


def layout(outputs: Shapes, size: tuple[int, int] = (640, 640)) -> Layout:
    return Layout(tuple(TensorSpec(name, shape, "float32") for name, shape in outputs.items()), size)


LISTED: Shapes = {"labels": (1, 300), "boxes": (1, 300, 4), "scores": (1, 300)}
EFFICIENT: Shapes = {"num": (1, 1), "boxes": (1, 100, 4), "scores": (1, 100), "classes": (1, 100)}
KNOWN: dict[str, tuple[str, Shapes, tuple[int, int]]] = {
    "YOLOv8n": ("yolov8", {"output0": (1, 84, 8400)}, (640, 640)),
    "YOLO11, one class, 384x640": ("yolov8", {"output0": (1, 5, 5040)}, (384, 640)),
    "YOLOv8 with P6": ("yolov8", {"output0": (1, 84, 34000)}, (1280, 1280)),
    "YOLOv5s": ("yolov5", {"output": (1, 25200, 85)}, (640, 640)),
    "YOLOv5s6": ("yolov5", {"output": (1, 102000, 85)}, (1280, 1280)),
    "YOLOv10": ("end2end", {"output0": (1, 300, 6)}, (640, 640)),
    "YOLO-NAS": ("yolo-nas", {"boxes": (1, 8400, 4), "scores": (1, 8400, 80)}, (640, 640)),
    "YOLO-NAS, four classes": ("yolo-nas", {"904": (1, 8400, 4), "913": (1, 8400, 4)}, (640, 640)),
    "RT-DETR of Ultralytics": ("rtdetr", {"output0": (1, 300, 84)}, (640, 640)),
    "RT-DETR, logits": ("rtdetr", {"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, (640, 640)),
    "RT-DETR, listed": ("rtdetr", LISTED, (640, 640)),
    "EfficientNMS": ("efficient-nms", EFFICIENT, (640, 640)),
}


@pytest.mark.parametrize(("head", "outputs", "size"), KNOWN.values(), ids=KNOWN.keys())
def test_the_shapes_tell_the_head(head: str, outputs: Shapes, size: tuple[int, int]) -> None:
    assert choose(layout(outputs, size), {}) == head
    check(head, layout(outputs, size))


@pytest.mark.parametrize(("written", "head"), [("yolov5", "yolox-decoded"), ("yolox", "yolox")])
def test_decoded_boxes_and_offsets_are_told_apart_by_a_sample(written: str, head: str) -> None:
    rows = range(0, 126, 2)
    boxes = [Box(row, _around(row), 0, 0.9) for row in rows]
    at, outputs = batch(written, [boxes], 3, "float32")
    outputs[0][0, 1::2] = outputs[0][0, ::2]
    assert choose(at, {}, outputs) == head


def test_without_a_sample_those_two_are_a_question_with_what_was_seen() -> None:
    at = layout({"output": (1, 3549, 85)}, (416, 416))
    with pytest.raises(ModelError, match=r"could be yolov5 or yolox: saw output 1x3549x85 float32.*416x416.*'head:'"):
        choose(at, {})


def _around(row: int) -> tuple[float, float, float, float]:
    """A box round the middle of a cell of the grid of 64x96."""
    stride, first = (8, 0) if row < 96 else (16, 96) if row < 120 else (32, 120)
    columns = 96 // stride
    x, y = ((row - first) % columns + 0.5) * stride, ((row - first) // columns + 0.5) * stride
    return (x - 4, y - 4, x + 4, y + 4)


NOT_DETECTORS: dict[str, tuple[Shapes, str]] = {
    "segmentation": ({"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}, "segmentation model"),
    "classifier": ({"logits": (1, 1000)}, "classifier"),
    "feature maps": ({"a": (1, 255, 80, 80), "b": (1, 255, 40, 40), "c": (1, 255, 20, 20)}, "raw feature maps"),
    "feature maps by anchors": ({"a": (1, 3, 80, 80, 85), "b": (1, 3, 40, 40, 85)}, "raw feature maps"),
    "an image": ({"restored": (1, 3, 640, 640)}, "raw feature maps"),
    "odd rows": ({"output": (1, 5000, 85)}, "name one of"),
    "boxes alone": ({"boxes": (1, 8400, 4)}, "name one of"),
    "boxes and what may be logits": ({"boxes": (1, 300, 4), "scores": (1, 300, 80)}, "name one of"),
    "five outputs": ({str(i): (1, 100) for i in range(5)}, "name one of"),
    "a number": ({"loss": ()}, "name one of"),
}


@pytest.mark.parametrize(("outputs", "hint"), NOT_DETECTORS.values(), ids=NOT_DETECTORS.keys())
def test_what_is_no_detector_is_refused_in_one_line_with_what_was_seen(outputs: Shapes, hint: str) -> None:
    with pytest.raises(ModelError, match=hint) as caught:
        choose(layout(outputs), {}, [np.zeros(shape, np.float32) for shape in outputs.values()])
    assert f"saw {next(iter(outputs))} " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_another_task_is_refused() -> None:
    with pytest.raises(ModelError, match="task is 'pose': needed a detector"):
        choose(layout({"output0": (1, 56, 8400)}), {"task": "pose"})


def test_more_outputs_a_class_than_names_are_refused() -> None:
    """A pose model without its task: 51 channels more than its one class."""
    with pytest.raises(ModelError, match="have 52 classes as yolov8, the file's metadata names 1"):
        choose(layout({"output0": (1, 56, 8400)}), {"names": "{0: 'person'}"})


def test_metadata_of_a_detector_is_taken() -> None:
    assert choose(layout({"output0": (1, 6, 8400)}), {"task": "detect", "names": "{0: 'a', 1: 'b'}"}) == "yolov8"


UNFIT: dict[str, tuple[str, Shapes]] = {
    "yolov8 the other way round": ("yolov8", {"output": (1, 8400, 84)}),
    "yolov5 the other way round": ("yolov5", {"output": (1, 84, 8400)}),
    "yolov8 of two outputs": ("yolov8", {"boxes": (1, 8400, 4), "scores": (1, 8400, 80)}),
    "yolov8 of a classifier": ("yolov8", {"logits": (1, 1000)}),
    "yolov8 without classes": ("yolov8", {"output": (1, 4, 8400)}),
    "yolox off the grid": ("yolox", {"output": (1, 5000, 85)}),
    "end2end of seven columns": ("end2end", {"output": (1, 300, 7)}),
    "yolo-nas of one output": ("yolo-nas", {"output": (1, 8400, 84)}),
    "yolo-nas without boxes": ("yolo-nas", {"a": (1, 8400, 80), "b": (1, 8400, 80)}),
    "rtdetr with other names": ("rtdetr", {"a": (1, 300), "b": (1, 300, 4), "c": (1, 300)}),
    "efficient-nms of three": ("efficient-nms", LISTED),
    "efficient-nms of five": ("efficient-nms", {**EFFICIENT, "more": (1, 1)}),
    "efficient-nms without a count": ("efficient-nms", {**EFFICIENT, "num": (1, 100)}),
}


@pytest.mark.parametrize(("head", "outputs"), UNFIT.values(), ids=UNFIT.keys())
def test_a_named_head_that_cannot_read_the_outputs_is_refused(head: str, outputs: Shapes) -> None:
    with pytest.raises(ModelError, match=f"head '{head}' cannot read this network: saw .*; needed ") as caught:
        check(head, layout(outputs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [("yolov8", {"output": (1, 84, 33600)}), ("yolov5", {"output": (1, 5000, 85)})],
    ids=["strides of 4 too", "anchors of their own"],
)
def test_a_named_head_may_have_a_grid_of_its_own(head: str, outputs: Shapes) -> None:
    check(head, layout(outputs))


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("{0: 'person', 1: 'dog'}", ("person", "dog")),
        ("{1: 'dog', 0: 'person'}", ("person", "dog")),
        ("['person', 'dog']", ("person", "dog")),
        ("{0: 'person', 'x': 'dog'}", None),
        ("person, dog", None),
        ("[]", None),
        ("7", None),
        ("", None),
    ],
)
def test_names_in_metadata(said: str, names: tuple[str, ...] | None) -> None:
    assert names_in({"names": said}) == names
    assert names_in({}) is None


def test_more_predictions_than_columns_are_wanted() -> None:
    """Six columns are as many as the cells of stride 32 in 64x96: still no YOLOv8 of 122 classes."""
    with pytest.raises(ModelError, match="yolov5 or yolox"):
        choose(layout({"output": (1, 126, 6)}, (64, 96)), {})

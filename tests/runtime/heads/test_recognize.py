"""Choosing the head from shapes, metadata and values, and the message when none fits."""

from __future__ import annotations

import numpy as np
import pytest
from head_checks import layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import check, choose, names_in, raw_maps

Shapes = dict[str, tuple[int, ...]]
LISTED: Shapes = {"labels": (1, 300), "boxes": (1, 300, 4), "scores": (1, 300)}
EFFICIENT: Shapes = {"num": (1, 1), "boxes": (1, 100, 4), "scores": (1, 100), "classes": (1, 100)}

NOT_DETECTORS: dict[str, tuple[Shapes, str]] = {
    "segmentation": ({"output0": (1, 5000, 117), "output1": (1, 32, 160, 160)}, "segmentation model"),
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
    assert f"found {next(iter(outputs))} " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_another_task_is_refused() -> None:
    with pytest.raises(ModelError, match="has the task 'depth': needed one of detect, segment, pose, obb, classify"):
        choose(layout({"output0": (1, 56, 8400)}), {"task": "depth"})


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
    with pytest.raises(ModelError, match=f"head '{head}' cannot read this network: found .*; needed ") as caught:
        check(head, layout(outputs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: 'dog'}", ("person", "dog")),
        ("{1: 'dog', 0: 'person'}", ("person", "dog")),
        ("['person', 'dog']", ("person", "dog")),
        (str({str(number): f"class-{number}" for number in range(12)}), tuple(f"class-{n}" for n in range(12))),
        ("{0: 'person', 'x': 'dog'}", None),
        ("person, dog", None),
        ("[]", None),
        ("7", None),
        ("", None),
    ],
)
def test_names_in_metadata(text: str, names: tuple[str, ...] | None) -> None:
    assert names_in({"names": text}) == names
    assert names_in({}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{0: 'person', 2: 'dog'}", "no name for class 1: needed keys 0 to 2"),
        ("{'1': 'person', '3': 'dog'}", "no name for class 0, 2: needed keys 0 to 3"),
        ("{-1: 'none', 0: 'dog'}", "keys that are no class numbers"),
        ("{0: 'dog', '0': 'cat'}", "keys that are no class numbers"),
    ],
)
def test_names_that_leave_out_a_class_are_refused_with_what_is_missing(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        names_in({"names": text})


MAPS: dict[str, Shapes] = {
    "by anchor": {"raw8": (1, 3, 8, 8, 10), "raw16": (1, 3, 4, 4, 10), "raw32": (1, 3, 2, 2, 10)},
    "stacked": {"raw8": (1, 30, 8, 8), "raw16": (1, 30, 4, 4), "raw32": (1, 30, 2, 2)},
}


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS.keys())
def test_raw_maps_beside_decoded_boxes_are_found(maps: Shapes) -> None:
    assert raw_maps(layout({"output": (1, 252, 10), **maps}, (64, 64))) == tuple(maps)


@pytest.mark.parametrize(
    "outputs",
    [
        {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)},
        {"output": (1, 25200, 85)},
        {"output": (1, 77, 10), "raw8": (1, 3, 8, 8, 9)},
        MAPS["by anchor"],
    ],
    ids=["masks", "boxes alone", "of another width", "maps alone"],
)
def test_other_outputs_are_no_raw_maps(outputs: Shapes) -> None:
    assert raw_maps(layout(outputs)) == ()

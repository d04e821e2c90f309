"""Raw feature maps of YOLOv3, v4, v5 and v7."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CONF, Case, Values, best, cells, logit, noise, scores, sigma
from head_checks import SIZE, layout

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.heads.yolo_maps import V3_ANCHORS, YoloV5Maps

V3 = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
V4 = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"
"""As in the configuration files."""
REACH = {"yolov3-maps": (1.0, 1.0, 1.0), "yolov4-maps": (1.2, 1.1, 1.05)}


def maps(name: str, anchors: str, by_anchor: bool, classes: int = 3) -> Case:
    """The formulas of Darknet (v3, v4), and of YOLOv5 and v7."""
    sides = [float(text) for text in anchors.split(",")]
    outputs, expected = {}, list[Values]()
    for level, stride in enumerate((8, 16, 32)):
        rows, columns = SIZE[0] // stride, SIZE[1] // stride
        shape = (1, 3, rows, columns)
        raw = np.concatenate(
            [noise(stride, *shape, 4, scale=0.7), logit(scores(stride, *shape, 1 + classes) ** 0.5)], -1
        )
        for a in range(3):
            width, height = sides[6 * level + 2 * a : 6 * level + 2 * a + 2]
            for _, x, y in cells(SIZE, stride):
                tx, ty, tw, th, objectness, *of_class = raw[0, a, y, x].astype(np.float64).tolist()
                score, label = best(lambda c, o=objectness, s=of_class: sigma(o) * sigma(s[c]), classes)  # type: ignore[misc]
                if score < CONF:
                    continue
                if name in REACH:
                    reach = REACH[name][level]
                    cx, cy = (sigma(t) * reach - (reach - 1) / 2 for t in (tx, ty))
                    w, h = width * math.exp(tw), height * math.exp(th)
                else:
                    cx, cy = 2 * sigma(tx) - 0.5, 2 * sigma(ty) - 0.5
                    w, h = width * (2 * sigma(tw)) ** 2, height * (2 * sigma(th)) ** 2
                cx, cy = (cx + x) * stride, (cy + y) * stride
                expected.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, label))
        stacked = raw.transpose(0, 1, 4, 2, 3).reshape(1, -1, rows, columns)
        outputs[f"map{stride}"] = raw if by_anchor else np.ascontiguousarray(stacked)
    return Case(name, outputs, tuple(expected), named=True)


CASES = [
    maps("yolov3-maps", V3, by_anchor=False),
    maps("yolov4-maps", V4, by_anchor=False),
    maps("yolov5-maps", V3, by_anchor=True),
    maps("yolov7-maps", V4, by_anchor=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.head)
def test_its_boxes_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_which_they_are_is_asked_and_not_guessed() -> None:
    case = CASES[0]
    with pytest.raises(
        ModelError, match="could be yolov3-maps or yolov4-maps or yolov5-maps or yolov7-maps: found map8"
    ):
        choose(case.layout, {}, list(case.outputs.values()))


def test_maps_after_the_sigmoid_are_refused() -> None:
    case = CASES[0]
    with pytest.raises(ModelError, match="raw feature maps"):
        choose(case.layout, {}, [1 / (1 + np.exp(-np.asarray(raw, np.float32))) for raw in case.outputs.values()])


def test_the_order_of_the_maps_does_not_matter() -> None:
    case = CASES[3]
    names = list(case.outputs)[::-1]
    Case(case.head, {name: case.outputs[name] for name in names}, case.expected, case.size, named=True).check()


def test_two_maps_are_refused() -> None:
    with pytest.raises(ModelError, match="raw feature maps"):
        choose(layout({"a": (1, 255, 80, 80), "b": (1, 255, 40, 40)}), {})
    assert head("yolov5-maps").classes(layout({str(s): (1, 255, 640 // s, 640 // s) for s in (8, 16, 32)})) == 80


class FourAnchors(YoloV5Maps):
    """As a user's own file subclasses a head for other anchors."""

    anchors = tuple((*stride, stride[0]) for stride in V3_ANCHORS)


def test_more_anchors_than_the_kernel_takes_are_decoded_on_the_cpu() -> None:
    """Anchors among the channels are planes of their own; in an axis of their own they are not."""
    stacked = layout({str(s): (1, 4 * 8, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)}, SIZE)
    by_anchor = layout({str(s): (1, 4, SIZE[0] // s, SIZE[1] // s, 8) for s in (8, 16, 32)}, SIZE)
    assert FourAnchors().fits(stacked) and FourAnchors().strided(stacked) is None
    assert FourAnchors().strided(by_anchor) is not None

"""Every family: boxes written into raw outputs come back, with their scores and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_outputs import FAMILIES, MULTI, ROWS, SIZE, Box, batch

from edgesparse.config import HeadName
from edgesparse.runtime.heads.families import HEADS, Candidates, Decode, Layout
from edgesparse.runtime.heads.recognise import check, choose

CONF = 0.25
whole = st.integers(0, 7).map(lambda n: 8 * n)


@st.composite
def box(draw: st.DrawFn, classes: int) -> Box:
    x, y = draw(whole), draw(st.integers(0, 5).map(lambda n: 8 * n))
    width, height = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    score = draw(st.sampled_from([0.125, 0.375, 0.5, 0.75, 0.875, 1.0]))
    return Box(draw(st.integers(0, ROWS - 1)), (x, y, x + width, y + height), draw(st.integers(0, classes - 1)), score)


def boxes(classes: int) -> st.SearchStrategy[list[Box]]:
    """Of different rows, in their order."""
    found = st.lists(box(classes), max_size=6, unique_by=lambda b: b.row)
    return found.map(lambda rows: sorted(rows, key=lambda b: b.row))


@st.composite
def images(draw: st.DrawFn) -> tuple[int, list[list[Box]]]:
    """A number of classes and the boxes of one to three images."""
    classes = draw(st.sampled_from([1, 2, 4, 80]))
    return classes, draw(st.lists(boxes(classes), min_size=1, max_size=3))


def decoder(family: str, layout: Layout, conf: float = CONF, multi_label: bool = False) -> Decode:
    return HEADS[FAMILIES[family][0]].decode(layout, conf, multi_label)


def assert_found(found: Candidates, wanted: Sequence[Box], dtype: str = "float32") -> None:
    xyxy, confidence, class_id = found
    assert xyxy.dtype == np.float32 and confidence.dtype == np.float32 and class_id.dtype == np.int64
    assert xyxy.shape == (len(wanted), 4)
    loose = dtype == "float16"
    np.testing.assert_allclose(xyxy, np.reshape([b.xyxy for b in wanted], (-1, 4)), atol=0.15 if loose else 1e-3)
    np.testing.assert_allclose(confidence, [b.score for b in wanted], atol=2e-3 if loose else 1e-5)
    assert class_id.tolist() == [b.class_id for b in wanted]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30)
@given(said=images())
def test_each_images_boxes_come_back(family: str, dtype: str, said: tuple[int, list[list[Box]]]) -> None:
    classes, wanted = said
    layout, outputs = batch(family, wanted, classes, dtype)
    decode = decoder(family, layout)
    for image, boxes in enumerate(wanted):
        assert_found(decode(outputs, image), [b for b in boxes if b.score >= CONF], dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_without_detections_gives_none(family: str) -> None:
    layout, outputs = batch(family, [[]], 3, "float32")
    assert_found(decoder(family, layout)(outputs, 0), [])
    assert_found(decoder(family, layout, multi_label=True)(outputs, 0), [])


@pytest.mark.parametrize("family", FAMILIES.keys() - {"rtdetr, logits"})
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_box_of_exactly_the_wanted_confidence_counts(family: str, dtype: str) -> None:
    conf = float(np.dtype(dtype).type(0.3))
    layout, outputs = batch(family, [[Box(7, (8, 8, 24, 24), 1, 1.0)]], 2, dtype)
    outputs = [np.where(out == 1, out.dtype.type(conf), out) if out.dtype == dtype else out for out in outputs]
    if family in ("yolov5", "yolox"):
        outputs[0][0, 7, 6] = 1  # times objectness, which is 0.3
    assert len(decoder(family, layout, conf)(outputs, 0)[1]) == 1
    assert len(decoder(family, layout, conf + 1e-3)(outputs, 0)[1]) == 0


@pytest.mark.parametrize("family", MULTI)
def test_with_multi_label_a_box_counts_once_for_every_class_that_is_sure_enough(family: str) -> None:
    first, second = Box(7, (8, 8, 24, 24), 1, 0.9), Box(7, (8, 8, 24, 24), 2, 0.5)
    layout, outputs = batch(family, [[first, second, Box(7, (8, 8, 24, 24), 0, 0.1)]], 4, "float32")
    assert_found(decoder(family, layout)(outputs, 0), [first])
    assert_found(decoder(family, layout, multi_label=True)(outputs, 0), [first, second])


@pytest.mark.parametrize("family", ["yolov8", "yolov5"])
def test_corners_of_half_precision_boxes_are_not_rounded_again(family: str) -> None:
    """At 600 pixels float16 steps by a half: the corners are worked out in float32."""
    layout, outputs = batch(family, [[Box(3, (550.25, 8, 650.75, 24), 0, 1.0)]], 1, "float16")
    assert decoder(family, layout)(outputs, 0)[0].tolist() == [[550.25, 8, 650.75, 24]]


def test_logits_far_from_zero_are_certain_and_say_nothing_on_the_way() -> None:
    layout, outputs = batch("rtdetr, logits", [[Box(3, (8, 8, 24, 24), 0, 1.0)]], 2, "float16")
    outputs[0] = np.where(outputs[0] > 0, 1000, -1000).astype(np.float16)
    assert_found(decoder("rtdetr, logits", layout)(outputs, 0), [Box(3, (8, 8, 24, 24), 0, 1.0)], "float16")


@pytest.mark.parametrize("reverse", [False, True])
def test_four_classes_beside_four_coordinates_are_told_apart_by_name(reverse: bool) -> None:
    wanted = Box(7, (8, 8, 24, 24), 3, 0.9)
    layout, outputs = batch("yolo-nas", [[wanted]], 4, "float32")
    if reverse:
        layout, outputs = Layout(layout.outputs[::-1], SIZE), outputs[::-1]
    assert_found(decoder("yolo-nas", layout)(outputs, 0), [wanted])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_recognised_and_its_classes_counted(family: str) -> None:
    """Those that need a sample are in test_decode and test_exports."""
    layout, _ = batch(family, [[]], 5, "float32")
    head = FAMILIES[family][0]
    if family not in ("yolov5", "yolox", "end2end", "rtdetr", "rtdetr-end2end"):
        assert choose(layout, {}) == head
    check(head, layout)
    assert HEADS[head].classes(layout) == (5 if family in MULTI else None)


def test_the_recipe_knows_the_heads_that_there_are() -> None:
    assert {*HEADS, "auto"} == set(HeadName.__args__)  # type: ignore[attr-defined]


def test_efficient_nms_is_read_whatever_the_order_of_its_outputs() -> None:
    wanted = Box(7, (8, 8, 24, 24), 3, 0.9)
    layout, outputs = batch("efficient-nms", [[wanted]], 4, "float32")
    order = [3, 1, 0, 2]
    layout, outputs = Layout(tuple(layout.outputs[i] for i in order), SIZE), [outputs[i] for i in order]
    assert_found(decoder("efficient-nms", layout)(outputs, 0), [wanted])

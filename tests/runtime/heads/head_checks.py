"""Tests that every head must pass: boxes written into raw outputs are recovered by decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.backends import TensorSpec
from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import Layout, Sample
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head

SIZE = (64, 96)
ROWS = cells(SIZE)
"""126 predictions at strides 8, 16 and 32."""
CONF = 0.25

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Box:
    """One box in input pixels; `row` is the index of its prediction."""

    row: int
    xyxy: tuple[float, float, float, float]
    class_id: int
    score: float


def scores_of(boxes: Sequence[Box], classes: int, rows: int = ROWS) -> NDArray[Any]:
    """Scores [rows, classes], zero where there is no box."""
    scores = np.zeros((rows, classes))
    for box in boxes:
        scores[box.row, box.class_id] = box.score
    return scores


def xyxy_of(boxes: Sequence[Box], rows: int = ROWS) -> NDArray[Any]:
    """Corners [rows, 4]."""
    xyxy = np.zeros((rows, 4))
    for box in boxes:
        xyxy[box.row] = box.xyxy
    return xyxy


def centered(boxes: Sequence[Box], rows: int = ROWS) -> NDArray[Any]:
    """Center and size [rows, 4]."""
    xyxy = xyxy_of(boxes, rows)
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)


def relative(boxes: Sequence[Box]) -> NDArray[Any]:
    """Center and size as shares of the input."""
    return centered(boxes) / np.array([SIZE[1], SIZE[0]] * 2)


def layout(outputs: Mapping[str, tuple[int, ...]], size: tuple[int, int] = (640, 640)) -> Layout:
    """A layout of float32 outputs, by name and shape."""
    return Layout(tuple(TensorSpec(name, shape, "float32") for name, shape in outputs.items()), size)


def assert_found(candidates: Candidates, expected: Sequence[Box], dtype: str = "float32") -> None:
    xyxy, confidence, class_id = candidates
    assert xyxy.dtype == np.float32 and confidence.dtype == np.float32 and class_id.dtype == np.int64
    assert xyxy.shape == (len(expected), 4)
    loose = dtype == "float16"
    np.testing.assert_allclose(xyxy, np.reshape([b.xyxy for b in expected], (-1, 4)), atol=0.15 if loose else 1e-3)
    np.testing.assert_allclose(confidence, [b.score for b in expected], atol=2e-3 if loose else 1e-5)
    assert class_id.tolist() == [b.class_id for b in expected]


@st.composite
def a_box(draw: st.DrawFn, classes: int) -> Box:
    x, y = draw(st.integers(0, 7)) * 8, draw(st.integers(0, 5)) * 8
    width, height = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    score = draw(st.sampled_from([0.125, 0.375, 0.5, 0.75, 0.875, 1.0]))
    return Box(draw(st.integers(0, ROWS - 1)), (x, y, x + width, y + height), draw(st.integers(0, classes - 1)), score)


def boxes_of(classes: int) -> st.SearchStrategy[list[Box]]:
    """Boxes in different rows, in the order of the rows."""
    unordered = st.lists(a_box(classes), max_size=6, unique_by=lambda b: b.row)
    return unordered.map(lambda rows: sorted(rows, key=lambda b: b.row))


@st.composite
def batches(draw: st.DrawFn, counts: Sequence[int]) -> tuple[int, list[list[Box]]]:
    """A number of classes, and the boxes of one to three images."""
    classes = draw(st.sampled_from(counts))
    return classes, draw(st.lists(boxes_of(classes), min_size=1, max_size=3))


class HeadChecks(ABC):
    """Subclass this as Test..., set the head's name, and implement `encode`; the tests are inherited."""

    name: ClassVar[str]
    per_class: ClassVar[bool] = False
    """Whether the outputs have a score per class, so that classes can be counted."""
    by_shapes: ClassVar[bool] = True
    """Whether the shapes alone identify the head."""
    exact: ClassVar[bool] = True
    """Whether a score is written unchanged, so that it can equal the threshold."""
    whole: ClassVar[Mapping[str, str]] = {}
    """Integer outputs with their dtype."""
    counts: ClassVar[Sequence[int]] = (1, 2, 4, 80)
    """Numbers of classes to try."""

    @abstractmethod
    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        """Raw outputs of one image by name, without the batch axis."""

    def batch(
        self, images: Sequence[Sequence[Box]], classes: int, dtype: str = "float32"
    ) -> tuple[Layout, list[NDArray[Any]]]:
        """The layout and the outputs for these images' boxes."""
        encoded = [self.encode(boxes, classes) for boxes in images]
        arrays = {k: np.stack([e[k] for e in encoded]).astype(self.whole.get(k, dtype)) for k in encoded[0]}
        specs = tuple(TensorSpec(name, array.shape, array.dtype.name) for name, array in arrays.items())
        return Layout(specs, SIZE), list(arrays.values())

    def decoder(self, at: Layout, conf: float = CONF, multi_label: bool = False) -> Decode:
        return head(self.name).decode(at, conf, multi_label)

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @settings(max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_boxes_of_each_image_come_back(self, dtype: str, data: st.DataObject) -> None:
        classes, expected = data.draw(batches(self.counts))
        at, outputs = self.batch(expected, classes, dtype)
        decode = self.decoder(at)
        for image, boxes in enumerate(expected):
            assert_found(decode(outputs, image), [b for b in boxes if b.score >= CONF], dtype)

    def test_an_image_without_detections_gives_none(self) -> None:
        at, outputs = self.batch([[]], self.counts[0])
        assert_found(self.decoder(at)(outputs, 0), [])
        assert_found(self.decoder(at, multi_label=True)(outputs, 0), [])

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_a_box_of_exactly_the_threshold_counts(self, dtype: str) -> None:
        conf = float(np.dtype(dtype).type(0.3))
        at, outputs = self.batch([[Box(7, (8, 8, 24, 24), 0, conf)]], self.counts[0], dtype)
        assert len(self.decoder(at, conf if self.exact else conf - 1e-3)(outputs, 0)[1]) == 1
        assert len(self.decoder(at, conf + 1e-3)(outputs, 0)[1]) == 0

    def test_a_score_that_is_no_number_comes_out_so_that_it_can_be_counted(self) -> None:
        at, outputs = self.batch([[Box(7, (8, 8, 24, 24), 0, 0.9)]], self.counts[0])
        outputs = [np.full_like(out, np.nan) if out.dtype.kind == "f" else out for out in outputs]
        with np.errstate(invalid="ignore"):
            assert np.isnan(self.decoder(at)(outputs, 0)[1]).any()

    def test_it_is_recognized_and_its_classes_are_counted(self) -> None:
        classes = self.counts[-1]
        at, _ = self.batch([[]], classes)
        if self.by_shapes:
            assert choose(at, {}) == self.name
        check(self.name, at)
        assert head(self.name).classes(at) == (classes if self.per_class else None)

    def recognized(self, sample: Sample, at: Layout) -> str:
        """The head chosen for these outputs."""
        return choose(at, {}, sample)


class PerClassChecks(HeadChecks):
    """For heads with a score per class, where a box may count for several classes."""

    per_class = True

    def test_with_multi_label_a_box_counts_for_every_class_that_reaches_the_threshold(self) -> None:
        where = (7, (8, 8, 24, 24))
        first, second, low = Box(*where, 1, 0.9), Box(*where, 2, 0.5), Box(*where, 0, 0.1)
        at, outputs = self.batch([[first, second, low]], 4)
        assert_found(self.decoder(at)(outputs, 0), [first])
        assert_found(self.decoder(at, multi_label=True)(outputs, 0), [first, second])

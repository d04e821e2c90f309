"""RT-DETR and the detectors that share its layouts: D-FINE, DEIM, RF-DETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode
from edgesparse.runtime.heads.base import POSSIBLE, SHAPES, STRETCHED, VALUES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, corners, labeled, listed, sigmoid
from edgesparse.runtime.heads.end2end import is_relative
from edgesparse.runtime.heads.grid import is_dense, strides_of

MOST_QUERIES = 1000
_LISTED = ("label", "box", "score")
_SOURCE = "Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, and https://github.com/lyuwenyu/RT-DETR"


def pixels_of(layout: Layout) -> NDArray[np.float32]:
    """The factors by which relative x, y, x, y become pixels."""
    return np.array([layout.size[1], layout.size[0]] * 2, np.float32)


class RtDetr(Head):
    """The three layouts that exporters write: boxes with scores, boxes and logits, or a list of final boxes."""

    outputs = (
        "one output [B, N, 4 + C] with relative center and size and scores; or two, boxes [B, N, 4] and `logits` "
        "[B, N, C]; or three, `labels` [B, N], `boxes` [B, N, 4] as xyxy in pixels, `scores` [B, N]"
    )
    export = "python tools/export_onnx.py -c config.yml -r best.pth --check"
    source = _SOURCE
    nms = False
    convention = STRETCHED

    def fits(self, layout: Layout) -> bool:
        if len(layout.outputs) == 1:
            if layout.table is None:
                return False
            rows, columns = layout.table
            return strides_of(rows, layout.size) is not None or strides_of(columns, layout.size) is None
        if len(layout.outputs) == 2:
            return layout.outputs[1 - layout.boxes()].shape[:2] == layout.outputs[layout.boxes()].shape[:2]
        return len(layout.outputs) == 3 and all(layout.index(name=name) >= 0 for name in _LISTED)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        ranks = sorted(map(len, layout.shapes))
        if ranks == [2, 2, 3] and all(any(name in spec.name for spec in layout.outputs) for name in _LISTED):
            if sample is not None and _relative(layout, sample):
                return None
            return Evidence(SHAPES, "three outputs named labels, boxes and scores")
        if ranks == [3, 3] and any(shape[-1] == 4 for shape in layout.shapes):
            logits = any(name in spec.name for spec in layout.outputs for name in ("logit", "label"))
            queries = self.fits(layout) and layout.shapes[0][1] <= MOST_QUERIES
            return Evidence(SHAPES, "boxes, and an output named logits or labels") if logits and queries else None
        return self._one_output(layout, sample)

    def _one_output(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if layout.table is None:
            return None
        rows, columns = layout.table
        # A grid of coarse strides may have as many cells as there are queries: only stride 8 tells them apart.
        if columns <= 4 or rows > MOST_QUERIES or is_dense(rows, layout.size):
            return None
        if columns != 6:
            return Evidence(POSSIBLE, f"{rows} queries of 4 + {columns - 4} columns")
        if sample is None or not is_relative(sample) or _whole(sample):
            return None
        return Evidence(VALUES, "relative boxes with scores of two classes")

    def classes(self, layout: Layout) -> int | None:
        if len(layout.outputs) == 1:
            return layout.outputs[0].shape[-1] - 4
        return layout.outputs[1 - layout.boxes()].shape[-1] if len(layout.outputs) == 2 else None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        if len(layout.outputs) == 3:
            label, box, score = (layout.index(name=name) for name in _LISTED)
            return listed(lambda outputs, b: (outputs[box][b], outputs[score][b], outputs[label][b]), conf)
        pixels = pixels_of(layout)
        boxes = layout.boxes() if len(layout.outputs) == 2 else 0

        def parts(outputs: Sequence[NDArray[Any]], image: int) -> tuple[NDArray[Any], NDArray[Any]]:
            if len(outputs) == 1:
                return outputs[0][image, :, :4], outputs[0][image, :, 4:]
            return outputs[boxes][image], sigmoid(outputs[1 - boxes][image])

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            center_size, scores = parts(outputs, image)
            keep = at_least(scores.max(axis=1), conf)
            return labeled(corners(center_size[keep] * pixels), scores[keep], conf, multi_label)

        return decode


class RtDetrEndToEnd(Head):
    """RT-DETR as Ultralytics exports it since 8.4."""

    outputs = "one output [B, N, 6]: relative center and size, score, class"
    export = "yolo export model=rtdetr-l.pt format=onnx opset=17"
    source = _SOURCE
    nms = False
    convention = STRETCHED

    def fits(self, layout: Layout) -> bool:
        return layout.table is not None and layout.table[1] == 6

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if sample is None or not self.fits(layout) or not is_relative(sample) or not _whole(sample):
            return None
        return Evidence(VALUES, "six columns, boxes relative, classes whole")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        pixels = pixels_of(layout)

        def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
            raw = outputs[0][b]
            return corners(raw[:, :4] * pixels), raw[:, 4], raw[:, 5]

        return listed(rows, conf)


class RtDetrRelative(Head):
    """The list of final boxes, relative to the input's size, from exports without `orig_target_sizes`."""

    outputs = "three outputs, `labels` [B, N], `boxes` [B, N, 4] as relative xyxy, `scores` [B, N]"
    export = "python tools/export_onnx.py -c config.yml -r best.pth, with orig_target_sizes fixed to 1 x 1"
    source = _SOURCE
    nms = False
    convention = STRETCHED

    def fits(self, layout: Layout) -> bool:
        return len(layout.outputs) == 3 and all(layout.index(name=name) >= 0 for name in _LISTED)

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        fits = self.can_read(layout) and sorted(map(len, layout.shapes)) == [2, 2, 3]
        if not fits or sample is None or not _relative(layout, sample):
            return None
        return Evidence(VALUES, "outputs named labels, boxes and scores, boxes relative")

    def classes(self, layout: Layout) -> None:
        return None

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        label, box, score = (layout.index(name=name) for name in _LISTED)
        pixels = pixels_of(layout)
        return listed(lambda outputs, b: (outputs[box][b] * pixels, outputs[score][b], outputs[label][b]), conf)


def _relative(layout: Layout, sample: Sample) -> bool:
    """Whether the listed boxes are relative to the input's size: in pixels, some coordinate of some query exceeds 2."""
    largest = np.abs(sample[layout.index(name="box")]).max()
    return bool(0 < largest <= 2)


def _whole(sample: Sample) -> bool:
    """Whether the last column holds class ids rather than scores."""
    last = sample[0][0][:, 5]
    return bool(np.array_equal(last, np.rint(last)))

"""Raw maps of the last convolutions give the same boxes as the decoded outputs of exporters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from cases import CONF, Case, Values, cells, logit, noise, scores, sigma
from head_checks import SIZE, layout
from numpy.typing import NDArray

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.candidates import sigmoid
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.recognize import HEAD_KEY, check, choose
from edgesparse.runtime.heads.registry import head

Outputs = list[NDArray[np.float32]]
CLASSES = 3


def softmax(logits: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max(axis=axis, keepdims=True))
    share: NDArray[np.float32] = weights / weights.sum(axis=axis, keepdims=True)
    return share


def rows(maps: Outputs) -> NDArray[np.float32]:
    """The maps of all levels as [B, cells, channels]."""
    return np.concatenate([part.reshape(*part.shape[:2], -1).transpose(0, 2, 1) for part in maps], 1)


def yolov8(maps: Outputs) -> Outputs:
    """As Ultralytics decodes: the mean over the bins, then center and size in pixels, and the sigmoid."""
    row = rows(maps)
    distance = softmax(row[..., :64].reshape(*row.shape[:2], 4, 16), -1) @ np.arange(16, dtype=np.float32)
    corner, stride = grid(SIZE, (8, 16, 32))
    low, high = corner + 0.5 - distance[..., :2], corner + 0.5 + distance[..., 2:]
    boxes = np.concatenate([(low + high) / 2, high - low], -1) * stride
    return [np.concatenate([boxes, sigmoid(row[..., 64:])], -1).transpose(0, 2, 1).astype(np.float32)]


def yolox(maps: Outputs) -> Outputs:
    row = rows(maps)
    return [np.concatenate([row[..., :4], sigmoid(row[..., 4:])], -1)]


def nanodet(maps: Outputs) -> Outputs:
    levels = [rows([part]) for part in maps]
    return [*(sigmoid(row[..., :CLASSES]) for row in levels), *(row[..., CLASSES:] for row in levels)]


def fastestdet(maps: Outputs) -> Outputs:
    raw = maps[0]
    return [np.concatenate([sigmoid(raw[:, :1]), raw[:, 1:5], softmax(raw[:, 5:], 1)], 1)]


FAMILIES: dict[str, tuple[Callable[[Outputs], Outputs], int, int, tuple[int, ...]]] = {
    "yolov8": (yolov8, 64 + CLASSES, 64, (8, 16, 32)),
    "yolox": (yolox, 5 + CLASSES, 5, (8, 16, 32)),
    "nanodet": (nanodet, CLASSES + 32, CLASSES, (8, 16, 32)),
    "fastestdet": (fastestdet, 5 + CLASSES, 5, (16,)),
}
"""The exporter's decoding, channels, where to split the maps, strides."""


def layout_of(outputs: Sequence[NDArray[np.float32]]) -> Layout:
    return layout({f"output{i}": out.shape for i, out in enumerate(outputs)}, SIZE)


def apart(maps: Outputs, first: int) -> Outputs:
    """Each map as two outputs, the coarsest level first and levels interleaved, as a rewrite may produce them."""
    low, high = ([part[:, places] for part in maps] for places in (slice(first), slice(first, None)))
    return [*reversed(low), *reversed(high)]


@pytest.mark.parametrize("divided", [False, True], ids=["whole", "apart"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("conf", "multi_label"), [(0.0, True), (0.4, True), (0.4, False)])
def test_maps_are_read_as_decoded_outputs_are(name: str, divided: bool, conf: float, multi_label: bool) -> None:
    decoded, channels, first, strides = FAMILIES[name]
    random = np.random.default_rng(0)
    maps = [random.normal(0, 1, (2, channels, SIZE[0] // s, SIZE[1] // s)).astype(np.float32) for s in strides]
    expected = decoded(maps)
    outputs = apart(maps, first) if divided else maps
    at = layout_of(outputs)
    decode, own = (
        head(f"{name}-maps").decode(at, conf, multi_label),
        head(name).decode(layout_of(expected), conf, multi_label),
    )
    for image in range(2):
        results, expected_boxes = decode(outputs, image), own(expected, image)
        assert [part.dtype for part in results] == [part.dtype for part in expected_boxes] and len(results[0])
        for part, other in zip(results, expected_boxes, strict=True):
            np.testing.assert_allclose(np.asarray(part), np.asarray(other), rtol=2e-4, atol=2e-4)
    assert head(f"{name}-maps").classes(at) == CLASSES
    assert choose(at, {HEAD_KEY: f"{name}-maps"}) == f"{name}-maps"


def test_scores_that_are_no_numbers_come_out_so_that_they_can_be_counted() -> None:
    for name, (_, channels, _, strides) in FAMILIES.items():
        maps = [np.full((1, channels, SIZE[0] // s, SIZE[1] // s), np.nan, np.float32) for s in strides]
        with np.errstate(invalid="ignore"):
            assert np.isnan(head(f"{name}-maps").decode(layout_of(maps), 0.4)(maps, 0)[1]).any()


@pytest.mark.parametrize(
    "shapes",
    [[(1, 67, 126)], [(1, 67, 8, 12), (1, 66, 4, 6)], [(1, 67, 7, 12)], [(1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 2, 3)]],
    ids=["a table", "levels of different width", "no whole stride", "no classes"],
)
def test_other_outputs_are_refused(shapes: list[tuple[int, ...]]) -> None:
    at = layout({f"output{i}": shape for i, shape in enumerate(shapes)}, SIZE)
    with pytest.raises(ModelError, match="head 'yolov8-maps' cannot read this network"):
        check("yolov8-maps", at)


def test_a_file_that_names_a_head_which_cannot_read_it_is_refused() -> None:
    with pytest.raises(ModelError, match="head 'yolov8-maps' cannot read this network"):
        choose(layout({"output0": (1, 84, 8400)}), {HEAD_KEY: "yolov8-maps"})


def loops(name: str, seed: int = 1) -> Case:
    """Cell by cell, following the papers and repositories that the heads cite."""
    family = name.removesuffix("-maps")
    strides = (16,) if family == "fastestdet" else (8, 16, 32)
    before, after = {"yolov8": (64, 0), "yolox": (5, 0), "nanodet": (0, 32), "fastestdet": (5, 0)}[family]
    outputs: dict[str, NDArray[np.generic]] = {}
    expected: list[Values] = []
    for stride in strides:
        shape = 1, before + CLASSES + after, SIZE[0] // stride, SIZE[1] // stride
        raw = noise(seed + stride, *shape)
        raw[:, before : before + CLASSES] = logit(scores(seed + stride, 1, CLASSES, *shape[2:]) ** 0.4)
        if family in ("yolox", "fastestdet"):
            chances = raw[:, 4] if family == "yolox" else raw[:, 0]
            chances[...] = logit(scores(seed, *chances.shape) ** 0.2)
        outputs[f"map{stride}"] = raw
        for _, x, y in cells(SIZE, stride):
            box, score, label = one_cell(family, raw[0, :, y, x].astype(np.float64).tolist(), (x, y), stride)
            if score >= CONF:
                expected.append((*box, score, label))
    return Case(name, outputs, tuple(expected), named=True)


def one_cell(
    family: str, row: list[float], at: tuple[int, int], stride: int
) -> tuple[tuple[float, float, float, float], float, int]:
    x, y = at
    if family in ("yolov8", "nanodet"):
        count = 16 if family == "yolov8" else 8
        chances, bins = (row[64:], row[:64]) if family == "yolov8" else (row[:CLASSES], row[CLASSES:])
        sides = []
        for k in range(4):
            weights = [math.exp(value) for value in bins[k * count : (k + 1) * count]]
            sides.append(sum(i * weight for i, weight in enumerate(weights)) / sum(weights))
        left, top, right, bottom = sides
        corners = (x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom)
        score, label = max((sigma(value), c) for c, value in enumerate(chances))
    elif family == "yolox":
        w, h = math.exp(row[2]) / 2, math.exp(row[3]) / 2
        corners = (row[0] + x - w, row[1] + y - h, row[0] + x + w, row[1] + y + h)
        score, label = max((sigma(row[4]) * sigma(value), c) for c, value in enumerate(row[5:]))
    else:
        w, h = sigma(row[3]) * SIZE[1] / stride / 2, sigma(row[4]) * SIZE[0] / stride / 2
        cx, cy = math.tanh(row[1]) + x, math.tanh(row[2]) + y
        corners = (cx - w, cy - h, cx + w, cy + h)
        weights = [math.exp(value) for value in row[5:]]
        score, label = max((sigma(row[0]) ** 0.6 * (w / sum(weights)) ** 0.4, c) for c, w in enumerate(weights))
    x1, y1, x2, y2 = (value * stride for value in corners)
    return (x1, y1, x2, y2), score, label


CASES = [loops(name) for name in ("yolov8-maps", "yolox-maps", "nanodet-maps", "fastestdet-maps")]


def test_a_file_must_not_name_a_head_in_a_python_file(tmp_path: Path) -> None:
    """Otherwise a model could choose which code is run."""
    (tmp_path / "theirs.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match=r"names a head in a Python file, .*theirs.*: only a recipe may"):
        choose(CASES[0].layout, {HEAD_KEY: f"{tmp_path}/theirs.py:Head"})

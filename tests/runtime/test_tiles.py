"""Tiles: where they are, and that an object in several of them is detected once."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squares
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec, Run, parse
from edgesparse.errors import ConfigError
from edgesparse.model import load as models
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.merge import Limits, merged
from edgesparse.tiles import MOST, Part, Tiles, parts_of

LIMITS = Limits(0.7, 300, False)
Box = tuple[int, int, int, int]


def tiles_of(value: Any) -> Any:
    return parse({"model": "m.onnx", "run": {"tiles": value}}, "recipe").run.tiles


def seen_in(part: Part, objects: list[tuple[Box, int]], smallest: int = 6) -> Detections:
    """What a perfect detector sees in a part: the visible piece of each object, unless it is tiny."""
    rows = []
    for (left, top, right, bottom), label in objects:
        piece = (
            max(left - part.left, 0),
            max(top - part.top, 0),
            min(right - part.left, part.width),
            min(bottom - part.top, part.height),
        )
        if piece[2] - piece[0] >= smallest and piece[3] - piece[1] >= smallest:
            rows.append((*piece, label))
    values = np.array(rows, np.float32).reshape(-1, 5)
    confidence = np.linspace(0.9, 0.5, len(rows)).astype(np.float32)
    return Detections(values[:, :4], confidence, values[:, 4].astype(np.int64))


def views(tiles: Tiles, frame: tuple[int, int], size: tuple[int, int] = (64, 64)) -> list[Part]:
    return [Part(0, 0, *frame), *parts_of(tiles, frame, size)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(32, 900), st.integers(32, 900)),
    st.floats(0, 0.9),
)
@example((1080, 1920), (640, 640), 0.2)
@example((641, 640), (640, 640), 0.2)
def test_tiles_cover_the_frame_and_overlap_as_much_as_they_should(
    frame: tuple[int, int], size: tuple[int, int], overlap: float
) -> None:
    tiles = Tiles(size=size, overlap=overlap)
    try:
        parts = parts_of(tiles, frame, (64, 64))
    except ConfigError as error:
        assert "run.tiles: found" in str(error) and f"needed at most {MOST - 1}: set tiles.size to" in str(error)
        parts = parts_of(Tiles(overlap=overlap), frame, size)  # the default grows until they fit
    assert len(parts) < MOST and len(parts) != 1
    for side in (0, 1) if parts else ():
        starts = sorted({part[side] for part in parts})
        length = parts[0][2 + side]
        assert all(part[2 + side] == length and part[side] + length <= frame[side] for part in parts)
        assert starts[0] == 0 and starts[-1] + length == frame[side]
        for first, second in pairwise(starts):
            assert first % 2 == 0 and first + length - second >= int(length * overlap)


def test_an_error_says_which_size_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        parts_of(tiles_of(256), (2160, 3840), (640, 640))
    assert str(caught.value) == (
        "run.tiles: found 209 tiles of 256x256 in a frame of 3840x2160, needed at most 63: set tiles.size to 512x512, "
        "or to 'auto'"
    )
    assert len(parts_of(tiles_of(512), (2160, 3840), (640, 640))) <= 63


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none", "none"),
        ("auto", Tiles()),
        (640, Tiles(size=(640, 640))),
        ("640,0.3", Tiles(size=(640, 640), overlap=0.3)),
        ({"size": [480, 640]}, Tiles(size=(480, 640))),
        ({"regions": [[0.5, 0, 1, 0.5]]}, Tiles(regions=((0.5, 0, 1, 0.5),))),
    ],
)
def test_what_a_recipe_may_say(value: Any, expected: Any) -> None:
    assert tiles_of(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("some", "run.tiles: found 'some' (text), needed none, auto, a size as 640 or 640,0.2, or a mapping"),
        ({"size": 640, "regions": [[0, 0, 1, 1]]}, "needed size or regions, not both"),
        ({"regions": [[0.5, 0, 0.2, 1]]}, "needed regions as [left, top, right, bottom]"),
        ({"overlap": 1}, "run.tiles.overlap: found 1"),
    ],
)
def test_what_it_may_not_say(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiles_of(value)
    assert message in str(caught.value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.integers(0, 470), st.integers(0, 310), st.integers(8, 480), st.integers(8, 320)),
    st.sampled_from([98, 120, 160]),
    st.floats(0, 0.5),
    st.booleans(),
)
@example((94, 94, 8, 8), 98, 0.0, False)  # on a corner of four tiles
@example((0, 0, 480, 320), 98, 0.2, False)  # the whole frame
def test_an_object_anywhere_is_one_box(where: Box, size: int, overlap: float, whole: bool) -> None:
    """Also where only pieces of it are seen: `whole` is whether it is seen in the whole frame."""
    left, top, width, height = where
    box = (left, top, min(left + width, 480), min(top + height, 320))
    parts = views(Tiles(size=(size, size), overlap=overlap), (320, 480))
    seen = [seen_in(part, [(box, 0)]) for part in parts]
    if not whole:
        if overlap * size < 16:
            return  # pieces that do not overlap cannot be told from two objects
        seen[0] = seen[0][[]]
    boxes = merged(parts, seen, LIMITS).xyxy
    assert len(boxes) == 1
    np.testing.assert_allclose(boxes[0], box, atol=6)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 63), st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_shifting_the_frame_neither_doubles_nor_loses_objects(x: int, y: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = random.permutation(20)[:8]
    objects = []
    for label, cell in enumerate(cells.tolist()):
        width, height = random.integers(10, 70, 2).tolist()
        left, top = cell % 5 * 80 + x, cell // 5 * 75 + y
        objects.append(((left, top, left + width, top + height), label % 2))
    parts = views(Tiles(size=(96, 96)), (400, 480))
    result = merged(parts, [seen_in(part, objects) for part in parts], LIMITS)
    assert sorted(result.xyxy.tolist()) == sorted([float(v) for v in box] for box, _ in objects)


def test_a_small_object_in_front_of_a_large_one_is_another_object() -> None:
    objects = [((10, 10, 300, 300), 0), ((100, 100, 130, 150), 0)]
    parts = views(Tiles(size=(128, 128)), (320, 480))
    result = merged(parts, [seen_in(part, objects) for part in parts], LIMITS)
    assert sorted(result.xyxy.tolist()) == [[10, 10, 300, 300], [100, 100, 130, 150]]


def test_the_box_is_from_where_all_of_the_object_is_seen() -> None:
    """A piece that is detected with more confidence raises the confidence, and does not cut the box."""
    parts = [Part(0, 0, 64, 128), Part(0, 0, 64, 64), Part(0, 64, 64, 64)]
    boxes = np.array([[[40, 10, 90, 30]], [[40, 10, 62, 30]], [[0, 10, 26, 30]]], np.float32)
    scores, label = np.array([0.4, 0.9, 0.6], np.float32), np.zeros(1, np.int64)
    seen = [Detections(box, scores[i : i + 1], label) for i, box in enumerate(boxes)]
    result = merged(parts, seen, LIMITS)
    assert result.xyxy.tolist() == [[40, 10, 90, 30]] and result.confidence.tolist() == pytest.approx([0.9])


def canvas(height: int, width: int, cells: list[squares.Square]) -> NDArray[np.uint8]:
    frame = np.zeros((height, width, 3), np.uint8)
    for column, row, label in cells:
        frame[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, 1 if label else 2] = 255
    return frame


def tiled(folder: Path, batch: int, **run: Any) -> Detector:
    """The detector of squares, whose input is 64 pixels, on tiles of 64 pixels."""
    path = folder / f"squares{batch}.onnx"
    models.save(models.fix_shapes(models.load(squares.detector(folder / "any.onnx")), batch, (64, 64)), path)
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    return Detector(backend("onnxruntime").load(path), spec, Run(conf=0.6, **run))


SCENE = [(0, 0, 0), (7, 3, 1), (6, 7, 0), (23, 11, 1), (12, 9, 0), (20, 0, 1)]


@pytest.mark.parametrize("batch", [1, 4, 9, 16])
def test_a_detector_sees_every_square_once_with_an_engine_of_any_batch(
    tmp_path: Path, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    frame = canvas(96, 192, SCENE)
    with tiled(tmp_path, batch, tiles=Tiles(overlap=0.25)) as detect:
        assert detect.batch == 1
        images = 1 + len(parts_of(Tiles(overlap=0.25), (96, 192), (64, 64)))
        for _ in range(2):
            result = detect(frame)
        assert detect.images == (images, -(-images // batch))
        squares_seen = {
            (int(box[0]) // 8, int(box[1]) // 8, int(label))
            for box, label in zip(result.xyxy, result.class_id, strict=True)
        }
        assert squares_seen == set(SCENE) and len(result) == len(SCENE)
        assert all((box[2:] - box[:2]).tolist() == [8, 8] for box in result.xyxy)
        small = detect(frame[:64, :64])
    assert detect.images == (1, 1) and len(small) == 3
    logged = [record.getMessage() for record in caplog.records]
    rounds = -(-images // batch)
    assert logged == ([] if rounds == 1 else [detect.notice])
    if rounds > 1:
        assert f"are {images} images, which take {rounds} runs of the engine, whose batch is {batch}" in detect.notice


def test_each_kind_of_pixels_has_tiles(tmp_path: Path) -> None:
    frame = canvas(96, 192, SCENE)
    with tiled(tmp_path, 9, tiles=Tiles(overlap=0.25)) as detect:
        (rgb,) = detect.detect([np.ascontiguousarray(frame[..., ::-1])], "rgb")
        assert len(rgb) == len(SCENE)
        gray = np.full((96 * 3 // 2, 192), 128, np.uint8)
        assert detect.detect([gray], "nv12")[0].xyxy.shape == (0, 4)


def test_regions_are_seen_beside_the_whole_frame(tmp_path: Path) -> None:
    frame = canvas(128, 256, [(2, 2, 0), (30, 13, 1)])
    with tiled(tmp_path, 2, tiles=Tiles(regions=((0.75, 0.5, 1, 1),))) as detect:
        result = detect(frame)
    assert detect.images == (2, 1)
    assert [box.tolist() for box in result.xyxy] == [[240, 104, 248, 112]]  # the other is too small in the whole frame


def test_frames_of_one_call_may_have_different_tiles(tmp_path: Path) -> None:
    frame = canvas(96, 192, SCENE)
    with tiled(tmp_path, 9) as detect:
        assert detect.batch == 9
        detect.submit([frame, frame], tiles=[Tiles(overlap=0.25), None])
        first, second = detect.collect()
    assert len(first) == len(SCENE) and len(second) == 0


def test_nothing_of_a_frames_size_is_allocated(tmp_path: Path) -> None:
    frame = canvas(1080, 1920, SCENE)
    with tiled(tmp_path, 8, tiles=Tiles(size=(640, 640))) as detect:
        for _ in range(3):
            detect(frame)
        tracemalloc.start()
        for _ in range(3):
            detect(frame)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert detect.images == (9, 2) and peak < 640 * 640


def test_an_error_in_a_round_loses_that_batch_alone(tmp_path: Path) -> None:
    frame = canvas(96, 192, SCENE)
    with tiled(tmp_path, 2, tiles=Tiles(overlap=0.25)) as detect:
        infer, calls = detect.runner.infer, iter(range(100))

        def fails_once() -> None:
            if next(calls) == 1:
                raise ConfigError("as if the engine failed")
            infer()

        detect.runner.infer = fails_once  # type: ignore[method-assign]
        with pytest.raises(ConfigError):
            detect(frame)
        assert detect.in_flight == 0 and len(detect(frame)) == len(SCENE)


def test_a_classifier_has_no_tiles(tmp_path: Path) -> None:
    path = squares.constant(tmp_path / "classifier.onnx", {"output0": np.full((1, 2), 0.5, np.float32)})
    spec = DetectorSpec(head="classifier", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    with backend("onnxruntime").load(path) as runner, pytest.raises(ConfigError) as caught:
        Detector(runner, spec, Run(tiles=Tiles()))
    assert str(caught.value) == "run.tiles: a classifier sees the whole frame: remove tiles, or use a detector"

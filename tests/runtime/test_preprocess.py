"""From frames to the network's input: geometry in both directions, pixels against a simple reference, reused
buffers."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.config import InputSpec
from edgesparse.errors import ModelError, SourceError
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.preprocess import Preprocessor

KINDS = get_args(config.Letterbox)
INSIDE = tuple(kind for kind in KINDS if kind != "crop")
sides = st.integers(1, 2000)
sizes = st.tuples(sides, sides)
inputs = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda hw: (32 * hw[0], 32 * hw[1]))
kinds = st.sampled_from(KINDS)
unit = st.floats(0, 1, width=32)


def frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(sizes, inputs, kinds, st.tuples(unit, unit, unit, unit))
@example((1080, 1920), (640, 640), "centre", (0, 0, 1, 1))
@example((1920, 1080), (640, 640), "top-left", (0, 0, 1, 1))
@example((1, 2000), (416, 416), "centre", (0, 0, 1, 1))
@example((2000, 1), (416, 416), "top-left", (0, 0, 1, 1))
def test_boxes_in_the_frame_come_back_from_the_input(
    size: tuple[int, int], into: tuple[int, int], kind: config.Letterbox, shares: tuple[float, float, float, float]
) -> None:
    box = Letterbox.fit(size, into, kind)
    xyxy = np.array([shares], np.float32) * np.array([size[1], size[0]] * 2, np.float32)
    np.testing.assert_allclose(box.to_frame(box.to_input(xyxy)), xyxy, atol=1e-3 * max(size))


@given(sizes, inputs, st.sampled_from(INSIDE))
def test_the_frames_corners_are_those_of_its_rectangle_inside_the_input(
    size: tuple[int, int], into: tuple[int, int], kind: config.Letterbox
) -> None:
    box = Letterbox.fit(size, into, kind)
    assert box.height >= 1 and box.top >= 0 and box.top + box.height <= into[0]
    assert box.width >= 1 and box.left >= 0 and box.left + box.width <= into[1]
    assert box.height == into[0] or box.width == into[1]
    corners = np.array([[0, 0, size[1], size[0]]], np.float32)
    expected = [[box.left, box.top, box.left + box.width, box.top + box.height]]
    np.testing.assert_allclose(box.to_input(corners), expected, rtol=1e-5)


@given(st.integers(1, 40), st.integers(2, 60), st.sampled_from(["centre", "top-left"]))
def test_a_frame_of_the_inputs_ratio_fills_it(by: int, cells: int, kind: config.Letterbox) -> None:
    """Even if the ratio is not an exact float: 1248 pixels times 1/3 is 416, not 415."""
    box = Letterbox.fit((by * cells, by * cells), (cells, cells), kind)
    assert (box.top, box.left, box.height, box.width) == (0, 0, cells, cells)


def test_each_family_rounds_as_its_trainer_does() -> None:
    size = (427, 640)  # 640 pixels wide resized to 416: 277.55 rows
    assert Letterbox.fit(size, (416, 416), "centre").height == 278
    assert Letterbox.fit(size, (416, 416), "centre").top == 69
    assert Letterbox.fit(size, (416, 416), "top-left").height == 277
    assert Letterbox.fit(size, (416, 416), "stretch").height == 416


@given(sizes, inputs)
def test_a_cropped_frame_covers_the_input_and_is_cut_off_alike_at_both_ends(
    size: tuple[int, int], into: tuple[int, int]
) -> None:
    box = Letterbox.fit(size, into, "crop")
    assert box.top <= 0 and box.left <= 0 and (box.height == into[0] or box.width == into[1])
    assert abs(box.height + 2 * box.top - into[0]) <= 1 and abs(box.width + 2 * box.left - into[1]) <= 1


def test_boxes_outside_the_frame_are_clipped_to_it() -> None:
    box = Letterbox.fit((100, 200), (64, 64), "centre")
    assert box.to_frame(np.array([[-50, -50, 500, 500]], np.float32)).tolist() == [[0, 0, 200, 100]]


SPECS = [
    InputSpec(size=(64, 96)),
    InputSpec(size=(64, 96), colour="bgr", scale=1.0),
    InputSpec(size=(64, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pad=0),
]
RAW = InputSpec(size=(64, 96), scale=1.0)
FRAMES = [(48, 48), (120, 40), (40, 120), (64, 96), (1, 90), (90, 1), (3, 333)]


def shares(source: int, target: int) -> NDArray[np.float64]:
    """Pillow's triangle filter [target, source]: how much each pixel of a side weighs in each resized one."""
    scale = source / target
    centers = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - centers[:, None]) / max(scale, 1)
    triangle = np.maximum(0, 1 - distance)
    return triangle / triangle.sum(axis=1, keepdims=True)


def reference(image: NDArray[np.uint8], spec: InputSpec, dtype: str) -> NDArray[Any]:
    """The simplest implementation: canvas, paste, colours, arithmetic, transpose."""
    box = Letterbox.fit(image.shape[:2], spec.size, spec.letterbox)
    canvas = np.full((*spec.size, 3), spec.pad, np.uint8)
    if spec.letterbox == "crop":
        across, down = shares(image.shape[1], box.width), shares(image.shape[0], box.height)
        narrow = np.floor(np.einsum("hwc,xw->hxc", image, across) + 0.5)
        canvas[...] = np.floor(np.einsum("yh,hxc->yxc", down, narrow) + 0.5)[-box.top :, -box.left :][
            : spec.size[0], : spec.size[1]
        ]
    else:
        resized = cv2.resize(image, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        canvas[box.top : box.top + box.height, box.left : box.left + box.width] = resized
    pixels = (canvas if spec.colour == "bgr" else canvas[..., ::-1]).astype(np.float64)
    return ((pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spec", "dtype"), [*product(SPECS, ["float32", "float16"]), (RAW, "uint8")])
def test_pixels_are_those_of_opencv_and_numpy(spec: InputSpec, dtype: str, kind: config.Letterbox) -> None:
    """For frames of every shape, one after another in one slot: leftovers of the previous frame are padded over."""
    spec = spec.model_copy(update={"letterbox": kind})
    buffer = np.zeros((1, 3, *spec.size), dtype)
    preprocess = Preprocessor(spec, buffer)
    for size in FRAMES:
        preprocess(frame(*size))
        expected = reference(frame(*size), spec, dtype)
        level = spec.scale / min(spec.std) if kind == "crop" else 0.0  # a half may be rounded up or down
        rtol = 1e-6 if dtype != "float16" else 1e-3
        np.testing.assert_allclose(
            buffer[0].astype(float), expected.astype(float), rtol, 1.01 * level, err_msg=str(size)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_a_network_that_takes_bytes_gets_the_pixels_as_they_are(colour: config.Colour, kind: config.Letterbox) -> None:
    """It scales by itself, so the recipe's scale, mean and std are not applied a second time."""
    scaled = SPECS[0].model_copy(update={"letterbox": kind, "colour": colour, "mean": (0.5, 0.4, 0.3)})
    raw = scaled.model_copy(update={"scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    buffer = np.zeros((1, 3, *scaled.size), np.uint8)
    preprocess = Preprocessor(scaled, buffer)
    for size in FRAMES:
        preprocess(frame(*size))
        difference = np.abs(buffer[0].astype(int) - reference(frame(*size), raw, "uint8").astype(int))
        assert difference.max() <= (1 if kind == "crop" else 0), size


def test_each_slot_of_a_batch_has_its_own_frame_and_pad() -> None:
    spec = SPECS[0]
    buffer = np.zeros((3, 3, *spec.size), np.float32)
    preprocess = Preprocessor(spec, buffer)
    for shift in range(3):
        images = [frame(*FRAMES[slot + shift], seed=slot) for slot in range(3)]
        for slot, image in enumerate(images):
            preprocess(image, slot)
        for slot, image in enumerate(images):
            np.testing.assert_allclose(buffer[slot], reference(image, spec, "float32"), rtol=1e-6)


TORCHVISION = [
    [[101, 116, 117, 123, 138, 153, 154, 148], [156, 138, 106, 109, 124, 139, 145, 148]],
    [[110, 140, 131, 108, 122, 148, 122, 122], [115, 125, 133, 130, 127, 108, 122, 129]],
    [[129, 119, 131, 134, 124, 118, 134, 134], [135, 124, 116, 132, 135, 126, 122, 135]],
]
"""The first two rows of the red, green and blue planes of the image below after Resize(8) and CenterCrop(8) of
torchvision 0.29.1, which are Ultralytics 8.4.190's `classify_transforms(8)`."""


def test_a_classifiers_pixels_are_torchvisions() -> None:
    """Without antialiasing they differ by more than 60 of 255, and the class of many images differs too."""
    y, x = np.mgrid[:40, :70]
    image = np.stack([(x * 37 + y * 11) % 256, (x * x + y * 5) % 256, (x * 3 + y * y * 7) % 256], -1).astype(np.uint8)
    buffer = np.zeros((1, 3, 8, 8), np.uint8)
    Preprocessor(InputSpec(size=(8, 8), letterbox="crop"), buffer)(image)
    assert buffer[0, :, :2].tolist() == TORCHVISION
    without = cv2.resize(image, (14, 8))[:, 3:11, ::-1].transpose(2, 0, 1)
    assert np.abs(without[:, :2].astype(int) - TORCHVISION).max() > 60


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("size", [(480, 640), (640, 480), (300, 1000), (100, 50)])
def test_what_is_drawn_in_the_frame_lies_in_the_input_where_the_mapping_says(
    size: tuple[int, int], kind: config.Letterbox
) -> None:
    spec = InputSpec(size=(256, 320), letterbox=kind, pad=0)
    buffer = np.zeros((1, 3, *spec.size), np.float32)
    image = np.zeros((*size, 3), np.uint8)
    drawn = np.array([[size[1] // 5, size[0] // 3, size[1] // 2, size[0] // 2]], np.float32)
    x1, y1, x2, y2 = drawn[0].astype(int)
    image[y1:y2, x1:x2] = 255
    box = Preprocessor(spec, buffer)(image)
    light = buffer[0, 0] / buffer[0, 0].sum()
    rows, columns = np.mgrid[: spec.size[0], : spec.size[1]] + 0.5
    expected = box.to_input(drawn)[0]
    assert float((light * columns).sum()) == pytest.approx((expected[0] + expected[2]) / 2, abs=0.5)
    assert float((light * rows).sum()) == pytest.approx((expected[1] + expected[3]) / 2, abs=0.5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_frame_of_a_known_size_allocates_no_image(dtype: str) -> None:
    spec = InputSpec(size=(640, 640), scale=1.0)
    preprocess = Preprocessor(spec, np.zeros((1, 3, 640, 640), dtype))
    image = frame(720, 1280)
    preprocess(image)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(5):
        preprocess(image)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 100_000


BAD_FRAMES = {
    "gray": np.zeros((48, 64), np.uint8),
    "one channel": np.zeros((48, 64, 1), np.uint8),
    "with alpha": np.zeros((48, 64, 4), np.uint8),
    "float": np.zeros((48, 64, 3), np.float32),
    "empty": np.zeros((0, 64, 3), np.uint8),
    "nothing": np.zeros((0,), np.uint8),
}


@pytest.mark.parametrize("warm", [False, True], ids=["first", "after a good one"])
@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_what_is_no_bgr_frame_is_refused(bad: NDArray[Any], warm: bool) -> None:
    preprocess = Preprocessor(SPECS[0], np.zeros((1, 3, 64, 96), np.float32))
    if warm:
        preprocess(frame(48, 64))
    with pytest.raises(SourceError, match=r"needed H x W x 3 uint8 \(BGR\)"):
        preprocess(bad)


@pytest.mark.parametrize(
    ("buffer", "spec", "needed"),
    [
        (np.zeros((1, 1, 64, 96), np.float32), RAW, "needed N x 3 x H x W"),
        (np.zeros((1, 3, 64, 96), np.float64), RAW, "float32, float16, int8 or uint8"),
        (np.zeros((1, 3, 32, 32), np.float32), RAW, "input is 32x32, the recipe's input.size is 64x96"),
    ],
)
def test_a_buffer_that_cannot_hold_these_images_is_refused(buffer: NDArray[Any], spec: InputSpec, needed: str) -> None:
    with pytest.raises(ModelError, match=needed):
        Preprocessor(spec, buffer)

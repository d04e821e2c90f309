"""The letterbox kernel, built for the CPU, against OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake
from gpu_detector import SIZE, detector, expected, still
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgesparse.backends.cuda.images import rows_read
from edgesparse.backends.cuda.layouts import taps
from edgesparse.backends.frames import PIXELS, Pixels, Place
from edgesparse.config import InputSpec

pytestmark = pytest.mark.usefixtures("host_built_kernels")


def possible(size: tuple[int, int], pixels: Pixels) -> tuple[int, int]:
    """The next height and width that frames of these pixels may have."""
    height, width = size
    if pixels == "nv12":
        height += height % 2
    if pixels in ("nv12", "yuyv"):
        width += width % 2
    return height, width


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 200)),
    st.sampled_from(PIXELS),
    st.sampled_from(["centre", "top-left", "stretch"]),
    st.sampled_from(["rgb", "bgr"]),
)
@example((63, 96), "bgr", "centre", "rgb")  # a pad of one pixel
@example((64, 95), "bgr", "centre", "rgb")
@example((190, 33), "bgr", "centre", "rgb")  # portrait
@example((192, 192), "nv12", "top-left", "bgr")
@example((128, 192), "bgr", "centre", "rgb")  # half, which OpenCV resizes differently
@example((64, 96), "yuyv", "centre", "rgb")
@example((1, 1), "bgr", "centre", "rgb")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pixels_are_opencvs(
    fake: Fake, tmp_path: Path, size: tuple[int, int], pixels: Pixels, letterbox: Any, colour: Any
) -> None:
    height, width = possible(size, pixels)
    spec = InputSpec(size=SIZE, letterbox=letterbox, colour=colour)
    frame = still(height, width, pixels)
    with detector(fake, tmp_path, spec=spec) as detect:
        detect.detect([frame], pixels)
    assert fake.seen is not None
    error = np.abs(fake.seen[0] - expected(frame, pixels, spec)).max() * 255
    assert error <= (1.01 if pixels in ("bgr", "rgb") else 2.01)


@pytest.mark.parametrize("fake", [False], indirect=True, ids=["discrete"])
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 500)),
    st.sampled_from(PIXELS),
    st.sampled_from(["rgb", "bgr"]),
    st.booleans(),
)
@example((640, 961), "bgr", "rgb", False)
@example((128, 192), "bgr", "rgb", False)  # half: many means are halves
@example((300, 2), "rgb", "bgr", True)
@example((1, 1), "bgr", "rgb", False)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cropped_frames_are_resized_with_antialiasing(
    fake: Fake, tmp_path: Path, size: tuple[int, int], pixels: Pixels, colour: Any, locked: bool
) -> None:
    """By the same rule as on the CPU; where a mean is a half, rounding may differ."""
    height, width = possible(size, pixels)
    spec = InputSpec(size=SIZE, letterbox="crop", colour=colour)
    frame = still(height, width, pixels)
    with detector(fake, tmp_path, spec=spec) as detect:
        if locked:
            buffer = detect.frame_buffer(frame.shape)
            buffer[...], frame = frame, buffer
        detect.detect([frame], pixels)
        assert fake.seen is not None and detect.where.startswith("the GPU")
        error = np.abs(fake.seen[0] - expected(frame, pixels, spec)) * 255
        del frame
    assert error.max() <= (1.01 if pixels in ("bgr", "rgb") else 2.01)
    assert np.mean(error < 0.01) > 0.98


@pytest.mark.parametrize(("trt", "dtype"), [("FLOAT", "float32"), ("INT8", "int8"), ("UINT8", "uint8")])
def test_values_are_scaled_as_the_network_wants_them(fake: Fake, tmp_path: Path, trt: str, dtype: str) -> None:
    spec = InputSpec(size=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pad=7)
    if dtype == "int8":
        spec = spec.model_copy(update={"scale": 0.5, "mean": (10, 20, 30), "std": (1, 0.5, 1)})
    frame = still(50, 70)
    with detector(fake, tmp_path, dtype=trt, spec=spec) as detect:
        detect(frame)
    assert fake.seen is not None and fake.seen.dtype == dtype
    right = expected(frame, "bgr", spec, dtype)
    np.testing.assert_allclose(fake.seen[0].astype(float), right.astype(float), atol=1e-5 if trt == "FLOAT" else 1)
    assert trt == "FLOAT" or np.mean(fake.seen[0] == right) > 0.99


@pytest.mark.parametrize("batch", range(1, 9))
def test_a_batch_takes_frames_of_any_size_and_kind(fake: Fake, tmp_path: Path, batch: int) -> None:
    sizes = [(64, 96), (30, 40), (200, 50), (99, 101), (2, 300), (64, 64), (77, 130), (480, 640)]
    kinds: list[Pixels] = ["bgr", "nv12", "yuyv", "bgr", "nv12", "yuyv", "bgr", "bgr"]
    spec = InputSpec(size=SIZE)
    with detector(fake, tmp_path, batch=batch) as detect:
        assert detect.where == "the GPU, as one CUDA graph"
        for turn in range(3):
            some = [(sizes[(i + turn) % 8], kinds[(i + turn) % 8]) for i in range(max(1, batch - turn))]
            frames = [still(*size, pixels=kind, seed=i) for i, (size, kind) in enumerate(some)]
            detect.detect(frames, [kind for _, kind in some])
            assert fake.seen is not None
            for i, (frame, (_, kind)) in enumerate(zip(frames, some, strict=True)):
                assert np.abs(fake.seen[i] - expected(frame, kind, spec)).max() * 255 <= 2.01, (turn, i)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 3))
@example(3, 360, 0)
@example(6, 360, 0)
def test_the_rows_that_are_copied_hold_all_that_weigh_anything(times: int, height: int, more: int) -> None:
    lines = max(1, times * height - more)
    place = Place("bgr", lines, 5, 0, 0, height, 5)
    copied = np.zeros((lines, 5, 3), np.uint8)
    rows_read(copied, place)[...] = 1
    pairs = taps(lines, height, False)
    weigh = np.concatenate([pairs["at"][pairs["near"] > 0], pairs["at"][pairs["far"] > 0] + 1])
    assert copied[np.clip(weigh, 0, lines - 1)].all()
    if not more and times > 2:
        assert copied.sum() == 15 * height * (1 if times % 2 else 2), "and no others"


def test_of_a_frame_elsewhere_only_those_rows_are_copied(fake: Fake, tmp_path: Path) -> None:
    frame = still(3 * SIZE[0], 3 * SIZE[1])
    with detector(fake, tmp_path) as detect:
        for _ in range(2 * detect.depth):
            detect(frame)
        (image,) = detect._rounds._ring._slots[0]._images  # type: ignore[attr-defined]
        staged = image.source.reshape(frame.shape)
        assert (staged[1::3] == frame[1::3]).all() and not staged[::3].any() and not staged[2::3].any()
        assert fake.seen is not None
        np.testing.assert_allclose(fake.seen[0], expected(frame, "bgr", InputSpec(size=SIZE)), atol=0.004)

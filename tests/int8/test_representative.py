"""Warnings about calibration images that do not represent what the detector will see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgesparse.config import InputSpec
from edgesparse.int8.histograms import MagnitudeHistogram
from edgesparse.int8.representative import ImageStatistics, size_warnings, unsettled

SPEC = InputSpec(size=(48, 64))


def scenes(count: int, low: float = 0, high: float = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    """Different scenes: coarse random fields, preprocessed according to SPEC."""
    coarse = np.random.default_rng(seed).uniform(low, high, (count, 3, 6, 8))
    return coarse.repeat(8, 2).repeat(8, 3).astype(np.float32)


def message(images: npt.NDArray[np.float32], spec: InputSpec | None = SPEC, batch: int = 4) -> list[str]:
    captured = ImageStatistics(spec)
    for start in range(0, len(images), batch):
        captured.add(images[start : start + batch])
    return captured.warnings()


def test_many_bright_varied_images_raise_no_warning() -> None:
    assert message(scenes(120)) == []


def test_too_few_are_counted() -> None:
    (warning,) = message(scenes(7))
    assert "only 7 calibration images" in warning


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC.model_copy(update={"scale": 1.0}),
        SPEC.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}),
    ],
)
def test_dark_images_are_measured_in_the_recipe_s_scale(spec: InputSpec) -> None:
    def fed(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
        return ((images * 255 * spec.scale - mean) / std).astype(np.float32)

    (warning,) = message(fed(scenes(120, 0, 0.12)), spec)
    assert "dark (6% of white" in warning
    assert message(fed(scenes(120)), spec) == []


def test_padding_does_not_brighten_dark_images() -> None:
    dark = scenes(120, 0, 0.12)
    dark[:, :, 24:] = SPEC.pad / 255
    (warning,) = message(dark)
    assert "dark (6% of white" in warning


def test_similar_images_are_measured() -> None:
    same = scenes(1).repeat(120, 0) + 0.02 * scenes(120, seed=1)
    (warning,) = message(same)
    assert "alike (they differ by" in warning
    assert message(np.full((120, 3, 48, 64), 0.5, np.float32))  # all images are blank


@pytest.mark.parametrize("batch", [1, 7, 120])
def test_the_figures_do_not_depend_on_the_batches(batch: int) -> None:
    images = scenes(120, 0, 0.2) * 0.6
    assert message(images, batch=batch) == message(images, batch=4) != []


def counted(values: npt.NDArray[np.float32]) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    histogram.add(values)
    return histogram


def test_ranges_that_keep_growing_are_named_with_figures() -> None:
    values = np.random.default_rng(0).standard_normal((10, 10_000)).astype(np.float32)
    earlier = {f"t{i}": counted(row) for i, row in enumerate(values)}
    settled = {f"t{i}": counted(np.tile(row, 2)) for i, row in enumerate(values)}
    assert unsettled(earlier, settled, 64) == []
    grown = {
        name: counted(row * (1.5 if i < 4 else 1)) for i, (name, row) in enumerate(zip(earlier, values, strict=True))
    }
    (warning,) = unsettled(earlier, grown, 64)
    assert "4 of 10 tensors grew by more than 10% (most: t0 by 50%) after the first 64 images" in warning
    few = {**settled, "t9": grown["t0"]}
    assert unsettled(earlier, few, 64) == []


@pytest.mark.parametrize(
    "frames, says",
    [
        ([(480, 640)] * 20, []),
        ([(1080, 1920)] * 20, []),
        ([(96, 128)] * 5 + [(480, 640)] * 15, ["5 of 20 .* 480x640 .*96x128"]),
        ([(1920, 1080)] * 20, ["58% of the input is padding"]),
        ([(48, 300)] * 20, ["20 of 20", "padding"]),
    ],
)
def test_sizes_that_differ_from_the_recipe_s(frames: Sequence[tuple[int, int]], says: Sequence[str]) -> None:
    import re

    result = size_warnings(frames, SPEC.model_copy(update={"size": (480, 640)}))
    assert len(result) == len(says)
    for warning, expected in zip(result, says, strict=True):
        assert re.search(expected, warning)


def test_a_stretched_input_has_no_padding() -> None:
    assert size_warnings([(1920, 1080)] * 20, InputSpec(size=(480, 640), letterbox="stretch")) == []

"""Images as a network takes them: the same at each pass."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.config import InputSpec
from edgesparse.errors import SourceError
from edgesparse.stream.images import Batches

SPEC = InputSpec(size=(32, 32), letterbox="top-left", colour="bgr", scale=1.0)


def test_each_pass_gives_the_first_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (32, 16, 3), np.uint8))
    anew = Batches(str(tmp_path), SPEC, 2)
    assert anew.sizes == []
    first, second = list(anew()), list(anew())
    assert anew.sizes == [(32, 16), (32, 16)], "known from the passes, each image once"
    assert len(first) == 2 and all(batch.shape == (1, 3, 32, 32) for batch in first)
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    assert (first[1][..., 16:] == SPEC.pad).all()
    assert len(list(Batches(str(tmp_path), SPEC, 9)())) == 3


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        Batches(str(tmp_path), SPEC, 1)

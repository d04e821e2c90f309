"""Tiles on the GPU's path: the letterbox kernel, built for the CPU, reads parts of one frame in one launch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_gpu import Fake
from gpu_detector import SIZE, detector, expected, still

from edgesparse.backends.frames import PIXELS, Pixels
from edgesparse.config import InputSpec
from edgesparse.runtime.places import Views
from edgesparse.tiles import Part, Tiles

pytestmark = pytest.mark.usefixtures("host_built_kernels")
TILES = Tiles(size=(80, 100), overlap=0.3)
HEIGHT, WIDTH = 160, 202


def part_of(frame: np.ndarray, pixels: Pixels, part: Part) -> np.ndarray:
    """The part as a frame of its own."""
    top, left, height, width = part
    if pixels != "nv12":
        return np.ascontiguousarray(frame[top : top + height, left : left + width])
    luma, color = frame[:HEIGHT], frame[HEIGHT:]
    rows = [luma[top : top + height, left : left + width], color[top // 2 :][: height // 2, left : left + width]]
    return np.ascontiguousarray(np.concatenate(rows))


@pytest.mark.parametrize("pinned", [False, True], ids=["copied", "in place"])
@pytest.mark.parametrize("pixels", PIXELS)
def test_each_tile_is_prepared_like_a_frame_of_its_own(
    fake: Fake, tmp_path: Path, pixels: Pixels, pinned: bool
) -> None:
    spec = InputSpec(size=SIZE)
    with detector(fake, tmp_path, batch=16, tiles=TILES) as detect:
        for seed in range(2):
            frame = still(HEIGHT, WIDTH, pixels, seed)
            if pinned:
                memory = detect.frame_buffer(frame.shape)
                memory[...] = frame
                frame = memory
            detect.detect([frame], pixels)
            views: Views = detect._places.of(frame, pixels, TILES)
            assert detect.images == (len(views), 1) and len(views) == 10
            assert fake.seen is not None
            for i, (place, _) in enumerate(views):
                right = expected(part_of(frame, pixels, place.seen), pixels, spec)
                error = np.abs(fake.seen[i] - right).max() * 255
                assert error <= (1.01 if pixels in ("bgr", "rgb") else 2.01), place


def test_tiles_that_need_several_runs_overlap_in_both_slots(fake: Fake, tmp_path: Path) -> None:
    frame = still(HEIGHT, WIDTH)
    with detector(fake, tmp_path, batch=3, tiles=TILES) as detect:
        assert detect.depth == 2
        for _ in range(3):
            detect.submit([frame])
            detect.submit([frame])
            with pytest.raises(RuntimeError, match="2 batches are in flight"):
                detect.submit([frame])
            assert [len(detect.collect()) for _ in range(2)] == [1, 1]
        assert detect.images == (10, 4) and detect.in_flight == 0


def test_a_frame_elsewhere_is_copied_once(fake: Fake, tmp_path: Path) -> None:
    frame = still(HEIGHT, WIDTH)
    with detector(fake, tmp_path, batch=10, tiles=TILES) as detect:
        detect(frame)
        images = detect._rounds._ring._slots[0]._images  # type: ignore[attr-defined]
        assert len({id(image.source) for image in images}) == 1

"""What tiles cost on the GPU: a part of benchmarks/gpu_path.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kernel import timed
from benchmarks.gpu_parts import milliseconds, wall
from benchmarks.gpu_setup import HD, SHOTS, image, net
from edgesparse.backends import backend
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.kernels import Launch
from edgesparse.backends.cuda.slots import ROWS, CudaSlot
from edgesparse.config import Run
from edgesparse.runtime.detector import Detector
from edgesparse.tiles import Tiles

GRIDS = {4: Tiles(size=(600, 1068)), 9: Tiles(size=(416, 740))}
"""Tiles of a 1920x1080 frame by their number: two or three per side, which overlap by a fifth."""
REPEATS = 20


def tiles(work: Path, frames: int = 400) -> dict[str, Any]:
    """Milliseconds per frame of 1920x1080 alone and with 4 or 9 tiles: in one run of an engine of that batch, and image
    by image in one of batch 1; and microseconds of the one launch of the letterbox, which reads over the bus."""
    ways: dict[str, tuple[int, Tiles | None]] = {"the frame alone": (1, None)}
    for count, grid in GRIDS.items():
        ways[f"with {count} tiles, batch {count + 1}"] = (count + 1, grid)
        ways[f"with {count} tiles, batch 1"] = (1, grid)
    return {name: _way(work, batch, grid, frames) for name, (batch, grid) in ways.items()}


def _way(work: Path, batch: int, grid: Tiles | None, frames: int) -> dict[str, Any]:
    of = net("small", work, batch)
    with Detector(backend("tensorrt").load(of.path), of.spec, Run(conf=0.9, tiles=grid or "none")) as detector:
        near = [detector.frame_buffer(HD) for _ in range(SHOTS)]
        for seed, buffer in enumerate(near):
            buffer[...] = image(seed)
        times: list[int] = []
        for turn in range(frames + 40):
            wall(lambda turn=turn: detector(near[turn % SHOTS]), 1, times)  # type: ignore[misc]
        images, runs = detector.images
        report = {"milliseconds": milliseconds(times[40:]), "images": images, "runs": runs, "where": detector.where}
        if runs == 1:
            slot: Any = detector._rounds._ring._slots[0]
            report["letterbox_microseconds"] = round(1e6 * _seconds_of_letterbox(slot, images), 2)
        return report


def _seconds_of_letterbox(slot: CudaSlot, images: int) -> float:
    """Seconds of the letterbox for the frame that the slot held last."""
    height, width = slot._size
    arguments: list[int | NDArray[Any]] = [
        slot._settings,
        slot._descriptions.images,
        slot._descriptions.taps,
        slot._tensors[slot._plan.image],
    ]
    grid = (-(-width // 32), -(-height // (8 * ROWS)), images)
    launch, stream = (
        Launch(slot._kernels, f"letterbox_{slot._format.kernel}", grid, (32, 8, 1), arguments),
        slot._engine.stream,
    )

    def record() -> None:
        for _ in range(REPEATS):
            launch(stream.handle)

    with gpu() as card:
        graph = Graph(stream.handle, record)
        seconds = np.float64(timed(card, graph, stream)) / REPEATS
        graph.close()
    return float(seconds)

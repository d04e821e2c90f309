"""The frame loop's own work per frame: 16 cameras with tracking, zones, lines and JSON lines; the engine does nothing.

    python benchmarks/loop_cost.py [--boxes 13] [--sets 1] [--frames 3200] [--rounds 5] [--save]

The loops of `edgesparse run` and of the service, whose metrics are read once per second. The engine returns moving
boxes for batches of 16, as a GPU does after NMS; with `--sets 4`, four sets of boxes and classes in turn, so that
objects are lost and new in every frame, as with a network of random weights. Microseconds of processor time of the
loop's thread per frame, the least of several rounds; per stage, wall-clock time in that round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.detectors import PARTS
from benchmarks.gpu_loop_ways import Setup, Ways
from edgesparse.backends import backend
from edgesparse.backends.frames import Frame, FrameBoxes, Slot
from edgesparse.config import Run
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed
from edgesparse.stream.sources.memory import MemorySource

CAMERAS = BATCH = 16
HEIGHT, WIDTH, SIDE = 1080, 1920, 320
STEPS = 20
"""Batches until the boxes are where they began."""


class Nothing(Slot):
    """Returns boxes that move, another of `sets` in each batch."""

    where = "nothing"

    def __init__(self, boxes: int, sets: int) -> None:
        self.times, self._count, self._step = [0, 0, 0], 0, 0
        random = np.random.default_rng(0)
        top = (SIDE - SIDE * HEIGHT // WIDTH) // 2
        corners = random.uniform((10, top + 5), (SIDE - 80, SIDE - top - 65), (sets, boxes, 2))
        self._corners = corners.astype(np.float32)
        self._confidence = np.linspace(0.9, 0.5, boxes, dtype=np.float32)
        self._class_id = (np.arange(boxes) + np.arange(sets)[:, None]) % len(PARTS.classes)

    def start(self, frames: Sequence[Frame]) -> None:
        self._count, self._step = len(frames), (self._step + 1) % STEPS

    def finish(self) -> list[FrameBoxes]:
        turn = self._step % len(self._corners)
        corners = self._corners[turn] + np.float32(1.5 * self._step)
        boxes = np.concatenate([corners, corners + 25], 1)
        return [FrameBoxes(boxes.copy(), self._confidence, self._class_id[turn], True) for _ in range(self._count)]

    def close(self) -> None:
        pass


def detector(folder: Path, run: Run, boxes: int, sets: int) -> Detector:
    plan = folder / "plan.json"
    tensors = {"inputs": [["images", [BATCH, 3, SIDE, SIDE], "uint8"]]}
    plan.write_text(json.dumps({**tensors, "outputs": [["output0", [BATCH, 9, 2100], "float32"]]}))
    runner: Any = backend("null").load(plan)
    runner.frames = lambda plan: [Nothing(boxes, sets), Nothing(boxes, sets)]
    return Detector(runner, PARTS, run)


def feeds(setup: Setup, run: Run, detector: Detector) -> list[Feed]:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return [Feed(each, MemorySource([image], each.name), run, detector.spec.classes) for each in run.all_cameras()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--boxes", type=int, default=13)
    parser.add_argument("--sets", type=int, default=1, help="sets of boxes, one per batch in turn [%(default)s]")
    parser.add_argument("--frames", type=int, default=3200, help="per round [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup("parts", CAMERAS, BATCH, Path(folder), "null")
        run = setup.run()
        with detector(Path(folder), run, options.boxes, options.sets) as detecting:
            ways = Ways(setup, run, detecting, feeds)
            for name, way in (("run", ways.as_run), ("service", ways.as_service)):
                rounds = [way(60.0, options.frames) for _ in range(options.rounds)]
                best = min(rounds, key=lambda each: float(each["cpu_us_a_frame"]["loop"]))
                results[name] = {key: best[key] for key in ("boxes_a_frame", "cpu_us_a_frame", "us_a_frame")}
    save("loop_cost", {**machine(), "cameras": CAMERAS, "frames": options.frames, **results}, options.save)


if __name__ == "__main__":
    main()

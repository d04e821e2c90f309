"""Whether the memory of the frame loop stays constant: YOLOX-nano on a real video, repeated.

    python benchmarks/memory.py [--real ../shared/real] [--frames 20000] [--save]

Reads the resident memory every hundred frames, after 500 frames of warm-up. Prints JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.builder.targets import open_detector, ready
from edgesparse.runtime.detections import Detections
from edgesparse.stream import pipeline
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.open import open_source

HERE = Path(__file__).resolve().parent
WARM = 500
EVERY = 100


class Repeated(Source):
    """A file, repeated endlessly."""

    def __init__(self, source: Source) -> None:
        self.name, self._source = source.name, source

    def read(self) -> Frame | None:
        frame = self._source.read()
        if frame is None:
            self._source.reopen()
            frame = self._source.read()
        return frame

    def reopen(self) -> None:
        self._source.reopen()

    def close(self) -> None:
        self._source.close()


class Resident(Sink):
    """Records this process's resident memory in bytes."""

    def __init__(self, frames: int) -> None:
        self.seen, self.bytes = 0, np.zeros(frames // EVERY + 1, np.int64)

    def write(self, frame: Frame, detections: Detections) -> None:
        self.seen += 1
        if self.seen % EVERY == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.bytes[self.seen // EVERY] = pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    package = ready(arguments.real / "models" / "yolox_nano.onnx", HERE / "scratch", names="coco")
    video = arguments.real / "video" / "bottle-detection.mp4"
    resident = Resident(arguments.frames)
    with open_detector(package) as detector, open_source(video) as source:
        with JsonLines(os.devnull, detector.spec.classes, force=True) as lines:
            summary = pipeline.run(Repeated(source), detector, [lines, resident], limit=arguments.frames)
    warm = resident.bytes[WARM // EVERY :] / 1e6
    result = {
        **machine(),
        "frames": summary.frames,
        "seconds": summary.seconds,
        "resident_mb_after_warm_up": round(float(warm[0]), 2),
        "resident_mb_at_the_end": round(float(warm[-1]), 2),
        "resident_mb_least_and_most": [round(float(warm.min()), 2), round(float(warm.max()), 2)],
        "spread_mb": round(float(warm.max() - warm.min()), 2),
    }
    save("memory", result, arguments.save)


if __name__ == "__main__":
    main()

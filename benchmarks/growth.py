"""How cost grows with cameras, boxes, image size, batch, candidates, layers, calibration images; and memory.

    python benchmarks/growth.py [--save]

Each quantity grows by a factor of at least 16. The slope is that of a line through the logarithms: 1 is linear, below 1
is better. Milliseconds of process CPU time, the least of several repetitions; memory is the peak of Python's and
NumPy's allocations. The engine is the null backend, which does nothing. --save writes results/growth.json and
docs/images/growth.svg.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.cpu_path import open_null, raw_output
from benchmarks.growth_plot import plot
from edgesparse.config import Camera
from edgesparse.int8.calibration import CalibrationOptions, calibrate
from edgesparse.runtime.evaluate import SCORING
from edgesparse.runtime.nms import nms
from edgesparse.sparsity.inspect import inspect
from edgesparse.stream.cameras import Feed
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sources.memory import MemorySource

ROOT = Path(__file__).resolve().parents[1]
Measure = Callable[[Path, int], float]
FRAMES = 5


@dataclass(frozen=True)
class Curve:
    """What a quantity costs, in `unit`; `slope` in logarithms."""

    quantity: str
    cost: str
    unit: str
    at: list[int]
    values: list[float]
    slope: float


def least(action: Callable[[], object], count: int = 7) -> float:
    """Milliseconds of process CPU time, after one call of warm-up."""
    action()
    times = []
    for _ in range(count):
        begun = time.process_time_ns()
        action()
        times.append((time.process_time_ns() - begun) / 1e6)
    return min(times)


def image(pixels: int = 1920 * 1080) -> NDArray[np.uint8]:
    height = round((pixels * 9 / 16) ** 0.5)
    return np.random.default_rng(0).integers(0, 256, (height, pixels // height, 3), np.uint8)


def cameras(folder: Path, count: int) -> float:
    """The frame loop: one frame of each camera."""
    frames = [image(640 * 360)] * FRAMES

    def run() -> None:
        with open_null(folder, raw_output(10)) as detector:
            feeds = [
                Feed(
                    Camera(name=f"c{i}", source="0"), MemorySource(frames, f"c{i}"), detector.run, detector.spec.classes
                )
                for i in range(count)
            ]
            with Loop(feeds, detector) as loop:
                loop.run(count * FRAMES)

    return least(run, 2) / FRAMES


def boxes(folder: Path, count: int) -> float:
    with open_null(folder, raw_output(count)) as detector:
        return least(partial(detector, image()), 15)


def pixels(folder: Path, count: int) -> float:
    with open_null(folder, raw_output(10)) as detector:
        return least(partial(detector, image(count)), 15)


def batch(folder: Path, count: int) -> float:
    with open_null(folder, raw_output(10), count) as detector:
        return least(partial(detector.detect, [image()] * count), 7)


def candidates(folder: Path, count: int, most: int = SCORING.max_det) -> float:
    """NMS of candidates of one class, most of which overlap others."""
    random = np.random.default_rng(count)
    center, half = random.uniform(0, 640, (count, 2)), random.uniform(10, 100, (count, 2))
    xyxy = np.concatenate([center - half, center + half], 1).astype(np.float32)
    return least(partial(nms, xyxy, random.random(count, np.float32), np.zeros(count, np.int64), SCORING.iou, most), 5)


def chain(count: int) -> ModelProto:
    """A network of this many convolutions."""
    random = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1] * 4) for i in range(count)]
    weights = [random.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32) for _ in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 16, 16, 16)) for name in ("x0", f"x{count}")]
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layers(folder: Path, count: int) -> float:
    return least(partial(inspect, chain(count)), 3)


def calibration(folder: Path, count: int) -> float:
    images = [np.random.default_rng(i).normal(0, 1, (1, 16, 16, 16)).astype(np.float32) for i in range(count)]
    return least(partial(calibrate, chain(4), lambda: iter(images), CalibrationOptions("entropy")), 2)


def memory(folder: Path, count: int) -> float:
    """Megabytes of a detector and its frames, by pixels per frame."""
    frame = image(count)
    tracemalloc.start()
    with open_null(folder, raw_output(10)) as detector:
        captured = detector.frame_buffer(frame.shape)
        np.copyto(captured, frame)
        for _ in range(3):
            detector(captured)
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def powers(first: int, count: int, factor: int = 2) -> list[int]:
    return [first * factor**i for i in range(count)]


CURVES: tuple[tuple[str, str, str, Iterable[int], Measure], ...] = (
    ("cameras", "the frame loop, a frame of each", "ms", powers(1, 7), cameras),
    ("boxes", "a 1080p frame to its detections", "ms", powers(1, 12), boxes),
    ("pixels per frame", "a frame to its detections", "ms", powers(320 * 180, 6, 4), pixels),
    ("batch", "1080p frames to detections", "ms", powers(1, 6), batch),
    ("candidates", "NMS, at most 300 kept", "ms", powers(30, 6, 4), candidates),
    ("candidates, all kept", "NMS, no limit", "ms", powers(30, 5, 4), partial(candidates, most=10**6)),
    ("layers", "inspection for 2:4", "ms", powers(8, 6), layers),
    ("calibration images", "entropy calibration", "ms", powers(8, 5), calibration),
    ("pixels per frame ", "memory of a detector", "MB", powers(320 * 180, 6, 4), memory),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for quantity, cost, unit, steps, measure in CURVES:
            at = list(steps)
            values = [round(measure(Path(folder), count), 3) for count in at]
            slope = float(np.polyfit(np.log(at), np.log(values), 1)[0])
            curves.append(Curve(quantity.strip(), cost, unit, at, values, round(slope, 2)))
            print(f"{quantity}: {dict(zip(at, values, strict=True))}, slope {slope:.2f}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {**machine(), "curves": [asdict(curve) for curve in curves]}
    save("growth", result, options.save)
    if options.save:
        (ROOT / "docs" / "images" / "growth.svg").write_text(plot(result["curves"]))


if __name__ == "__main__":
    main()

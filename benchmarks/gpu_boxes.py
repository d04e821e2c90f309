"""The kernels that select boxes, decode maps and resize a classifier's frames, compared with the CPU and timed.

    python benchmarks/gpu_boxes.py [--before FOLDER] [--save]

Needs pycuda and nvcc, but no TensorRT: the engine does nothing, and its outputs are written to it. Selection is timed
for 1 to 256 boxes of a YOLOv8 layout with many equal scores; --before names a folder with other sources of the kernels
that read the same structures, which are timed in the same process. Decoding is timed for the maps of networks that
`slim` rewrote. Resizing is timed from page-locked 1920x1080 frames to 224x224, beside the CPU's. Each figure is printed
as soon as it is available, and the process ends after two minutes at most.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "gpu"))

import alone as gpu_alone  # type: ignore[import-not-found]
from alone import alone, difference, expected, still
from raw_maps import FAMILIES, raw_maps

from benchmarks.common import machine, save
from benchmarks.gpu_kernel import timed
from edgesparse.backends.cuda import kernels
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.frames import Pixels
from edgesparse.config import InputSpec
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.nms import nms

COUNTS = (1, 10, 50, 128, 256)
LIMIT, REPEATS, CLASSES = 120, 20, 7
CROP = InputSpec(size=(224, 224), letterbox="crop")


def outputs(count: int, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Raw outputs [1, 4 + classes, candidates] with `count` boxes, crowded and often of equal scores."""
    rng = np.random.default_rng(seed)
    out = np.zeros((1, 4 + CLASSES, cells(size)), np.float32)
    chosen = rng.choice(out.shape[2], count, replace=False)
    out[0, :2, chosen] = rng.integers(0, 20, (count, 2))
    out[0, 2:4, chosen] = rng.choice([10, 20, 40], (count, 2))
    out[0, 4 + rng.integers(0, 2, count), chosen] = rng.choice([0.6, 0.7, 0.8, 0.9], count)
    return out


def selection(count: int) -> dict[str, float]:
    """Check that the kernel returns the boxes of NumPy, in their order, and time it."""
    with alone() as lone:
        kept: NDArray[Any] = np.empty(0)
        for seed in range(5):
            values = outputs(count, lone.plan.spec.size, seed)
            lone.write("output0", values)
            (boxes,) = lone.run([still(30, 40)], ["bgr"])
            xyxy, confidence, labels = lone.plan.decode([values], 0)
            kept = nms(xyxy, confidence, labels, lone.plan.iou, lone.plan.max_det)
            if not boxes.final or boxes.class_id.tolist() != labels[kept].tolist():
                raise SystemExit(f"{count} boxes, seed {seed}: the kernel does not keep the boxes that NumPy keeps")
            np.testing.assert_allclose(boxes.confidence, confidence[kept], rtol=1e-6)
            np.testing.assert_allclose(boxes.xyxy, xyxy[kept], atol=0.01)
        return {"kept": len(kept), "microseconds": microseconds(lone)}


def microseconds(lone: Any) -> float:
    """The time of the kernel that selects boxes."""
    launch, stream = lone.slot._selection.launch, lone.slot._engine.stream

    def record() -> None:
        for _ in range(REPEATS):
            launch(stream.handle)

    with lone.card:
        graph = Graph(stream.handle, record)
        seconds = timed(lone.card, graph, stream) / REPEATS
        graph.close()
    return round(1e6 * seconds, 2)


def maps(head: str) -> dict[str, float]:
    """Check the boxes that are decoded from the maps of `head` (640x640, 80 classes, 1 % of the cells), and time the
    kernel, and NumPy, to which the maps have to be copied."""
    size = (640, 640)
    with mock.patch.object(gpu_alone, "CLASSES", 80), alone(1, head, InputSpec(size=size)) as lone:
        values = raw_maps(head, 1, 80, size, np.random.default_rng(0), 0.01)
        for name, array in values.items():
            lone.write(name, array)
        (boxes,) = lone.run([still(30, 40)], ["bgr"])
        pixels = difference(lone, values, 0, boxes, head)
        outputs = [values[spec.name] for spec in lone.slot._engine.outputs]
        started = time.perf_counter()
        for _ in range(REPEATS):
            lone.plan.decode(outputs, 0)
        on_the_cpu = (time.perf_counter() - started) / REPEATS
        return {
            "boxes": len(boxes.xyxy),
            "pixels": round(pixels, 5),
            "microseconds": microseconds(lone),
            "numpy_microseconds": round(1e6 * on_the_cpu, 1),
        }


def resizing(kind: Pixels) -> dict[str, float]:
    """Compare the kernel's values with the CPU's, and time both."""
    with alone(spec=CROP) as lone:
        frame = still(1080, 1920, kind)
        with lone.card.errors_of("a frame"):
            buffer = lone.card.host(frame.shape, "uint8")
        buffer[...] = frame
        elapsed = []
        for _ in range(30):
            started = time.perf_counter()
            lone.run([buffer], [kind])
            elapsed.append(time.perf_counter() - started)
        started = time.perf_counter()
        right = expected(frame, kind, CROP)
        on_the_cpu = time.perf_counter() - started
        steps = np.abs(lone.input[0] - right) * 255
    if steps.max() > (1.01 if kind in ("bgr", "rgb") else 2.01) or np.mean(steps < 0.01) < 0.98:
        raise SystemExit(f"{kind}: {steps.max():.2f} of 255 from the CPU's, {np.mean(steps < 0.01):.1%} equal")
    return {
        "largest_step": round(float(steps.max()), 3),
        "equal": round(float(np.mean(steps < 0.01)), 5),
        "gpu_ms": round(1e3 * float(np.median(elapsed[5:])), 3),
        "cpu_ms_with_setup": round(1e3 * on_the_cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="folder with frames.cu and what it includes")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    result: dict[str, Any] = {"question": __doc__, **machine(), "selection": {}, "maps": {}, "resizing": {}}
    versions = {"now": kernels.SOURCES} | ({"before": options.before} if options.before else {})
    card = gpu()
    with tempfile.TemporaryDirectory() as folder:
        for name, sources in versions.items():
            with mock.patch.object(kernels, "SOURCES", sources):
                cubin, _ = kernels.compiled(card.sm, Path(folder) / f"{name}.cubin")
            with card:
                card.kernels = kernels.Kernels(cubin)
            for count in COUNTS:
                result["selection"][f"{count} boxes, {name}"] = figures = selection(count)
                print(f"selection, {count} boxes, {name}: {figures}", flush=True)
            if name == "now":
                for head in FAMILIES:
                    result["maps"][head] = figures = maps(head)
                    print(f"maps, {head}: {figures}", flush=True)
                for kind in ("bgr", "nv12"):
                    result["resizing"][kind] = figures = resizing(kind)
                    print(f"resizing, {kind}: {figures}", flush=True)
    save("gpu_boxes", result, options.save)


if __name__ == "__main__":
    main()

"""The CPU path without an engine: from frame to detections, drawing and JSON lines, next to the usual ways.

    python benchmarks/cpu_path.py [--ultralytics PYTHON] [--save]

Frames of 1080p and 4K, 1 to 3000 boxes, the layout of YOLOv8 at 640x640 on the null backend, so that everything that is
timed is work around the engine. The usual way is OpenCV and NumPy: a fresh canvas, division by 255, all columns
transposed, `cv2.dnn.NMSBoxes` per class. Boxes are drawn and written next to supervision's annotators and JSONSink,
json.dumps of a list of dictionaries and, with --ultralytics (the interpreter of an environment that has it), its
Results in a separate process. Imports are timed in new processes. Milliseconds of wall-clock time, the least of
interleaved repetitions. CPU time would also count OpenCV's threads while they wait. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, machine, save, with_bytecode
from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.draw import draw
from edgesparse.stream.sinks.json_lines import JsonLines

SIZE, CELLS, CLASSES = 640, 8400, tuple(f"class {i}" for i in range(80))
FRAMES = {"1080p": (1080, 1920), "4K": (2160, 3840)}
BOXES = (1, 10, 50, 300, 3000)
CONF, IOU = 0.25, 0.7
RUN = Run(conf=CONF, iou=IOU)
IMPORTS = (
    "import edgesparse",
    "from edgesparse import Detector",
    "import numpy",
    "import cv2",
    "import onnxruntime",
    "import supervision",
)
ULTRALYTICS_IMPORT = "from ultralytics import YOLO"
ULTRALYTICS = """
import json, sys, time
import numpy as np, torch, ultralytics
from ultralytics.engine.results import Results
boxes, report = torch.from_numpy(np.load(sys.argv[1])), {}
image = np.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), np.uint8)
results = Results(image, "camera", {i: f"class {i}" for i in range(80)}, boxes=boxes)
for name, action in ("Ultralytics draws", results.plot), ("Ultralytics' to_json", results.to_json):
    times = []
    for _ in range(42):
        begun = time.perf_counter_ns()
        action()
        times.append((time.perf_counter_ns() - begun) / 1e6)
    report[name] = round(min(times[2:]), 3)
print(json.dumps([ultralytics.__version__, report]))
"""


def raw_output(boxes: int) -> NDArray[np.float32]:
    """YOLOv8's output [84, 8400] with this many boxes, most of which overlap no other."""
    random, raw = np.random.default_rng(boxes), np.zeros((4 + len(CLASSES), CELLS), np.float32)
    side = int(np.ceil(np.sqrt(boxes)))
    at = np.stack([np.arange(boxes) % side, np.arange(boxes) // side]) + 0.5
    cell = np.array([[SIZE], [SIZE * 9 / 16]]) / side  # none is in the padding
    raw[:2, :boxes], raw[2:4, :boxes] = at * cell, cell * random.uniform(0.7, 1.1, (2, boxes))
    raw[1, :boxes] += SIZE * 7 / 32
    raw[4 + random.integers(0, len(CLASSES), boxes), np.arange(boxes)] = random.uniform(0.3, 0.9, boxes)
    return raw


def open_null(
    folder: Path, raw: NDArray[np.float32], batch: int = 1, run: Run = RUN, classes: tuple[str, ...] = CLASSES
) -> Detector:
    """A detector whose engine does nothing; `raw` is its output for each image of a batch."""
    plan = folder / f"plan-{batch}.json"
    tensors = {"inputs": [["images", [batch, 3, SIZE, SIZE], "uint8"]]}
    tensors["outputs"] = [["output0", [batch, *raw.shape], "float32"]]
    plan.write_text(json.dumps(tensors))
    spec = DetectorSpec(head="yolov8", classes=classes, input=InputSpec(size=(SIZE, SIZE)))
    runner: Any = backend("null").load(plan)
    runner.frames = lambda plan: []  # the path of runners that have none of their own
    detector = Detector(runner, spec, run)
    detector(np.zeros((8, 8, 3), np.uint8))
    runner.infer = lambda: None
    np.copyto(runner.buffers["output0"], raw)
    return detector


def usual_way(frame: NDArray[np.uint8], raw: NDArray[np.float32]) -> int:
    """Pre- and post-processing as most scripts around YOLOv8 do it. Returns the number of boxes."""
    ratio = min(SIZE / frame.shape[0], SIZE / frame.shape[1])
    width, height = round(frame.shape[1] * ratio), round(frame.shape[0] * ratio)
    left, top = (SIZE - width) // 2, (SIZE - height) // 2
    resized = cv2.resize(frame, (width, height))
    border = top, SIZE - height - top, left, SIZE - width - left
    canvas = cv2.copyMakeBorder(resized, *border, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32) / 255
    rows = raw.T
    scores = rows[:, 4:].max(axis=1)
    rows, scores = rows[scores > CONF], scores[scores > CONF]
    labels = rows[:, 4:].argmax(axis=1)
    corner = (rows[:, :2] - rows[:, 2:4] / 2 - (left, top)) / ratio
    boxes = np.concatenate([corner, rows[:, 2:4] / ratio], 1)
    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), labels.tolist(), CONF, IOU)
    return len(kept[: RUN.max_det])


def least(actions: Mapping[str, Callable[[], object]], repeat: int = 40) -> dict[str, float]:
    """The least milliseconds of wall-clock time of each, interleaved, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeat + 2):
        for name, action in actions.items():
            begun = time.perf_counter_ns()
            action()
            if number > 1:
                times[name].append((time.perf_counter_ns() - begun) / 1e6)
    return {name: round(min(values), 3) for name, values in times.items()}


def around_the_engine(folder: Path) -> dict[str, dict[str, float]]:
    report = {}
    for size, (height, width) in FRAMES.items():
        frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        for boxes in BOXES:
            raw = raw_output(boxes)
            with open_null(folder, raw) as detector:
                if len(detector(frame)) != usual_way(frame, raw):
                    raise SystemExit(f"{size}, {boxes} boxes: both must find the same number")
                row = least({"edgesparse": partial(detector, frame), "usual way": partial(usual_way, frame, raw)})
            report[f"{size}, {boxes} boxes"] = row | {"ratio": round(row["usual way"] / row["edgesparse"], 1)}
    return report


def objects(boxes: int, height: int, width: int) -> Detections:
    random = np.random.default_rng(1)
    corner = random.uniform(0, 0.85, (boxes, 2)) * (width, height)
    xyxy = np.concatenate([corner, corner + random.uniform(0.03, 0.15, (boxes, 2)) * (width, height)], 1)
    confidence = random.uniform(0.3, 0.9, boxes).astype(np.float32)
    return Detections(xyxy.astype(np.float32), confidence, random.integers(0, 80, boxes), classes=CLASSES)


def after_it(detected: Detections, height: int, width: int) -> dict[str, float]:
    """Drawing and JSON lines, apart because drawing leaves cold caches. `new labels`: none was in an earlier frame."""
    import supervision

    image = np.zeros((height, width, 3), np.uint8)
    theirs, frame = detected.to_supervision(), Frame(image, time.monotonic_ns(), 0, "camera")
    scale, thickness = height / 900, max(1, round(height / 240))
    box = supervision.BoxAnnotator(thickness=thickness)
    label = supervision.LabelAnnotator(text_scale=scale, text_thickness=max(1, round(1.5 * scale)))
    texts = [f"{name} {value:.2f}" for name, value in zip(detected.names, detected.confidence, strict=True)]
    fresh = count()

    def sink() -> None:
        with supervision.JSONSink(os.devnull) as file:
            file.append(theirs, {"frame": frame.index})

    drawing = least(
        {
            "draw": lambda: draw(image, detected, CLASSES),
            "draw new labels": lambda: draw(image, detected, [f"class {next(fresh)}" for _ in CLASSES]),
            "supervision draws": lambda: label.annotate(box.annotate(image, theirs), theirs, texts),
        }
    )
    with JsonLines(os.devnull, CLASSES, force=True) as lines, Path(os.devnull).open("w") as file:
        return drawing | least(
            {
                "JSON line": lambda: lines.write(frame, detected),
                "json.dumps of dictionaries": lambda: plain_line(file, frame, detected),
                "supervision's JSONSink": sink,
            }
        )


def plain_line(file: IO[str], frame: Frame, detected: Detections) -> None:
    """A line of JSON as most scripts write it."""
    records = [
        {
            "box": [float(value) for value in box],
            "confidence": float(confidence),
            "class_id": int(label),
            "class": CLASSES[label],
        }
        for box, confidence, label in zip(detected.xyxy, detected.confidence, detected.class_id, strict=True)
    ]
    file.write(json.dumps({"frame": frame.index, "time": time.time(), "detections": records}) + "\n")
    file.flush()


def by_ultralytics(python: str, detected: Detections, height: int, width: int) -> tuple[str, dict[str, float]]:
    """Return Ultralytics' version, and its times for the same boxes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "boxes.npy"
        rows = np.column_stack([detected.xyxy, detected.confidence, detected.class_id])
        np.save(file, rows.astype(np.float32))
        command = [python, "-c", ULTRALYTICS, str(file), str(height), str(width)]
        version, times = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return version, times


def imported(ultralytics: str | None) -> dict[str, float]:
    """Milliseconds of an import in a new process, the least of 5, interleaved."""
    statements = dict.fromkeys(IMPORTS, sys.executable)
    if ultralytics:
        statements[ULTRALYTICS_IMPORT] = ultralytics
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(5):
        for statement, python in statements.items():
            program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            output = subprocess.check_output([python, "-c", program], cwd=ROOT, env=with_bytecode(), text=True)
            times[statement].append(1e3 * float(output.splitlines()[-1]))
    return {statement: round(min(values), 1) for statement, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ultralytics", metavar="PYTHON", help="an interpreter that has Ultralytics")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"import_ms": imported(options.ultralytics)}
    with tempfile.TemporaryDirectory() as folder:
        result["around_the_engine_ms"] = around_the_engine(Path(folder))
    result["50_boxes_ms"] = {}
    for size, sides in FRAMES.items():
        detected = objects(50, *sides)
        result["50_boxes_ms"][size] = after_it(detected, *sides)
        if options.ultralytics:
            result["ultralytics"], times = by_ultralytics(options.ultralytics, detected, *sides)
            result["50_boxes_ms"][size] |= times
    save("cpu_path_peers" if options.ultralytics else "cpu_path", {**machine(), **result}, options.save)


if __name__ == "__main__":
    main()

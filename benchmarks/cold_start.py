"""How long a user waits from starting apps/detect.py on a finished package to the first line of detections.

    python benchmarks/cold_start.py [--real ../shared/real] [--runs 10] [--ultralytics PYTHON] [--save]

Each run is a new process; the clock starts before the process does, and stops at the first detection that it prints.
Interleaved with it: a script of OpenCV, NumPy and ONNX Runtime alone, and, with --ultralytics (the interpreter of an
environment that has it), YOLO.predict on the same network, written in YOLOv8's layout. Processor time is that of the
whole process. Prints JSON.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, machine, save, with_bytecode
from benchmarks.yolox_demo import SIZE, STRIDES
from edgesparse.builder.targets import ready
from edgesparse.classes import coco_names
from edgesparse.runtime.heads.grid import grid

HERE = Path(__file__).resolve().parent
BARE = """
import json, sys
import cv2, onnxruntime
from benchmarks.yolox_demo import demo_postprocess, demo_preprocess
session = onnxruntime.InferenceSession(sys.argv[1])
tensor, ratio = demo_preprocess(cv2.VideoCapture(sys.argv[2]).read()[1])
boxes = demo_postprocess(session.run(None, {"images": tensor})[0], ratio)
print(json.dumps({"detections": boxes.tolist()}), flush=True)
"""
ULTRALYTICS = """
import json, sys
from ultralytics import YOLO
model = YOLO(sys.argv[1], task="detect")
for result in model.predict(sys.argv[2], stream=True, imgsz=416, device="cpu", verbose=False):
    print(json.dumps({"detections": result.summary()}), flush=True)
    break
"""


def first_line(command: list[str]) -> tuple[float, float]:
    """Return seconds until the first detection, and seconds of the process's processor time."""
    environment = {
        **with_bytecode(),
        "PYTHONPATH": str(ROOT),
        "YOLO_CONFIG_DIR": str(HERE / "scratch"),
        "YOLO_OFFLINE": "True",  # no search for a newer version
    }
    before = _processor_seconds()
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if '"detections": [' in line), "")
        seconds = time.perf_counter() - start
        process.communicate()
    if not line or '"detections": []' in line:
        raise SystemExit(f"{command[:3]}: the first line holds no detection: {line[:200]!r}")
    return seconds, _processor_seconds() - before


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def as_yolov8(source: Path, target: Path) -> Path:
    """Write YOLOX's network with the input (RGB, 0..1), output [1, 84, N] and metadata of YOLOv8 for Ultralytics."""
    model = onnx.load(source)
    graph, inside = model.graph, "yolov8"
    image, raw = graph.input[0].name, graph.output[0].name
    corner, stride = grid(SIZE, STRIDES)
    constants = {"bgr": np.array([2, 1, 0]), "255": np.float32(255), "corner": corner, "stride": stride}
    constants |= {f"{i}": np.array([i]) for i in (0, 2, 4, 5, 85)} | {"last": np.array([2])}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), f"{inside}/{k}") for k, v in constants.items())

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        names = [f"{inside}/{name}" if name not in (image, raw) else name for name in inputs.split()]
        return helper.make_node(kind, names, [output if output == image else f"{inside}/{output}"], **attributes)

    first = [node("Gather", "frame bgr", "swapped", axis=1), node("Mul", "swapped 255", image)]
    parts = {"xy": "0 2", "wh": "2 4", "objectness": "4 5", "scores": "5 85"}
    rest = [node("Slice", f"{raw} {limits} last", part) for part, limits in parts.items()]
    rest += [
        node("Add", "xy corner", "moved"),
        node("Mul", "moved stride", "centers"),
        node("Exp", "wh", "sizes"),
        node("Mul", "sizes stride", "scaled"),
        node("Mul", "objectness scores", "classes"),
        node("Concat", "centers scaled classes", "rows", axis=2),
        node("Transpose", "rows", "output", perm=[0, 2, 1]),
    ]
    nodes = [*first, *graph.node, *rest]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input[0].name = f"{inside}/frame"
    graph.output.append(helper.make_tensor_value_info(f"{inside}/output", 1, (1, 84, len(corner))))
    about = {"names": dict(enumerate(coco_names())), "stride": 32, "task": "detect", "imgsz": list(SIZE), "batch": 1}
    helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    onnx.save(model, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--ultralytics", metavar="PYTHON", help="an interpreter that has Ultralytics")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    model = options.real / "models" / "yolox_nano.onnx"
    package = ready(model, HERE / "scratch", names="coco")
    video = str(options.real / "video" / "bottle-detection.mp4")
    app = [sys.executable, str(ROOT / "apps" / "detect.py"), "--model", str(package.folder)]
    commands = {
        "edgesparse": [*app, "--source", video, "--frames", "1"],
        "OpenCV and ONNX Runtime": [sys.executable, "-c", BARE, str(model), video],
    }
    if options.ultralytics:
        network = as_yolov8(model, HERE / "scratch" / "as_yolov8.onnx")
        commands["Ultralytics"] = [options.ultralytics, "-c", ULTRALYTICS, str(network), video]
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(options.runs + 1):
        for name, command in commands.items():
            both = first_line(command)
            if number:  # the first round reads the files into memory
                runs[name].append(both)
    result = {name: summary(row) for name, row in runs.items()}
    save(
        "cold_start_peers" if options.ultralytics else "cold_start",
        {**machine(), "runs": options.runs, **result},
        options.save,
    )


def summary(runs: list[tuple[float, float]]) -> dict[str, Any]:
    seconds, processor = np.sort(np.array(runs), axis=0).T
    return {
        "seconds": [round(value, 3) for value in seconds.tolist()],
        "worst": round(float(seconds[-1]), 3),
        "processor_seconds_p50": round(float(np.median(processor)), 3),
    }


if __name__ == "__main__":
    main()

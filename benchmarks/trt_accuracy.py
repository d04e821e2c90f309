"""Accuracy of a real detector's TensorRT engines: mAP on real photographs, compared with ONNX Runtime on the same
files.

    python benchmarks/trt_accuracy.py --files FOLDER --real ../shared/real [--engine onnxruntime] [--out FILE.json]

FOLDER holds dense.onnx and half.onnx (half of the eligible work 2:4) of one detector, spec.json (a DetectorSpec), and
for each of the two a folder of the same name with its INT8 versions, as these commands write them:

    edgesparse quantize dense.onnx --images ../shared/real/unlabelled --names coco -o dense/fuse.onnx \\
        --table dense/table.calibration
    edgesparse quantize dense.onnx --images ../shared/real/unlabelled --names coco -o dense/sparse.onnx \\
        --placement sparse

Files that are missing are left out. Each engine is built, scored and compared in its own process, with a time limit; a
row is written as soon as it is available and is not measured again.

Per engine: mAP 50-95 and mAP50 on coco_mini/val (153 images); the share of ONNX Runtime's FP32 boxes that it finds, and
the change in confidence of those boxes (median, 90th percentile of the magnitude).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import Limits, Precision
from edgesparse.config import DetectorSpec, Run
from edgesparse.runtime.agree import compare
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.images import image_files, read_image
from edgesparse.runtime.labels.read import Labels

COMPARED = 60
"""Images whose boxes are compared one by one."""
SAME = 0.5
"""Minimum overlap (IoU) for two boxes to count as the same."""


@dataclass(frozen=True)
class Engine:
    """One way to build one of the files."""

    name: str
    file: Path
    precision: Precision
    sparse: bool = False
    table: Path | None = None


def engines(files: Path) -> Iterator[Engine]:
    for model, sparse in (("dense", False), ("half", True)):
        end = " 2:4" if sparse else ""
        yield Engine(f"fp16{end}", files / f"{model}.onnx", "fp16", sparse)
        table = files / model / "table.calibration"
        yield Engine(f"int8-table{end}", Path(f"{table}.onnx"), "int8", sparse, table)
        yield Engine(f"int8-qdq{end}", files / model / "fuse.onnx", "int8", sparse)
        yield Engine(f"int8-qdq-sparse{end}", files / model / "sparse.onnx", "int8", sparse)


def measure(engine: Engine, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ours, judge = backend(arguments.engine), backend("onnxruntime")
    spec = DetectorSpec.model_validate_json((arguments.files / "spec.json").read_text())
    options = BuildOptions(
        precision=engine.precision,
        sparse=engine.sparse,
        table=engine.table,
        limits=Limits(level=arguments.level),
        timing_cache=arguments.state / "accuracy.timing" if arguments.state else None,
    )
    built = ours.build(engine.file, folder / f"engine{ours.suffix}", options)
    row: dict[str, Any] = {"build_s": round(built.seconds, 1), "layers": len(built.layers)}
    row |= {"eligible_2to4": len(built.eligible), "sparse_kernels": sum(layer.sparse for layer in built.layers)}
    print(json.dumps({engine.name: row}), flush=True)
    mini = arguments.real / "coco_mini"
    labels = Labels(mini / "instances_val.json", mini / "val")
    with Detector(ours.load(built.path), spec, SCORING) as detector:
        score = evaluate(detector, labels)
        row |= {"map": round(score.map, 2), "map50": round(score.map50, 2)}
    images = [read_image(file) for file in image_files(mini / "val", COMPARED)]
    reference = judge.load(arguments.files / "dense.onnx")
    with Detector(ours.load(built.path), spec, Run()) as candidate, Detector(reference, spec, Run()) as exact:
        row["agreement"] = compare(exact, candidate, images).as_dict()
        shifts = np.concatenate([shift(exact(image), candidate(image)) for image in images])
    row["confidence_shift"] = {
        "boxes": len(shifts),
        "median": round(float(np.median(shifts)), 4),
        "p90_magnitude": round(float(np.percentile(np.abs(shifts), 90)), 4),
    }
    return row


def shift(exact: Detections, candidate: Detections) -> NDArray[np.float32]:
    """Change in confidence of each box of `exact` that `candidate` also has, with the same class at the same place."""
    changes = []
    for box, confidence, label in zip(exact.xyxy, exact.confidence, exact.class_id, strict=True):
        same = candidate.class_id == label
        overlap = _iou(box, candidate.xyxy[same])
        if overlap.size and overlap.max() >= SAME:
            changes.append(candidate.confidence[same][overlap.argmax()] - confidence)
    return np.array(changes, np.float32)


def _iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(inside / np.maximum(areas - inside, 1e-9), np.float32)


def child(arguments: argparse.Namespace) -> None:
    engine = next(entry for entry in engines(arguments.files) if entry.name == arguments.child)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(engine, arguments, Path(folder))
    _write(arguments.out, engine.name, row)


def parent(arguments: argparse.Namespace) -> None:
    end = time.monotonic() + arguments.budget
    for engine in engines(arguments.files):
        if arguments.only and engine.name not in arguments.only:
            continue
        if not engine.file.exists() or "map" in _rows(arguments.out).get(engine.name, {}):
            continue
        limit = min(arguments.limit, end - time.monotonic())
        if limit < 5:
            break
        command = [sys.executable, __file__, *sys.argv[1:], "--child", engine.name]
        try:
            process = subprocess.run(command, timeout=limit, check=False, stderr=subprocess.PIPE, text=True)
            failed = process.stderr.strip().splitlines()[-1:] if process.returncode else None
        except subprocess.TimeoutExpired:
            failed = [f"did not end within {limit:.0f} s"]
        if failed:
            _write(arguments.out, engine.name, {"error": failed[0]})
        print(json.dumps({engine.name: _rows(arguments.out)[engine.name]}), flush=True)


def _rows(path: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    return rows


def _write(path: Path, name: str, row: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**machine(), "rows": {**_rows(path), name: row}}, indent=2) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--only", nargs="+", help="Names of engines, as in fp16 or 'int8-table 2:4'.")
    parser.add_argument("--engine", default="tensorrt", help="Another backend, for its scores beside TensorRT's.")
    parser.add_argument("--level", type=int, help="How long TensorRT looks for faster kernels, 0 to 5.")
    parser.add_argument("--limit", type=float, default=300, help="Seconds for one engine.")
    parser.add_argument("--budget", type=float, default=1500, help="Seconds for all.")
    parser.add_argument("--state", type=Path, help="Folder of a timing cache that the builds share.")
    parser.add_argument("--out", type=Path, default=RESULTS / "trt_accuracy.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (child if arguments.child else parent)(arguments)


if __name__ == "__main__":
    main()

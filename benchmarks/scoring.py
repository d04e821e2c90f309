"""What `evaluate` costs per image with 30,000 candidates: from reading the image to COCO's scores.

    python benchmarks/scoring.py [--real ../shared/real] [--peers PYTHON] [--rounds 5] [--save]

Labels and images are coco_mini/val's, the engine does nothing, and each image gets the same random candidates of
80 classes, at most 300 kept. They score almost nothing, so `evaluate` also looks for the reason, which a usual
detector does not need: its parts are timed alone too. Interleaved with it in one process: pycocotools alone, from a
list of the same boxes as its users write it. With --peers (the interpreter of an environment that has both),
Ultralytics' NMS of the same output and torchmetrics' MeanAveragePrecision of the same boxes, in a separate process.
Milliseconds per image, the least of the rounds: wall-clock and processor time. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, machine, save
from benchmarks.cpu_path import open_null
from benchmarks.nms import CANDIDATES, crowded
from edgesparse.classes import coco_names
from edgesparse.runtime.coco_scores import import_pycocotools
from edgesparse.runtime.evaluate import SCORING, Answers, detect, evaluate, score
from edgesparse.runtime.labels.read import Labels

PEERS = """
import importlib.metadata, json, sys, time
from collections import defaultdict
import numpy as np, torch
from torchmetrics.detection import MeanAveragePrecision
from ultralytics.utils.nms import non_max_suppression
folder, rounds, conf, iou, max_det = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])
raw, rows = torch.from_numpy(np.load(folder + "/raw.npy")), np.load(folder + "/rows.npy")
truth, labels = json.load(open(folder + "/truth.json")), defaultdict(list)
for box in truth["annotations"]:
    labels[box["image_id"]].append([*box["bbox"], box["category_id"]])
pairs = []
for image in sorted(set(rows[:, 0])):
    sides = []
    for boxes in (rows[rows[:, 0] == image][:, [1, 2, 3, 4, 6, 5]], np.array(labels[image]).reshape(-1, 5)):
        xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], 1)
        sides.append({"boxes": torch.tensor(xyxy, dtype=torch.float32), "labels": torch.tensor(boxes[:, 4]).long()})
        if boxes.shape[1] > 5:
            sides[-1]["scores"] = torch.tensor(boxes[:, 5], dtype=torch.float32)
    pairs.append(sides)
def nms():
    non_max_suppression(raw[None].clone(), conf, iou, multi_label=True, max_det=int(max_det), nc=80)
def metric():
    mean = MeanAveragePrecision()
    mean.warn_on_many_detections = False
    for ours, theirs in pairs:
        mean.update([ours], [theirs])
    return mean.compute()
times = {"Ultralytics' NMS": (nms, 1, []), "torchmetrics": (metric, len(pairs), [])}
for _ in range(rounds):
    for action, _, measured in times.values():
        begun = time.perf_counter(), time.process_time()
        result = action()
        measured.append([1e3 * (time.perf_counter() - begun[0]), 1e3 * (time.process_time() - begun[1])])
least = {name: [min(column) / images for column in zip(*measured)] for name, (_, images, measured) in times.items()}
versions = {name: importlib.metadata.version(name) for name in ("ultralytics", "torchmetrics", "torch")}
print(json.dumps([versions, least, 100 * float(result["map"])]))
"""


def least(actions: Mapping[str, Callable[[], object]], rounds: int, images: int) -> dict[str, dict[str, float]]:
    """Milliseconds per image, the least of the rounds, interleaved, after one round of warm-up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            wall, processor = time.perf_counter(), time.process_time()
            action()
            if number:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: _row(*(1e3 * np.min(values, axis=0) / images)) for name, values in times.items()}


def _row(wall: float, processor: float) -> dict[str, float]:
    return {"wall": round(float(wall), 2), "processor": round(float(processor), 2)}


def measure(folder: Path, labels: Labels, rounds: int, peers: str | None) -> dict[str, Any]:
    raw, classes, result = crowded(80), coco_names(), dict[str, Any]()
    mapping = labels.match(classes)
    with open_null(folder, raw, run=SCORING, classes=classes) as detector:
        answers = detect(detector, labels)
        truth = labels.as_coco(answers.sizes)
        actions = {
            "evaluate": lambda: evaluate(detector, labels),
            "images to detections": lambda: detect(detector, labels),
            "COCO's scores": lambda: score(labels, answers, classes, mapping),
            "pycocotools alone": lambda: by_pycocotools(truth, answers, mapping),
        }
        mine = score(labels, answers, classes, mapping).map
        if abs(mine - by_pycocotools(truth, answers, mapping)) > 1e-9:
            raise SystemExit("both must have the same score")
        result = {
            "images": len(labels.images),
            "labels": len(labels.boxes),
            "candidates": CANDIDATES,
            "kept": len(answers.rows) / len(labels.images),
            "milliseconds_per_image": least(actions, rounds, len(labels.images)),
        }
    if peers:
        np.save(folder / "raw.npy", raw)
        rows = [[*row[:6], (mapping[int(row[6])] or 0) + 1] for row in answers.rows]
        np.save(folder / "rows.npy", np.array(rows))
        (folder / "truth.json").write_text(json.dumps(truth))
        limits = map(str, (rounds, SCORING.conf, SCORING.iou, SCORING.max_det))
        command = [peers, "-c", PEERS, str(folder), *limits]
        versions, times, theirs = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        result["milliseconds_per_image"] |= {name: _row(*values) for name, values in times.items()}
        result |= {"peers": versions, "map": {"edgesparse": round(mine, 4), "torchmetrics": round(theirs, 4)}}
    return result


def by_pycocotools(truth: dict[str, Any], answers: Answers, mapping: Any) -> float:
    """Return the mAP in points, from a list of dictionaries as in the format of COCO's results."""
    coco, coco_eval = import_pycocotools()
    results = [
        {"image_id": int(row[0]), "category_id": mapping[int(row[6])] + 1, "bbox": row[1:5], "score": row[5]}
        for row in answers.rows
        if mapping[int(row[6])] is not None
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        labeled = coco()
        labeled.dataset = truth
        labeled.createIndex()
        run = coco_eval(labeled, labeled.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * float(run.stats[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has Ultralytics and torchmetrics")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    data = options.real / "coco_mini"
    labels = Labels(data / "instances_val.json", data / "val")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), labels, options.rounds, options.peers)
    save("scoring", {**machine(), **result}, options.save)


if __name__ == "__main__":
    main()

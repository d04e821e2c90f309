"""How much of a network's score is kept by pruning to 2:4 without training, in what time and memory?

    python benchmarks/reconstruct.py [--real ../shared/real] [--case all share drop parts crops] [--save]

YOLOX-nano, calibrated on coco_mini/train, scored on coco_mini/val (COCO mAP): `all` prunes every eligible layer,
`share` half of the eligible MACs, `drop` as much as a loss of one point allows. `parts` prunes the default detector's
dense network, scored on scenes not used for training (COCO mAP); `crops` prunes a small network of Gemm and MatMul,
trained here, that classifies the part in a crop (accuracy); both prune every eligible layer. Each case runs in its own
process. The baseline is one-shot magnitude pruning. CPU seconds are those of all cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import part_classifier
from benchmarks.common import RESULTS, machine, save
from benchmarks.detectors import PARTS, YOLOX, images
from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.config import DetectorSpec
from edgesparse.demo.export import export
from edgesparse.model.activations import Batches
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.prune import prune
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct

CASES = {
    "all": ReconstructOptions(),
    "share": ReconstructOptions(share=0.5),
    "drop": ReconstructOptions(max_drop=1.0),
    "parts": ReconstructOptions(),
    "crops": ReconstructOptions(),
}
PARTS_MODEL = Path(str(resources.files("edgesparse").joinpath("demo/parts_dense.onnx")))
SCENES, TEST_SCENES, FIRST, FIRST_TEST = 160, 200, 3_000_000, 1_000_000
"""Numbers of scenes for calibration and for scoring, and their first seeds, which training did not use."""


@dataclass(frozen=True)
class Network:
    """A network with its calibration data and its scoring function (0..100); `spec` if it is a detector."""

    model: ModelProto
    images: Batches
    score: Callable[[ModelProto], float]
    spec: DetectorSpec | None


def _detector(model: Path, folder: Path, labels: Labels, spec: DetectorSpec, count: int) -> Network:
    score = ModelScorer(spec, labels, lambda result, total: None)
    return Network(onnx.load(model), images(folder, count, spec), score, spec)


def coco(real: Path, folder: Path) -> Network:
    data = real / "coco_mini"
    labels = Labels(data / "instances_val.json", data / "val")
    return _detector(real / "models" / "yolox_nano.onnx", data / "train", labels, YOLOX, 160)


def parts(real: Path, folder: Path) -> Network:
    export(folder / "calibration", SCENES, FIRST)
    export(folder / "test", TEST_SCENES, FIRST_TEST)
    labels = Labels(folder / "test" / "instances.json", folder / "test" / "images")
    return _detector(PARTS_MODEL, folder / "calibration" / "images", labels, PARTS, SCENES)


def crops(real: Path, folder: Path) -> Network:
    x, classes = part_classifier.crops(FIRST, SCENES)
    unseen, named = part_classifier.crops(FIRST_TEST, TEST_SCENES)

    def accuracy(model: ModelProto) -> float:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return 100 * float((np.argmax(session.run(None, {"crops": unseen})[0], 1) == named).mean())

    model = part_classifier.export(part_classifier.train(x, classes))
    return Network(model, lambda: np.array_split(x, len(x) // 64), accuracy, None)


def measure(case: str, real: Path, folder: Path) -> dict[str, Any]:
    network = {"parts": parts, "crops": crops}.get(case, coco)(real, folder)
    one_shot = ModelProto()
    one_shot.CopyFrom(network.model)
    prune(one_shot)
    magnitude = network.score(one_shot) if case not in ("share", "drop") else None
    started, worked = time.perf_counter(), time.process_time()
    task = Task(score=network.score)
    if network.spec:
        objects = object_masks(network.model, network.images, network.spec)
        task = Task(network.score, box_reader(network.spec), objects)
    _, report = reconstruct(network.model, network.images, CASES[case], task, _show)
    return {
        "dense_score": report.dense_score,
        **({} if magnitude is None else {"magnitude_score": magnitude}),
        "score": report.score,
        "share_of_eligible_macs": round(report.share, 4),
        "layers_pruned": sum(layer.pruned for layer in report.layers),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _show(what: str, result: int, total: int) -> None:
    print(f"\r{what} {result}/{total}   ", end="", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--save", action="store_true", help="Write results/reconstruct.json.")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.case[0], arguments.real, Path(folder))))
        return
    results = {}
    for case in arguments.case:
        command = [sys.executable, __file__, "--inner", "--real", str(arguments.real), "--case", case]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[case] = json.loads(ran.stdout.splitlines()[-1])
        print(case, results[case], file=sys.stderr)
    file = RESULTS / "reconstruct.json"
    before = json.loads(file.read_text()) if arguments.save and file.exists() else {}
    kept = {case: before[case] for case in CASES if case in before}  # rows of other cases are kept
    save("reconstruct", {**machine(), **kept, **results}, arguments.save)


if __name__ == "__main__":
    main()

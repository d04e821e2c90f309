"""How much of a detector's score does pruning to 2:4 without training keep, in what time and memory?

    python benchmarks/reconstruct.py [--real ../shared/real] [--case all share drop] [--pictures 160] [--save]

YOLOX-nano: calibrated on the pictures of coco_mini/train, scored on coco_mini/val (COCO mAP).
`all` prunes every eligible layer, `share` half of the eligible MACs, `drop` as much as one point allows. Each case
runs in a process of its own. The peer is one-shot magnitude pruning.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.backends.onnxruntime import OnnxRuntimeBackend
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.graph.activations import Batches
from edgesparse.graph.prune import prune
from edgesparse.graph.reconstruct import reconstruct
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate
from edgesparse.runtime.preprocess import Preprocessor

CASES: dict[str, dict[str, Any]] = {"magnitude": {}, "all": {}, "share": {"share": 0.5}, "drop": {"max_drop": 1.0}}
SPEC = DetectorSpec(
    head="yolox",
    classes=coco_names(),
    input=InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0),
)


def pictures(folder: Path, count: int, mirrored: bool) -> Batches:
    """The first `count` pictures of `folder`, as the network takes them, each with its mirror image where asked for."""

    def batches() -> Iterator[NDArray[np.float32]]:
        for path in sorted(folder.iterdir())[:count]:
            buffer = np.full((1, 3, 416, 416), 114, np.float32)
            box = Preprocessor(SPEC.input, buffer)(np.asarray(cv2.imread(str(path)), np.uint8))
            yield buffer
            if mirrored:
                inside = np.s_[..., : box.width]
                turned = buffer.copy()
                turned[inside] = buffer[inside][..., ::-1]
                yield turned

    return batches


def score(model: ModelProto, labels: Labels) -> float:
    """COCO mAP, 0..100."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        with Detector(OnnxRuntimeBackend().load(path), SPEC, SCORING) as detector:
            return evaluate(detector, labels).map


def measure(case: str, real: Path, count: int, mirrored: bool) -> dict[str, Any]:
    model = onnx.load(real / "models" / "yolox_nano.onnx")
    labels = Labels(real / "coco_mini" / "instances_val.json", real / "coco_mini" / "val")
    started = time.perf_counter()
    if case == "magnitude":
        prune(model)
        return {"score": score(model, labels)}
    _, report = reconstruct(
        model,
        pictures(real / "coco_mini" / "train", count, mirrored),
        score=lambda made: score(made, labels),
        progress=lambda what, done, total: print(f"\r{what} {done}/{total}   ", end="", file=sys.stderr),
        **CASES[case],
    )
    pruned = [layer for layer in report.layers if layer.pruned]
    return {
        "dense_score": report.dense_score,
        "score": report.score,
        "share_of_eligible_macs": round(report.share, 4),
        "layers_pruned": len(pruned),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--mirrored", action="store_true", help="Each picture with its mirror image.")
    parser.add_argument("--save", action="store_true", help="Write results/reconstruct.json.")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.inner:
        print(json.dumps(measure(said.case[0], said.real, said.pictures, said.mirrored)))
        return
    results = {}
    for case in said.case:
        options = [*(["--mirrored"] if said.mirrored else []), "--real", str(said.real)]
        command = [sys.executable, __file__, "--inner", "--pictures", str(said.pictures), *options, "--case", case]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[case] = json.loads(ran.stdout.splitlines()[-1])
        print(case, results[case], file=sys.stderr)
    save("reconstruct", {**machine(), "pictures": said.pictures, "mirrored": said.mirrored, **results}, said.save)


if __name__ == "__main__":
    main()

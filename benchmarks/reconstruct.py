"""How much of a network's score is kept by pruning to 2:4 without labels, in what time and memory?

    python benchmarks/reconstruct.py [--real ../shared/real] [--case yolox_nano-all ... drop parts crops] [--steps N]
        [--seed N] [--keep FOLDER] [--modelopt FOLDER] [--save]

`DETECTOR-all` prunes every eligible layer of one of four detectors, `DETECTOR-half` half of the eligible MACs, on the
288 images of coco_mini/train and unlabelled/, without labels; then all weights are trained for --steps, where PyTorch
is installed and can run the detector. Scored on coco_mini/val (COCO mAP), on which nothing is chosen. --keep keeps the
pruned models, and trains those that are there. `drop` prunes as much of YOLOX-nano as a loss of one point allows,
`parts` the default detector's dense network, scored on scenes not used for training (COCO mAP); `crops` a small network
of Gemm and MatMul, trained here, that classifies the part in a crop (accuracy). Each case runs in its own process. The
baseline is one-shot magnitude pruning, the rule of NVIDIA ASP; with --modelopt, ModelOpt's sparse_magnitude is run
beside it, in an environment in that folder, which is created if it is missing. CPU seconds are those of all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import part_classifier
from benchmarks.common import RESULTS, machine, save
from benchmarks.detectors import PARTS, YOLOX, images
from benchmarks.int8_accuracy import environment as python_of
from edgesparse.builder.objects import box_reader, object_masks
from edgesparse.builder.prepare import detector_spec
from edgesparse.config import DetectorSpec
from edgesparse.demo.export import export
from edgesparse.errors import ModelError
from edgesparse.model.activations import Batches
from edgesparse.model.load import load
from edgesparse.model.wiring import attribute
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.images import image_files
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.permute import permute
from edgesparse.sparsity.prune import prune
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct
from edgesparse.tasks.inputs import as_recipe, pixels_of
from edgesparse.tasks.training import training_values

DETECTORS = ("yolox_nano", "nanodet_m_416", "FastestDet", "deimv2_atto")
CASES = {
    **{f"{name}-all": ReconstructOptions() for name in DETECTORS},
    **{f"{name}-half": ReconstructOptions(share=0.5) for name in DETECTORS},
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
    return Network(load(model), images(folder, count, spec), score, spec)


def coco(real: Path, folder: Path, name: str) -> Network:
    """One of DETECTORS, with both sets of images in `folder`/images."""
    (folder / "images").mkdir()
    for file in (*image_files(real / "coco_mini/train"), *image_files(real / "unlabelled")):
        (folder / "images" / file.name).symlink_to(file)
    path = real / "models" / f"{name}.onnx"
    spec = detector_spec(load(path), as_recipe(path, "coco"))
    labels = Labels(real / "coco_mini/instances_val.json", real / "coco_mini/val")
    return _detector(path, folder / "images", labels, spec, 288)


def yolox(real: Path, folder: Path) -> Network:
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


def measure(case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one case."""
    detector = case.rpartition("-")[0]
    if detector:
        network = coco(options.real, folder, detector)
    else:
        network = {"parts": parts, "crops": crops}.get(case, yolox)(options.real, folder)
    row: dict[str, Any] = {}
    kept = options.keep and options.keep / f"{case}.onnx"
    if kept and kept.exists() and kept.with_suffix(".json").exists():
        model = load(kept)
        row |= json.loads(kept.with_suffix(".json").read_text())
    else:
        if not case.endswith("-half") and case != "drop":
            by_magnitude = _by_magnitude(network)
            row["magnitude_score"] = network.score(by_magnitude)
            if detector and options.modelopt:
                row["modelopt"] = by_modelopt(network, by_magnitude, options.modelopt, folder)
        model, more = refitted(network, CASES[case])
        row |= more
        if kept:
            onnx.save(model, kept)
            kept.with_suffix(".json").write_text(json.dumps(row))
    if detector and options.steps and find_spec("torch"):
        row["trained"] = trained(network, model, folder / "images", options)
    return row


def _by_magnitude(network: Network) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(network.model)
    prune(model)
    return model


def by_modelopt(network: Network, ours: ModelProto, environment: Path, folder: Path) -> dict[str, Any]:
    """How many layers ModelOpt makes 2:4, in how many of them its weights are those of `ours`, and the score."""
    model = ModelProto()
    model.CopyFrom(network.model)
    convolutions = {node.input[1]: attribute(node, "group", 1) for node in model.graph.node if node.op_type == "Conv"}
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in convolutions}
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in weights.items()}
    groups: dict[str, Any] = {f"{name}.groups": np.array(convolutions[name]) for name in arrays}
    np.savez(folder / "weights.npz", **(groups | arrays))
    command = [str(python_of(environment)), str(Path(__file__).with_name("sparsity_peer.py"))]
    command += [str(folder / "weights.npz"), str(folder / "sparse.npz")]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""})
    right = {tensor.name: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer if tensor.name in weights}
    with np.load(folder / "sparse.npz") as changed:
        for name in changed.files:
            weights[name].CopyFrom(numpy_helper.from_array(changed[name], name))
        same = sum(np.array_equal(changed[name], right[name]) for name in changed.files)
        counts = {"layers": len(changed.files), "as_ours": same}
    pruned_by_us = sum(not np.array_equal(right[name], arrays[name]) for name in arrays)
    score = network.score(model)
    return {"version": ran.stdout.split()[-1], **counts, "layers_by_us": pruned_by_us, "score": score}


def refitted(network: Network, options: ReconstructOptions) -> tuple[ModelProto, dict[str, Any]]:
    """The model with its layers pruned and refitted, and its figures."""
    started, worked = time.perf_counter(), time.process_time()
    task = Task(score=network.score)
    if network.spec:
        objects = object_masks(network.model, network.images, network.spec)
        task = Task(network.score, box_reader(network.spec), objects)
    model, report = reconstruct(network.model, network.images, options, task, _show)
    return model, {
        "dense_score": report.dense_score,
        "score": report.score,
        "share_of_eligible_macs": round(report.share, 4),
        "layers_pruned": sum(layer.pruned for layer in report.layers),
        **_used(started, worked),
    }


def trained(network: Network, pruned: ModelProto, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a pruned model after training, or why it cannot be trained."""
    from edgesparse.training.refine import Refiner

    assert network.spec is not None
    dense = ModelProto()
    dense.CopyFrom(network.model)
    permute(dense, [layer.name for layer in inspect(pruned).layers if layer.state == "sparse"])
    try:
        values = training_values(dense, pruned, network.spec)
        values |= {"steps": options.steps, "seed": options.seed}
        refiner = Refiner.of(pixels_of(str(source), network.spec.input, 288), values)
        refiner.check(dense)
    except ModelError as error:
        return {"error": str(error)}
    started, worked = time.perf_counter(), time.process_time()
    file = None if options.keep is None else options.keep / f"{options.case[0]}-{options.steps}-{options.seed}.pt"
    result = refiner(dense, pruned, file, _show)
    used, report = _used(started, worked), result.report
    row = {"steps": report.steps, "seed": options.seed, "score": network.score(result.model), **used}
    return row | {"held_out_before": round(report.before, 4), "held_out_after": round(report.after, 4)}


def _used(started: float, worked: float) -> dict[str, float]:
    return {
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
    parser.add_argument("--steps", type=int, default=600, help="Train all weights for N steps; 0: not.")
    parser.add_argument("--seed", type=int, default=0, help="Of the training.")
    parser.add_argument("--keep", type=Path, help="Keep pruned models and checkpoints in this folder, and go on there.")
    parser.add_argument("--modelopt", type=Path, metavar="FOLDER", help="Environment with ModelOpt, to compare with.")
    parser.add_argument("--save", action="store_true", help="Write results/reconstruct.json.")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.case[0], Path(folder), arguments)))
        return
    results = {}
    for case in arguments.case:
        command = [sys.executable, __file__, "--inner", "--real", str(arguments.real.resolve()), "--case", case]
        command += ["--steps", str(arguments.steps), "--seed", str(arguments.seed)]
        command += ["--keep", str(arguments.keep)] if arguments.keep else []
        command += ["--modelopt", str(arguments.modelopt)] if arguments.modelopt else []
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[case] = json.loads(ran.stdout.splitlines()[-1])
        print(case, results[case], file=sys.stderr)
    file = RESULTS / "reconstruct.json"
    before = json.loads(file.read_text()) if arguments.save and file.exists() else {}
    kept = {case: before[case] for case in CASES if case in before}  # rows of other cases are kept
    cases = " ".join(arguments.case)
    shown = f"python benchmarks/reconstruct.py --case {cases} --steps {arguments.steps} --save"
    save("reconstruct", {**machine(), "command": shown, **kept, **results}, arguments.save)


if __name__ == "__main__":
    main()

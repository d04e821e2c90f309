"""What does INT8 cost a detector's score, what does each step bring back, in what time and memory?

    python benchmarks/quantize.py [--case methods steps drop pruned parts] [--images 160] [--save]

YOLOX-nano: calibrated on the images of coco_mini/train, scored on coco_mini/val (COCO mAP), all but the head's last
convolutions in INT8. `methods` sets ranges in each way, on even channels; `steps` adds one step after the other; `drop`
is what `edgesparse quantize --max-drop 1` does; `pruned` makes half of the eligible MACs 2:4 first (or takes the file
--pruned, made so), then does the same in both placements; `parts` takes the default detector, dense and 2:4, calibrated
on calib_data, scored on scenes that its training never saw. Each case runs in a process of its own, and its peak memory
is that of the process; --save replaces the cases that ran in benchmarks/results/quantize.json.
The peers are in int8_accuracy.py.
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
from pathlib import Path
from typing import Any, get_args

from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine, save
from benchmarks.detectors import PARTS, YOLOX, images
from edgesparse.builder.objects import object_masks
from edgesparse.config import DetectorSpec
from edgesparse.demo.export import export
from edgesparse.int8.bias_correction import correct_biases
from edgesparse.int8.calibration import BEST, CalibrationOptions, calibrate
from edgesparse.int8.equalize import equalize
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.int8.recover import IMAGES, RecoverOptions, recover
from edgesparse.int8.thresholds import METHODS
from edgesparse.model.activations import Batches, spread
from edgesparse.model.load import load
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, reconstruct

ROOT = Path(__file__).resolve().parents[1]
METHOD = "mse"
"""The verb's default."""
SCENES, SEED = 200, 1_000_000
Score = Callable[[ModelProto], float]


def show(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}   ", end="", file=sys.stderr)


def methods(model: ModelProto, data: Batches, score: Score) -> dict[str, Any]:
    even, _ = equalize(model, data, (), show)
    found = {}
    for method in (*METHODS, BEST):
        ranges = calibrate(even, data, CalibrationOptions(method), tensors=quantized_tensors(even), progress=show)
        found[method] = round(score(quantize(even, ranges.scales)[0]), 2)
    return found


def steps(model: ModelProto, data: Batches, score: Score) -> dict[str, Any]:
    even, _ = equalize(model, data, (), show)
    found, scales = {"fp32": score(model)}, {}
    for name, made in (("ranges", model), ("even_channels", even)):
        scales = calibrate(
            made, data, CalibrationOptions(METHOD), tensors=quantized_tensors(made), progress=show
        ).scales
        found[name] = score(quantize(made, scales)[0])
    done = correct_biases(even, scales, spread(data, IMAGES), (), show)
    found["biases"] = score(quantize(done.model, scales)[0])
    return {name: round(value, 2) for name, value in found.items()}


def _options(placement: Placement, saved: Path) -> RecoverOptions:
    return RecoverOptions(CalibrationOptions(METHOD, saved=saved), placement)


def recovered(model: ModelProto, data: Batches, score: Score, options: RecoverOptions) -> dict[str, Any]:
    started = time.perf_counter()
    done = recover(model, data, options, score=score, progress=show)
    report = done.report
    if options.calibration.saved:
        done.calibration.save(options.calibration.saved)
    return {
        "steps": {step.what: round(step.score or 0.0, 2) for step in report.steps},
        "drop": round(report.drop or 0.0, 2),
        "int8_conv_macs_percent": round(100 * report.share, 1),
        "kept": [layer.name for layer in report.kept if layer.why.startswith("kept")],
        "seconds": round(time.perf_counter() - started, 1),
    }


def pruned(model: ModelProto, data: Batches, score: Score, file: Path | None) -> dict[str, Any]:
    made = (
        load(file)
        if file
        else reconstruct(
            model, data, ReconstructOptions(share=0.5), Task(objects=object_masks(model, data, YOLOX)), show
        )[0]
    )
    layers = inspect(made)
    sparse, dense = layers.share("sparse"), layers.share("dense")
    found: dict[str, Any] = {"share_of_eligible_macs": round(sparse / (sparse + dense), 4)}
    with tempfile.TemporaryDirectory() as folder:
        for placement in get_args(Placement):
            found[placement] = recovered(made, data, score, _options(placement, Path(folder, "ranges.json")))
    return found


def parts() -> dict[str, Any]:
    data = images(ROOT / "calib_data", 160, PARTS)
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder, "scenes"), SCENES, SEED)
        labels = Labels(Path(folder, "scenes", "instances.json"))
        models = {name: load(ROOT / "edgesparse" / "demo" / f"{name}.onnx") for name in ("parts_dense", "parts_2to4")}
        found: dict[str, Any] = {"scenes": SCENES, "seed": SEED}
        for name, model in models.items():
            for placement in get_args(Placement) if name == "parts_2to4" else ("fuse",):
                score, saved = scoring(PARTS, labels), Path(folder, f"{name}.json")
                found[f"{name} {placement}"] = recovered(model, data, score, _options(placement, saved))
    return found


def scoring(spec: DetectorSpec, labels: Labels) -> Score:
    return ModelScorer(spec, labels, lambda done, total: None)


def measure(case: str, real: Path, count: int, file: Path | None) -> dict[str, Any]:
    started = time.perf_counter()
    if case == "parts":
        found = parts()
    else:
        model = load(real / "models" / "yolox_nano.onnx")
        score = scoring(YOLOX, Labels(real / "coco_mini" / "instances_val.json", real / "coco_mini" / "val"))
        data = images(real / "coco_mini" / "train", count)
        by: dict[str, Callable[[], dict[str, Any]]] = {
            "methods": lambda: methods(model, data, score),
            "steps": lambda: steps(model, data, score),
            "drop": lambda: recovered(model, data, score, RecoverOptions(CalibrationOptions(METHOD), max_drop=1.0)),
            "pruned": lambda: pruned(model, data, score, file),
        }
        found = by[case]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {**found, "seconds": round(time.perf_counter() - started, 1), "peak_rss_mb": peak}


def main() -> None:
    cases = ("methods", "steps", "drop", "pruned", "parts")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--pruned", type=Path, help="YOLOX-nano with half of the eligible MACs 2:4.")
    parser.add_argument("--save", action="store_true", help="Write results/quantize.json.")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.inner:
        print(json.dumps(measure(said.case[0], said.real, said.images, said.pruned)))
        return
    path, results = RESULTS / "quantize.json", {}
    for case in said.case:
        command = [sys.executable, __file__, "--inner", "--images", str(said.images), "--real", str(said.real)]
        command += ["--pruned", str(said.pruned)] if said.pruned else []
        ran = subprocess.run([*command, "--case", case], check=True, stdout=subprocess.PIPE, text=True)
        results[case] = {
            **machine(),
            "command": f"python benchmarks/quantize.py --case {case} --save",
            "images": said.images,
            **json.loads(ran.stdout.splitlines()[-1]),
        }
    save("quantize", {**(json.loads(path.read_text()) if path.exists() else {}), **results}, said.save)


if __name__ == "__main__":
    main()

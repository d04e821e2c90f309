"""How much of a detector's score does INT8 cost, how much does each step recover, in what time and memory?

    python benchmarks/quantize.py [--case methods steps drop pruned parts] [--images 160] [--save]

YOLOX-nano: calibrated on coco_mini/train, scored on coco_mini/val (COCO mAP), with all but the head's last convolutions
in INT8. `methods` tries each calibration method, on equalized channels; `steps` adds one step after another; `drop` is
what `edgesparse quantize --max-drop 1` does; `pruned` first makes half of the eligible MACs 2:4 (or uses such a file,
given by --pruned), then does the same in both placements; `parts` uses the default detector, dense and 2:4, calibrated
on calib_data and scored on scenes that were not used for training. Each case runs in its own process, and its peak
memory is that of the process; --save replaces the cases that ran in benchmarks/results/quantize.json. The peers are in
int8_accuracy.py.
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


def show(what: str, result: int, total: int) -> None:
    print(f"\r{what} {result}/{total}   ", end="", file=sys.stderr)


def methods(model: ModelProto, data: Batches, score: Score) -> dict[str, Any]:
    equalized = equalize(model, data, (), show)
    even, keep, result = equalized.model, tuple(equalized.uneven), {}
    tensors = quantized_tensors(even, keep=keep)
    for method in (*METHODS, BEST):
        ranges = calibrate(even, data, CalibrationOptions(method), tensors=tensors, progress=show)
        result[method] = round(score(quantize(even, ranges.scales, keep=keep)[0]), 2)
    return result


def steps(model: ModelProto, data: Batches, score: Score) -> dict[str, Any]:
    equalized = equalize(model, data, (), show)
    even, uneven = equalized.model, tuple(equalized.uneven)
    result, scales = {"fp32": score(model)}, {}
    for name, source, keep in (("ranges", model, ()), ("even_channels", even, uneven)):
        tensors = quantized_tensors(source, keep=keep)
        scales = calibrate(source, data, CalibrationOptions(METHOD), tensors=tensors, progress=show).scales
        result[name] = score(quantize(source, scales, keep=keep)[0])
    corrected = correct_biases(even, scales, spread(data, IMAGES), uneven, show)
    result["biases"] = score(quantize(corrected.model, scales, keep=uneven)[0])
    return {name: round(value, 2) for name, value in result.items()}


def _options(placement: Placement, saved: Path) -> RecoverOptions:
    return RecoverOptions(CalibrationOptions(METHOD, saved=saved), placement)


def recovered(model: ModelProto, data: Batches, score: Score, options: RecoverOptions) -> dict[str, Any]:
    started = time.perf_counter()
    result = recover(model, data, options, score=score, progress=show)
    report = result.report
    if options.calibration.saved:
        result.calibration.save(options.calibration.saved)
    return {
        "steps": {step.what: round(step.score or 0.0, 2) for step in report.steps},
        "drop": round(report.drop or 0.0, 2),
        "int8_conv_macs_percent": round(100 * report.share, 1),
        "kept": [layer.name for layer in report.kept if layer.why.startswith("kept")],
        "seconds": round(time.perf_counter() - started, 1),
    }


def pruned(model: ModelProto, data: Batches, score: Score, file: Path | None) -> dict[str, Any]:
    source = (
        load(file)
        if file
        else reconstruct(
            model, data, ReconstructOptions(share=0.5), Task(objects=object_masks(model, data, YOLOX)), show
        )[0]
    )
    layers = inspect(source)
    sparse, dense = layers.share("sparse"), layers.share("dense")
    result: dict[str, Any] = {"share_of_eligible_macs": round(sparse / (sparse + dense), 4)}
    with tempfile.TemporaryDirectory() as folder:
        for placement in get_args(Placement):
            result[placement] = recovered(source, data, score, _options(placement, Path(folder, "ranges.json")))
    return result


def parts() -> dict[str, Any]:
    data = images(ROOT / "calib_data", 160, PARTS)
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder, "scenes"), SCENES, SEED)
        labels = Labels(Path(folder, "scenes", "instances.json"))
        models = {name: load(ROOT / "edgesparse" / "demo" / f"{name}.onnx") for name in ("parts_dense", "parts_2to4")}
        result: dict[str, Any] = {"scenes": SCENES, "seed": SEED}
        for name, model in models.items():
            for placement in get_args(Placement) if name == "parts_2to4" else ("fuse",):
                score, saved = scoring(PARTS, labels), Path(folder, f"{name}.json")
                result[f"{name} {placement}"] = recovered(model, data, score, _options(placement, saved))
    return result


def scoring(spec: DetectorSpec, labels: Labels) -> Score:
    return ModelScorer(spec, labels, lambda result, total: None)


def measure(case: str, real: Path, count: int, file: Path | None) -> dict[str, Any]:
    started = time.perf_counter()
    if case == "parts":
        result = parts()
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
        result = by[case]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {**result, "seconds": round(time.perf_counter() - started, 1), "peak_rss_mb": peak}


def main() -> None:
    cases = ("methods", "steps", "drop", "pruned", "parts")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--pruned", type=Path, help="YOLOX-nano with half of the eligible MACs 2:4.")
    parser.add_argument("--save", action="store_true", help="Write results/quantize.json.")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        print(json.dumps(measure(arguments.case[0], arguments.real, arguments.images, arguments.pruned)))
        return
    path, results = RESULTS / "quantize.json", {}
    for case in arguments.case:
        command = [
            sys.executable,
            __file__,
            "--inner",
            "--images",
            str(arguments.images),
            "--real",
            str(arguments.real),
        ]
        command += ["--pruned", str(arguments.pruned)] if arguments.pruned else []
        ran = subprocess.run([*command, "--case", case], check=True, stdout=subprocess.PIPE, text=True)
        results[case] = {
            **machine(),
            "command": f"python benchmarks/quantize.py --case {case} --save",
            "images": arguments.images,
            **json.loads(ran.stdout.splitlines()[-1]),
        }
    save("quantize", {**(json.loads(path.read_text()) if path.exists() else {}), **results}, arguments.save)


if __name__ == "__main__":
    main()

"""What each step of `fit` brings, as a ladder from FP32 on: milliseconds predicted, mAP measured.

    python benchmarks/ladder.py [--case yolox_nano parts] [--count 40] [--max-drop 1.5] [--minutes 20] [--state FOLDER]
        [--student FOLDER] [--real ../shared/real] [--save]

`yolox_nano`: every choice is made on coco_mini/train, and each network is scored on coco_mini/val, which no choice
sees. `parts`: the default detector before it was made 2:4, on scenes of the demo, chosen on some and scored on others.
A case ends after --minutes; what it measured stays in --state, and the same command continues. `--student` is a folder
of benchmarks/distill.py in which a ReLU student of YOLOX-nano was trained. With --save, each case is written to
results/ladder.json as soon as it ends, and docs/images/ladder.svg is drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine, save
from benchmarks.ladder_plot import plot
from edgesparse.compress.lesson import read_result
from edgesparse.config import Recipe, parse
from edgesparse.demo.export import export
from edgesparse.model.load import load
from edgesparse.model.load import save as save_model
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.inspect import inspect
from edgesparse.tasks import fit_network
from edgesparse.tasks.fit import fit_folder
from edgesparse.tasks.fit_network import FitOptions, Settings

ROOT = Path(__file__).resolve().parents[1]
PLOT = ROOT / "docs" / "images" / "ladder.svg"
SCENES = 100
SEEDS = {"choosing": 2_000_000, "evaluation": 1_000_000}
"""Of the first scene, far from the training's."""
DEVICE = "orin-nano-8gb"


def yolox_nano(arguments: argparse.Namespace, folder: Path) -> tuple[Recipe, dict[str, Any]]:
    data = arguments.real.absolute() / "coco_mini"
    fields = {
        "model": str(arguments.real.absolute() / "models" / "yolox_nano.onnx"),
        "classes": "coco",
        "accept": {"annotations": str(data / "instances_val.json"), "images": str(data / "val")},
    }
    choose = {"annotations": data / "instances_train.json", "annotated_images": data / "train"}
    return parse(fields, "recipe"), {**choose, "images": data / "train"}


def parts(arguments: argparse.Namespace, folder: Path) -> tuple[Recipe, dict[str, Any]]:
    for name, seed in SEEDS.items():
        if not (folder / name).exists():
            export(folder / name, SCENES, seed)
    evaluation = folder / "evaluation"
    fields = {
        "model": str(files("edgesparse.demo") / "parts_dense.onnx"),
        "accept": {"annotations": str(evaluation / "instances.json"), "images": str(evaluation / "images")},
    }
    choosing = folder / "choosing"
    choose = {"annotations": choosing / "instances.json", "annotated_images": choosing / "images"}
    return parse(fields, "recipe"), {**choose, "images": choosing / "images"}


CASES: dict[str, Callable[[argparse.Namespace, Path], tuple[Recipe, dict[str, Any]]]] = {
    "yolox_nano": yolox_nano,
    "parts": parts,
}


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.state / case
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    recipe, labels = CASES[case](arguments, folder)
    options = FitOptions(
        **labels,
        count=arguments.count,
        device=DEVICE,
        max_drop=arguments.max_drop,
        minutes=arguments.minutes,
        force=True,
    )
    report = fit_folder(recipe, folder / "fit", options, _show)
    result = report.as_dict()
    result["images"] = {"calibrated and refitted on": arguments.count, "evaluated on": len(_labels(recipe).images)}
    if case == "yolox_nano" and arguments.student is not None:
        result["student"] = student(recipe, arguments.student, folder)
    return {**result, "written": [Path(path).name for path in report.written], "seconds": _seconds(started)}


def student(recipe: Recipe, trained: Path, folder: Path) -> dict[str, Any]:
    """The distilled network: as it was trained, with Q/DQ, on the evaluation images; predicted after `slim`."""
    model, training = read_result(trained)
    settings = Settings(FitOptions(device=DEVICE), recipe, "", folder)
    network = fit_network.base(recipe.model_copy(update={"model": trained / "trained.onnx"}), settings, "student")
    labels = _labels(recipe)
    _, spec = fit_network.scored(network)
    score = ModelScorer(spec, labels, lambda done, total: _show("scoring the student", done, total))(model)
    names = tuple(layer.name for layer in inspect(load(network.model)).layers if layer.sparse)
    precision = "int8" if training["scales"] else "fp16"
    ms = fit_network.milliseconds(replace(network, precision=precision, sparse=names), settings)
    slim = fit_network.slimmed(network, settings, "student-slim", _show)
    slim_ms = fit_network.milliseconds(replace(slim, precision=precision, sparse=names), settings)
    save_model(model, folder / "student-int8.onnx")
    return {
        "precision": precision,
        "ms": ms,
        "ms after slim": slim_ms,
        "evaluated": score,
        "trained on": training["device"],
        "minutes": round(training["seconds"] / 60, 1),
    }


def _labels(recipe: Recipe) -> Labels:
    assert recipe.accept.annotations is not None
    return Labels(recipe.accept.annotations, recipe.accept.images)


def _seconds(started: float) -> int:
    return round(time.perf_counter() - started)


def _show(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}   ", end="", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--max-drop", type=float, default=1.5)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--state", type=Path, default=Path("ladder"))
    parser.add_argument("--student", type=Path)
    parser.add_argument("--save", action="store_true", help="Write results/ladder.json and the plot.")
    arguments = parser.parse_args()
    file = RESULTS / "ladder.json"
    results = json.loads(file.read_text()) if arguments.save and file.exists() else {}
    for case in arguments.case:
        about = machine()
        result = {"command": about.pop("command"), **measure(case, arguments)}
        results |= {**about, case: result}  # and what else is there, such as the former search's `stepwise`
        save("ladder", results, arguments.save)
    if arguments.save:
        PLOT.write_text(plot({case: results[case] for case in CASES if case in results}))


if __name__ == "__main__":
    main()

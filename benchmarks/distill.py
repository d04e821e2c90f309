"""A ReLU, 2:4, INT8 detector distilled from the original without labels: YOLOX-nano on real images.

    python benchmarks/distill.py prepare FOLDER [--relu [F]] [--sparse 0.5] [--int8] [--minutes 9] [--images N]
    python benchmarks/distill.py train FOLDER
    python benchmarks/distill.py score FOLDER [--save]

`prepare` and `score` run where edgesparse is installed, with the real images next to the checkout or in
EDGESPARSE_REAL. `train` needs only PyTorch 2.x, NumPy and onnx, and uses the GPU if there is one: copy FOLDER there and
back. It trains on coco_mini/train and unlabelled/; scores are on coco_mini/val, which was not used for any decision.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def real() -> Path:
    return Path(os.environ.get("EDGESPARSE_REAL", ROOT.parent / "shared" / "real"))


def prepare(options: argparse.Namespace) -> None:
    import numpy as np

    from edgesparse.builder.prepare import detector_spec
    from edgesparse.compress.student import StudentOptions
    from edgesparse.model.load import load
    from edgesparse.runtime.images import image_files
    from edgesparse.tasks.distill import prepared, start_data
    from edgesparse.tasks.inputs import as_recipe, pixels_of

    path = real() / "models" / "yolox_nano.onnx"
    model = load(path)
    spec = detector_spec(model, as_recipe(path, "coco"))
    sources = [real() / "coco_mini" / "train", real() / "unlabelled"]
    pixels = np.concatenate([pixels_of(str(source), spec.input, len(image_files(source))) for source in sources])
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))][: options.images or None]
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = StudentOptions(
        options.relu, options.sparse, options.int8, options.minutes, batch=options.batch, rate=options.rate
    )
    data = start_data(model, spec, pixels, options.folder)
    lesson = prepared(model, None, spec, chosen, data, partial(print, end="\r"))
    replace(lesson, values={**lesson.values, "strong": options.strong}).write(options.folder, pixels)
    print(f"{len(pixels)} images; next: python benchmarks/distill.py train {options.folder}")


def train(options: argparse.Namespace) -> None:
    from edgesparse.training import distill

    sys.argv = ["distill", str(options.folder)]
    distill.main()


def score(options: argparse.Namespace) -> None:
    from benchmarks.common import machine, save
    from edgesparse.builder.prepare import detector_spec
    from edgesparse.compress.lesson import read_result
    from edgesparse.model.load import load
    from edgesparse.runtime.evaluate import ModelScorer
    from edgesparse.sparsity.inspect import inspect
    from edgesparse.tasks.inputs import as_recipe, read_annotations

    path = real() / "models" / "yolox_nano.onnx"
    teacher, (student, report) = load(path), read_result(options.folder)
    spec = detector_spec(teacher, as_recipe(path, "coco"))
    labels = read_annotations(real() / "coco_mini" / "instances_val.json", real() / "coco_mini" / "val")
    assert labels is not None
    scorer = ModelScorer(spec, labels, partial(print, end="\r"))
    result: dict[str, Any] = {
        **machine(),
        "trained on": report["device"],
        "torch": report["torch"],
        "images": report["images"],
        "minutes": round(report["seconds"] / 60, 2),
        "steps": report["step"],
        "relu": any(node.op_type == "Relu" for node in student.graph.node),
        "int8": bool(report["scales"]),
        "share of MACs 2:4": round(inspect(load(options.folder / "trained.onnx")).share("sparse"), 3),
        "mAP of the original": round(scorer.reference(teacher), 2),
        "mAP": round(scorer(student), 2),
        "history": report["history"],
    }
    save(f"distill-{options.folder.name}", result, options.save)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    for function in (prepare, train, score):
        verb = verbs.add_parser(function.__name__)
        verb.add_argument("folder", type=Path)
        verb.set_defaults(run=function)
        if function is prepare:
            verb.add_argument("--relu", type=float, nargs="?", const=1.0, default=0.0)
            verb.add_argument("--int8", action="store_true")
            verb.add_argument("--sparse", type=float, default=0.0)
            verb.add_argument("--minutes", type=float, default=9.0)
            verb.add_argument("--images", type=int, default=0, help="train on so many of the images")
            verb.add_argument("--batch", type=int, default=16)
            verb.add_argument("--strong", type=int, default=8, help="change so many images per step strongly")
            verb.add_argument("--rate", type=float, default=1e-3)
        if function is score:
            verb.add_argument("--save", action="store_true")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

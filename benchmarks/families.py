"""Accuracy cost of INT8 and 2:4 without training, for trained networks of several families: mAP on the same labelled
images.

    python benchmarks/families.py [--real ../shared/real] [--only yolox_nano] [--save]

Each is scored as it is, after `quantize`, and after `prune --method reconstruct --share 0.5`, all with ONNX Runtime.
Calibration and reconstruction use the training images, scoring uses the others. The images are a subset, so compare
figures only with each other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import edgesparse
from benchmarks.common import machine, save

HERE = Path(__file__).resolve().parent
MODELS = ("yolox_nano", "nanodet_m_416", "FastestDet", "deimv2_atto")
RECIPE = "model: {model}\nclasses: coco\ninput: {{{look}}}\nbuild: {{backend: onnxruntime}}\n"


def scored(recipe: Path, real: Path) -> dict[str, float] | str:
    """mAP in points, or the reason why there is none."""
    labels = real / "coco_mini" / "instances_val.json"
    result = edgesparse.evaluate(recipe, labels, images=real / "coco_mini" / "val", store=recipe.parent / "engines")
    return {"map": round(result.map, 1), "map50": round(result.map50, 1)}


def rows(model: Path, real: Path, folder: Path) -> dict[str, Any]:
    """Scores before and after, and the head that was recognized."""
    train = real / "coco_mini" / "train"
    recipe = described(model, folder, "fp32")
    with edgesparse.load(recipe, store=folder / "engines") as detector:
        head, look = detector.spec.head, detector.spec.input
    row: dict[str, Any] = {"head": head, "fp32": scored(recipe, real)}
    fixed = look.model_dump(mode="json")
    ways: dict[str, Callable[[Path], Any]] = {
        "int8": lambda out: edgesparse.quantize(recipe, out, images=train),
        "2:4 half": lambda out: edgesparse.prune(recipe, out, method="reconstruct", images=train, share=0.5),
    }
    for way, run in ways.items():
        out = folder / f"{model.stem}-{way.replace(':', '').replace(' ', '-')}.onnx"
        try:
            run(out)
            row[way] = scored(described(out, folder, out.stem, fixed), real)
        except edgesparse.EdgeSparseError as error:
            row[way] = str(error)
        print(model.stem, way, row[way], file=sys.stderr, flush=True)
    return row


def described(model: Path, folder: Path, name: str, look: dict[str, Any] | None = None) -> Path:
    """A recipe for the model, with the input of its original."""
    path = folder / f"{name}.yaml"
    path.write_text(
        RECIPE.format(model=model, look=", ".join(f"{key}: {value}" for key, value in (look or {}).items()))
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            name: rows(options.real / "models" / f"{name}.onnx", options.real, Path(folder))
            for name in options.only or MODELS
        }
    save("families", {"question": __doc__, **machine(), "models": result}, options.save)


if __name__ == "__main__":
    main()

"""INT8 without labels of four detectors: what it costs in mAP and how it shifts confidences.

    python benchmarks/int8_detectors.py [--real FOLDER] [--only NAME ...] [--images N] [--save]

Calibrated on the first N images of coco_mini/train as `edgesparse quantize` does; no label is used. Scored on val, on
which nothing was chosen, and on train. Confidences are compared on the images of unlabelled/, before and after their
correction.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.builder.confidence import correct_confidences
from edgesparse.int8.recover import recover
from edgesparse.model.load import Model
from edgesparse.progress import quiet
from edgesparse.runtime.confidence_shift import LOW, confidence_shift
from edgesparse.runtime.evaluate import ModelScorer, opened
from edgesparse.runtime.images import image_files, read_image
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks.inputs import ScoredModel, as_recipe, read_model

MODELS = ("yolox_nano", "nanodet_m_416", "FastestDet", "deimv2_atto")


def measured(real: Path, name: str, images: int) -> dict[str, Any]:
    """The row of one detector."""
    source = read_model(
        as_recipe(real / "models" / f"{name}.onnx", "coco"), str(real / "coco_mini/train"), images, None, quiet
    )
    started = time.perf_counter()
    plain = recover(source.model, source.images)
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - started, 1)}
    corrected = correct_confidences(source.model, plain, source.images, source.spec)
    row |= {"seconds_corrected": round(time.perf_counter() - started, 1), "correction": corrected.note}
    result = corrected.result
    row |= {"int8_conv_macs_percent": round(100 * result.report.share, 1), "change": result.report.steps[-1].change}
    row["kept_by_change"] = [layer.name for layer in result.report.kept if layer.why.startswith("kept")]
    for part in ("train", "val"):
        labels = Labels(real / f"coco_mini/instances_{part}.json", real / "coco_mini" / part)
        score = ModelScorer(source.spec, labels, lambda done, total: None)
        row[part] = {
            kind: round(score(model), 2) for kind, model in (("fp32", source.model), ("int8", result.quantized))
        }
    row["confidence_uncorrected"] = _shift(source, plain.quantized, real)
    row["confidence"] = _shift(source, result.quantized, real)
    print(name, row, file=sys.stderr, flush=True)
    return row


def _shift(source: ScoredModel, changed: Model, real: Path) -> dict[str, Any] | None:
    """How confidences shift on the images of unlabelled/."""
    with opened(source.model, source.spec, LOW) as before, opened(changed, source.spec, LOW) as after:
        frames = map(read_image, image_files(real / "unlabelled"))
        shift = confidence_shift(((before(frame), after(frame)) for frame in frames), source.spec.classes)
    return None if shift is None else shift.as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--save", action="store_true", help="Write results/int8_detectors.json.")
    arguments = parser.parse_args()
    rows = {name: measured(arguments.real, name, arguments.images) for name in arguments.only}
    result = {**machine(), "images": arguments.images, "rows": rows}
    only = " ".join(arguments.only)
    result["command"] = f"python benchmarks/int8_detectors.py --images {arguments.images} --only {only} --save"
    save("int8_detectors", result, arguments.save)


if __name__ == "__main__":
    main()

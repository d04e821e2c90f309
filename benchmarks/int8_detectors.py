"""INT8 without labels of four detectors: what it costs in mAP, how it shifts confidences, and what other tools lose.

    python benchmarks/int8_detectors.py [--only NAME ...] [--case int8 halves pruned peers] [--images N]
        [--pruned FOLDER] [--environment FOLDER] [--steps N [--seed N]] [--work FOLDER] [--save]

No label is used. Cases:

- int8: calibrated on the first N images of coco_mini/train as `edgesparse quantize` does, scored on train, and on val,
  on which nothing was chosen. Confidences are compared on the images of unlabelled/, before and after their correction.
- halves: calibrated on one half of unlabelled/ and on the other, scored on images that the calibration did not see:
  train, and val. Confidences are not corrected, which hardly changes the order of boxes.
- pruned: `int8` of NAME-half.onnx in --pruned, the detector with half of its eligible multiply-accumulates 2:4.
- peers: NVIDIA ModelOpt and ONNX Runtime's quantizer on the images of `int8`, by themselves and with the head in float,
  which edgesparse keeps in float by rule; they run in the environment that int8_accuracy.py makes, in --environment.

With --steps, weights and ranges are then trained on the images of the case, as `edgesparse quantize --steps` does; the
rows of int8, halves and pruned are then named "int8, trained", and for another seed than 0 "int8, trained, seed N".

Each case's result is stored in --work, if passed, and not measured again unless a part of it failed: a run that was
stopped continues there. --save replaces the cases that ran in benchmarks/results/int8_detectors.json; one that could
not be measured replaces nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine, save
from benchmarks.int8_accuracy import TITLES, by_peer, environment, int8_share, report_of
from edgesparse.builder.confidence import CorrectedConfidences, correct_confidences
from edgesparse.errors import ModelError
from edgesparse.int8.recover import Recovered, RecoverOptions, recover
from edgesparse.model.load import Model
from edgesparse.model.wiring import reads
from edgesparse.progress import quiet
from edgesparse.runtime.confidence_shift import LOW, confidence_shift
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.evaluate import ModelScorer, opened
from edgesparse.runtime.images import ImageBatches, image_files, read_image
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks.inputs import ScoredModel, as_recipe, pixels, read_model
from edgesparse.tasks.training import int8_trainer, training_values

MODELS = ("FastestDet", "deimv2_atto", "nanodet_m_416", "yolox_nano")
PEERS = (("modelopt", "entropy"), ("onnxruntime", "Percentile"))
CASES = ("int8", "halves", "pruned", "peers")
Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Where the detectors, their images and the peers are."""

    real: Path
    images: int
    pruned: Path | None
    environment: Path | None
    steps: int
    seed: int

    def title(self, case: str) -> str:
        """What a case's row is called."""
        if not self.steps or case == "peers":
            return case
        return f"{case}, trained" + (f", seed {self.seed}" if self.seed else "")


class Measurement:
    """One detector, and the cases that can be measured on it."""

    def __init__(self, inputs: Inputs, name: str) -> None:
        self._inputs, self._name = inputs, name

    @property
    def cases(self) -> dict[str, Callable[[], Row]]:
        return {"int8": self._int8, "halves": self._halves, "pruned": self._pruned, "peers": self._peers}

    @cached_property
    def _source(self) -> ScoredModel:
        return self._read(self._inputs.real / "models" / f"{self._name}.onnx")

    def _read(self, file: Path) -> ScoredModel:
        images = str(self._inputs.real / "coco_mini/train")
        return read_model(as_recipe(file, "coco"), images, self._inputs.images, None, quiet)

    def _int8(self) -> Row:
        row, plain, corrected = _recovered(
            self._source, self._source.images, self._options(self._source, self._training)
        )
        row |= {"fp32": self._scores(self._source.model), "int8": self._scores(corrected.result.quantized)}
        row["confidence_uncorrected"] = self._shift(plain.quantized)
        row["confidence"] = self._shift(corrected.result.quantized)
        return row

    def _halves(self) -> Row:
        files = image_files(self._inputs.real / "unlabelled")
        middle, rows = len(files) // 2, []
        for part in (files[:middle], files[middle:]):
            options = self._options(self._source, part)
            result = recover(self._source.model, ImageBatches.from_files(part, self._source.spec.input), options)
            rows.append({**_described(result), "images": len(part), "int8": self._scores(result.quantized)})
        return {"first": rows[0], "second": rows[1]}

    def _pruned(self) -> Row:
        file = (self._inputs.pruned or Path()) / f"{self._name}-half.onnx"
        if self._inputs.pruned is None or not file.exists():
            return {"error": f"no {file.name}: pass its folder with --pruned"}
        source = self._read(file)
        row, _, corrected = _recovered(source, source.images, self._options(source, self._training))
        return row | {"fp32": self._scores(source.model), "int8": self._scores(corrected.result.quantized)}

    @property
    def _training(self) -> Sequence[Path]:
        return image_files(self._inputs.real / "coco_mini/train")[: self._inputs.images]

    def _options(self, source: ScoredModel, files: Sequence[Path]) -> RecoverOptions:
        """How to quantize, with the training on `files` if there is one. Raises ModelError if it cannot be trained."""
        if not self._inputs.steps:
            return RecoverOptions()
        from edgesparse.training.refine import Refiner

        images = pixels(source.spec.input, partial(ImageBatches.from_files, files))
        values = training_values(source.model, source.model, source.spec)
        refiner = Refiner.of(images, {**values, "steps": self._inputs.steps, "seed": self._inputs.seed})
        return RecoverOptions(train=int8_trainer(refiner))

    def _peers(self) -> Row:
        rows: Row = {}
        file = self._inputs.real / "models" / f"{self._name}.onnx"
        head = head_of(onnx.load(file))
        with tempfile.TemporaryDirectory() as folder:
            python = environment(self._inputs.environment or Path(folder, "environment"))
            data, out = Path(folder, "images.npy"), Path(folder, "out.onnx")
            np.save(data, np.concatenate(list(self._source.images())))
            for (tool, method), kept in product(PEERS, (False, True)):
                row = by_peer(python, tool, method, head if kept else (), (file, data, out))
                if "error" not in row:
                    row |= self._peer(onnx.load(out))
                rows[f"{TITLES[tool]}, {method.lower()}{', head float' if kept else ''}"] = row
        return rows

    def _peer(self, model: ModelProto) -> Row:
        shift = self._shift(model) or {}
        return {
            "int8_conv_macs_percent": round(100 * int8_share(model), 1),
            "int8": self._scores(model),
            "confidence": {name: value for name, value in shift.items() if name not in ("classes", "curve")},
        }

    def _scores(self, model: Model) -> dict[str, float]:
        """COCO mAP on both labeled parts."""
        scores = {}
        for part in ("train", "val"):
            folder = self._inputs.real / "coco_mini"
            labels = Labels(folder / f"instances_{part}.json", folder / part)
            scores[part] = round(ModelScorer(self._source.spec, labels, lambda done, total: None)(model), 2)
        return scores

    def _shift(self, changed: Model) -> Row | None:
        """How confidences shift on the images of unlabelled/."""
        pairs = zip(self._float_boxes, self._boxes(changed), strict=True)
        shift = confidence_shift(pairs, self._source.spec.classes)
        return None if shift is None else shift.as_dict()

    @cached_property
    def _float_boxes(self) -> list[Detections]:
        return self._boxes(self._source.model)

    def _boxes(self, model: Model) -> list[Detections]:
        with opened(model, self._source.spec, LOW) as detector:
            return [detector(read_image(file)) for file in image_files(self._inputs.real / "unlabelled")]


def head_of(model: ModelProto) -> list[str]:
    """The nodes on whose outputs no layer depends that edgesparse would quantize: a transformer's decoder, for one."""
    int8 = {layer.name for layer in report_of(model).layers if layer.int8}
    needed: set[str] = set()
    head = []
    for node in reversed(model.graph.node):
        if node.name in int8 or needed.intersection(node.output):
            needed.update(reads(node))
        else:
            head.append(node.name)
    return head


def _recovered(
    source: ScoredModel, images: ImageBatches, options: RecoverOptions
) -> tuple[Row, Recovered, CorrectedConfidences]:
    """INT8 of a detector as the verb makes it, before and after the correction of confidences."""
    started = time.perf_counter()
    plain = recover(source.model, images, options)
    row: Row = {"seconds": round(time.perf_counter() - started, 1)}
    corrected = correct_confidences(source.model, plain, images, source.spec)
    row |= {"seconds_corrected": round(time.perf_counter() - started, 1), "correction": corrected.note}
    return row | _described(corrected.result), plain, corrected


def _described(result: Recovered) -> Row:
    kept = [layer.name for layer in result.report.kept if layer.why.startswith("kept")]
    share = round(100 * result.report.share, 1)
    row: Row = {"int8_conv_macs_percent": share, "change": result.report.steps[-1].change, "kept_by_change": kept}
    if result.report.training is not None:
        row["training"] = asdict(result.report.training)
    return row


def stored(work: Path | None, name: str, case: str, options: str, measure: Callable[[], Row]) -> Row:
    """The result of `measure`, or of an earlier call with the same `work`; `options` are those of the command."""
    path = None if work is None else work / f"{name}-{case}{options.replace(' ', '')}.json"
    if path is not None and path.exists():
        return dict(json.loads(path.read_text()))
    # without paths, which are specific to this machine
    command = f"python benchmarks/int8_detectors.py --only {name} --case {case}{options} --save"
    try:
        row = {**machine(), "command": command, **measure()}
    except ModelError as error:
        row = {"error": str(error)}
    print(name, case, json.dumps(row)[:300], file=sys.stderr, flush=True)
    if path is not None and not _failed(row):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row))
    return row


def _failed(row: Row) -> bool:
    """Whether a case, or one of its parts, could not be measured."""
    return any("error" in part for part in (row, *row.values()) if isinstance(part, dict))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--pruned", type=Path, help="Folder with NAME-half.onnx.")
    parser.add_argument("--environment", type=Path, help="Folder of the peers' environment; made if it is not there.")
    parser.add_argument("--work", type=Path, help="Folder of results so far; a run continues there.")
    parser.add_argument("--save", action="store_true", help="Write results/int8_detectors.json.")
    parser.add_argument("--steps", type=int, default=0, help="Train weights and ranges for so many steps.")
    parser.add_argument("--seed", type=int, default=0, help="Of the training.")
    arguments = parser.parse_args()
    steps, seed = arguments.steps, arguments.seed
    inputs = Inputs(arguments.real, arguments.images, arguments.pruned, arguments.environment, steps, seed)
    options = "".join(f" --{name} {value}" for name, value in (("steps", steps), ("seed", seed)) if value)
    measurements = {name: Measurement(inputs, name).cases for name in arguments.only}
    rows: dict[str, Row] = {name: {} for name in measurements}
    for case in arguments.case:
        for name, measure in measurements.items():
            rows[name][inputs.title(case)] = stored(arguments.work, name, case, options, measure[case])
    save("int8_detectors", {"images": arguments.images, "rows": merged(rows)}, arguments.save)


def merged(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows of the last saved run, with those measured now in place of theirs; each row has its date."""
    path = RESULTS / "int8_detectors.json"
    known: dict[str, Row] = json.loads(path.read_text())["rows"] if path.exists() else {}
    new = {name: {case: row for case, row in cases.items() if "error" not in row} for name, cases in rows.items()}
    return {name: known.get(name, {}) | new.get(name, {}) for name in MODELS if name in known or name in new}


if __name__ == "__main__":
    main()

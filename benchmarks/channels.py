"""How much faster is a detector with fewer channels predicted to be, and what does it score, without training?

    python benchmarks/channels.py [--real ../shared/real] [--case yolox_nano nanodet_m_416] [--limit drop-1 share-0.1]
        [--count 160] [--state FOLDER] [--save]

Each network is rewritten by `slim` first. Channels are chosen, and the rest is refitted, on coco_mini/train; the score
is COCO mAP on coco_mini/val, which no choice sees. `drop-1` loses at most one point on coco_mini/train, `share-0.1`
saves a tenth of the time predicted in INT8 for an Orin Nano 8 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import edgesparse
from benchmarks.common import RESULTS, machine, save
from edgesparse.compress.narrow_report import NarrowReport
from edgesparse.model.load import load
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.tasks.inputs import as_recipe, static_model

CASES = ("yolox_nano", "nanodet_m_416")


def measure(case: str, limits: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data, model = arguments.real / "coco_mini", arguments.real / "models" / f"{case}.onnx"
    slim = folder / f"{case}.onnx"
    edgesparse.slim(model, slim, force=True)
    _, spec = static_model(as_recipe(slim))
    score = ModelScorer(spec, Labels(data / "instances_val.json", data / "val"), lambda done, total: None)
    results: dict[str, Any] = {"map_before": round(score(load(slim)), 2)}
    for limit in limits:
        started = time.perf_counter()
        out, report = folder / f"{case}-{limit}.onnx", narrowed(slim, limit, arguments, folder)
        results["ms_before"] = round(report.before_ms, 3)
        results[limit] = {
            "ms": round(report.after_ms, 3),
            "speedup": round(report.before_ms / report.after_ms, 3),
            "map": round(score(load(out)), 2),
            "lost_on_train": None if report.drop is None else round(report.drop, 2),
            "layers_narrower": sum(layer.outputs[1] > 0 for layer in report.narrowed),
            "layers_removed": sum(layer.outputs[1] == 0 for layer in report.narrowed),
            "seconds": round(time.perf_counter() - started),
        }
        print(case, limit, results[limit], file=sys.stderr)
    return results


def narrowed(slim: Path, limit: str, arguments: argparse.Namespace, folder: Path) -> NarrowReport:
    """Remove channels from `slim` within `limit`, such as drop-1 or share-0.1."""
    kind, _, value = limit.partition("-")
    data = arguments.real / "coco_mini"
    limits: dict[str, Any] = {"max_drop" if kind == "drop" else "share": float(value)}
    report = edgesparse.prune(
        slim,
        folder / f"{slim.stem}-{limit}.onnx",
        method="channels",
        images=data / "train",
        count=arguments.count,
        annotations=data / "instances_train.json",
        annotated_images=data / "train",
        state=arguments.state,
        force=True,
        progress=_show,
        **limits,
    ).report
    assert isinstance(report, NarrowReport)
    return report


def _show(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}   ", end="", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--limit", nargs="+", default=["drop-1", "share-0.1"])
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--save", action="store_true", help="Write results/channels.json.")
    arguments = parser.parse_args()
    file = RESULTS / "channels.json"
    before = json.loads(file.read_text()) if arguments.save and file.exists() else {}
    results = {case: before[case] for case in CASES if case in before}
    for case in arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            results[case] = results.get(case, {}) | measure(case, arguments.limit, arguments, Path(folder))
        save("channels", {**machine(), **results}, arguments.save)


if __name__ == "__main__":
    main()

"""Predicted latencies on Orin boards compared with measured ones, and the fit of the predictor's constants.

    python benchmarks/predict.py [--orin ../shared/data/orin] [--save]     the fit, and the error everywhere
    python benchmarks/predict.py --shapes *.onnx                           write data/layer_shapes.json from exports

`--orin` is a folder with trtutils' benchmark data (github.com/justincdavis/trtutils at 471d1e9, MIT): the bare engine's
latency of fifteen YOLOs at eight sizes on four boards, FP16. The constants are fitted only to FIT: two families and
half of a third, at three sizes, on three boards. One board and two families are held out entirely.
data/orin_latencies.json holds latencies published elsewhere, none of which is used in the fit; data/layer_shapes.json
holds the shapes of each network's fused layers (benchmarks/yolo_shapes.py generates the networks that Ultralytics does
not export). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.predict.boards import Fitted, board, fitted
from edgesparse.predict.fusion import Work, fused_layers
from edgesparse.predict.roofline import predict, shrunk

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "benchmarks" / "data"
START = (0.6, 0.1, 0.6, 9_000.0)
SIZE = 640
"""Pixels per side of the shapes that are stored."""
BOARDS = {
    "OrinAGX-64GB": "agx-orin-64gb:MAXN",
    "OrinAGX-32GB": "agx-orin-64gb:MAXN",
    "OrinNX-16GB": "orin-nx-16gb:MAXN",
    "OrinNano-8GB": "orin-nano-8gb:15W",
}
"""Boards by trtutils' names. Its data state no power mode: the ones here are the fastest of JetPack 6.1 and earlier.
The AGX Orin developer kit with 32 GB has the 64 GB module's GPU, as its times show: 1.06 times those of the 64 GB,
where the 32 GB production module would take 1.6 times."""
FIT_BOARDS = ("OrinAGX-64GB", "OrinNX-16GB", "OrinNano-8GB")
FIT_NETWORKS = re.compile(r"yolov8[nsm]|yolox[tsm]|yolov10[ns]")
FIT_SIZES = (160, 640, 1280)


@dataclass(frozen=True)
class Measured:
    """One measured latency in milliseconds; `use` is fit, test or show."""

    source: str
    board: str
    model: str
    size: int
    precision: str
    ms: float
    use: str


def published() -> Iterator[Measured]:
    """Latencies from data/orin_latencies.json, none of which is used in the fit."""
    for row in json.loads((DATA / "orin_latencies.json").read_text())["rows"]:
        for model, times in row["ms"].items():
            for precision, ms in zip(("fp32", "fp16", "int8"), times, strict=True):
                if ms is not None:
                    name = f"{row['board']}:{row['mode']}"
                    yield Measured(row["source"], name, model, SIZE, precision, ms, row["use"])


def trtutils(folder: Path) -> Iterator[Measured]:
    """Bare-engine latencies from trtutils' data; empty if the folder does not exist."""
    for name, mode in BOARDS.items():
        path = folder / f"trtutils_{name}.json"
        content = json.loads(path.read_text())["tensorrt"] if path.exists() else {}
        for model, sizes in content.items():
            for size, times in sizes.items():
                chosen = name in FIT_BOARDS and FIT_NETWORKS.fullmatch(model) and int(size) in FIT_SIZES
                use = "fit" if chosen else "test"
                yield Measured(f"trtutils {name}", mode, model, int(size), "fp16", times["median"], use)


def networks() -> dict[str, list[Work]]:
    """Fused layers of each network at 640x640; a row of the file is a count and the fields of Work without its name."""
    stored = json.loads((DATA / "layer_shapes.json").read_text())["networks"]
    return {name: [work for row in rows for work in _works(*row)] for name, rows in stored.items()}


def _works(count: int, kind: str, *values: int) -> list[Work]:
    rows, columns, depth, weights, reads, writes, flags, taps = values
    work = Work("", kind, rows, columns, depth, weights, reads, writes, bool(flags & 1), bool(flags & 2), taps)
    return [work] * count


def resized(works: Sequence[Work], size: int) -> list[Work]:
    """The layers for an input of `size` pixels per side."""
    return shrunk(works, size / SIZE)


def write_shapes(paths: list[Path]) -> None:
    import onnx

    shapes = {}
    for path in sorted(paths):
        model = onnx.load(path)
        side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        works = resized(fused_layers(model), round(SIZE * SIZE / side))
        rows = Counter((*astuple(work)[1:8], work.sparse + 2 * work.sparse_int8, work.taps) for work in works)
        shapes[path.stem] = [[count, *row] for row, count in rows.items()]
    fields = "count, kind, rows, columns, depth, weights, reads, writes, 1 if 2:4 is open + 2 if INT8's is, taps"
    compact = {name: json.dumps(rows, separators=(",", ":")) for name, rows in shapes.items()}
    lines = ",\n".join(f" {json.dumps(name)}: {rows}" for name, rows in compact.items())
    text = f'{{"about": "fused layers at 640x640, batch 1; a row is [{fields}]",\n"networks": {{\n{lines}\n}}}}\n'
    (DATA / "layer_shapes.json").write_text(text)


def log_errors(
    rows: Sequence[Measured], works: dict[str, list[Work]], constants: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    values = Fitted(*map(float, constants))
    times = [
        predict(resized(works[row.model], row.size), board(row.board), row.precision, constants=values).ms / row.ms
        for row in rows
    ]
    errors: npt.NDArray[np.float64] = np.log(times)
    return errors


def fit(rows: Sequence[Measured], works: dict[str, list[Work]]) -> npt.NDArray[np.float64]:
    """Gauss-Newton on the logarithms of the constants, with weights that bound the influence of outliers (Huber)."""
    at = np.log(START)
    for _ in range(20):
        errors = log_errors(rows, works, np.exp(at))
        weights = np.sqrt(np.minimum(1.0, 0.05 / np.maximum(np.abs(errors), 1e-9)))
        slopes = [(log_errors(rows, works, np.exp(at + step)) - errors) / 0.01 for step in np.eye(len(at)) * 0.01]
        step = np.linalg.lstsq(np.array(slopes).T * weights[:, None], errors * weights, rcond=None)[0]
        at = at - step.clip(-0.5, 0.5)
    constants: npt.NDArray[np.float64] = np.exp(at)
    return constants


def summary(errors: npt.NDArray[np.float64]) -> dict[str, float | int]:
    size = np.abs(errors)
    return {
        "n": len(errors),
        "median_error_percent": round(float(np.median(size)) * 100, 1),
        "p90_error_percent": round(float(np.percentile(size, 90)) * 100, 1),
        "worst_percent": round(float(errors[size.argmax()]) * 100, 1),
    }


def family(model: str) -> str:
    """Family of a network: `yolov8n` belongs to `yolov8`, `yoloxs_leaky` to `yolox`."""
    return re.sub(r"(?<=\d)[a-z]$|(?<=yolox)[a-z](_leaky)?$", "", model)


def result(rows: list[Measured], works: dict[str, list[Work]], refit: bool) -> dict[str, Any]:
    errors = np.expm1(log_errors(rows, works, np.array(astuple(fitted()))))
    test = np.array([row.use == "test" for row in rows])

    def where(chosen: Sequence[bool]) -> dict[str, float | int]:
        return summary(errors[test & np.array(chosen)])

    ours = [row.source.startswith("trtutils ") for row in rows]
    fit_rows = [row for row in rows if row.use == "fit"]
    constants = fit(fit_rows, works) if refit and fit_rows else np.array([])
    sources, families = sorted(set(map(_key, rows))), sorted({family(row.model) for row in rows})
    return {
        "fitted_now": dict(zip(asdict(fitted()), (round(float(value), 4) for value in constants), strict=False)),
        "in_boards_yaml": asdict(fitted()),
        "fit": summary(errors[~test & np.array([row.use == "fit" for row in rows])]) if fit_rows else None,
        "held_out_trtutils": where(ours) if any(ours) else None,
        "held_out_published": where([not is_ours for is_ours in ours]),
        "by_precision": {p: where([row.precision == p for row in rows]) for p in ("fp32", "fp16", "int8")},
        "by_family": {name: where([family(row.model) == name for row in rows]) for name in families},
        "by_source": [
            dict(zip(("source", "board", "use"), key, strict=True))
            | summary(errors[np.array([_key(row) == key for row in rows])])
            for key in sources
        ],
        "published_rows": [
            {**asdict(row), "predicted_ms": round(row.ms * (1 + float(error)), 2)}
            for row, error, is_ours in zip(rows, errors, ours, strict=True)
            if not is_ours
        ],
    }


def _key(row: Measured) -> tuple[str, str, str]:
    return row.source, row.board, row.use


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, nargs="+", metavar="ONNX")
    parser.add_argument("--orin", type=Path, default=ROOT.parent / "shared" / "data" / "orin")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/predict.json")
    arguments = parser.parse_args()
    if arguments.shapes:
        write_shapes(arguments.shapes)
        return
    rows = [*published(), *trtutils(arguments.orin)]
    save("predict", {"machine": machine(), **result(rows, networks(), refit=True)}, arguments.save)


if __name__ == "__main__":
    main()

"""How well edgesparse predicts latencies on Orin boards, against published ones; and the fit of its three constants.

    python benchmarks/predict.py [--save]             fit on the AGX Orin 64 GB, report the error everywhere
    python benchmarks/predict.py --shapes *.onnx      write data/layer_shapes.json anew from exported models

data/orin_latencies.json holds the published latencies with their sources, data/layer_shapes.json each network's fused
layers as shapes alone. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.predict.boards import Fitted, board, fitted
from edgesparse.predict.fusion import Work, fused_layers
from edgesparse.predict.roofline import predict

DATA = Path(__file__).resolve().parent / "data"
CONSTANTS = ("math", "memory", "layer_clocks")
START = (0.5, 0.5, 10_000.0)


@dataclass(frozen=True)
class Published:
    """One published latency in milliseconds; `use` is fit, test or show."""

    source: str
    board: str
    model: str
    precision: str
    ms: float
    use: str


def published() -> Iterator[Published]:
    for row in json.loads((DATA / "orin_latencies.json").read_text())["rows"]:
        for model, times in row["ms"].items():
            for precision, ms in zip(("fp32", "fp16", "int8"), times, strict=True):
                if ms is not None:
                    name = f"{row['board']}:{row['mode']}"
                    yield Published(row["source"], name, model, precision, ms, row["use"])


def networks() -> dict[str, list[Work]]:
    """Fused layers of each network; a row of the file is a count and what Work holds but its name."""
    stored = json.loads((DATA / "layer_shapes.json").read_text())["networks"]
    return {
        name: [
            Work("", kind, positions, channels, depth, weights, reads, writes, bool(flags & 1), bool(flags & 2))
            for n, kind, positions, channels, depth, weights, reads, writes, flags in rows
            for _ in range(n)
        ]
        for name, rows in stored.items()
    }


def write_shapes(paths: list[Path]) -> None:
    import onnx

    results = {}
    for path in sorted(paths):
        rows = Counter(astuple(work)[1:] for work in fused_layers(onnx.load(path)))
        results[path.stem] = [[n, *row[:-2], row[-2] + 2 * row[-1]] for row, n in rows.items()]
    fields = "count, kind, rows, columns, depth, weights, reads, writes, 1 if 2:4 is open + 2 if INT8's is"
    lines = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in results.items()
    )
    text = f'{{"about": "fused layers at 640x640, batch 1; a row is [{fields}]",\n"networks": {{\n{lines}\n}}}}\n'
    (DATA / "layer_shapes.json").write_text(text)


def log_errors(
    rows: list[Published], works: dict[str, list[Work]], constants: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    values = Fitted(*map(float, constants))
    times = [predict(works[p.model], board(p.board), p.precision, constants=values).ms / p.ms for p in rows]
    errors: npt.NDArray[np.float64] = np.log(times)
    return errors


def fit(rows: list[Published], works: dict[str, list[Work]]) -> npt.NDArray[np.float64]:
    """Gauss-Newton on the logarithms of the constants; the squared logarithm of the error is least."""
    at = np.log(START)
    for _ in range(20):
        errors = log_errors(rows, works, np.exp(at))
        slopes = [(log_errors(rows, works, np.exp(at + step)) - errors) / 0.01 for step in np.eye(len(at)) * 0.01]
        at = at - np.linalg.lstsq(np.array(slopes).T, errors, rcond=None)[0].clip(-0.5, 0.5)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, nargs="+", metavar="ONNX")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/predict.json")
    arguments = parser.parse_args()
    if arguments.shapes:
        write_shapes(arguments.shapes)
        return
    rows, works = list(published()), networks()
    constants = fit([row for row in rows if row.use == "fit"], works)
    used = np.array(astuple(fitted()))
    errors = np.expm1(log_errors(rows, works, used))
    held_out = np.array([row.use == "test" for row in rows])
    groups = sorted({(row.board, row.source, row.use) for row in rows})
    result = {
        "machine": machine(),
        "fitted_now": {name: round(float(v), 4) for name, v in zip(CONSTANTS, constants, strict=True)},
        "in_datasheets_yaml": asdict(fitted()),
        "held_out": summary(errors[held_out]),
        "held_out_boards": summary(errors[held_out & ["agx-orin-64gb" not in r.board for r in rows]]),
        "by_precision": {
            p: summary(errors[held_out & [r.precision == p for r in rows]]) for p in ("fp32", "fp16", "int8")
        },
        "by_source": [
            {"board": b, "source": s, "use": f, **summary(errors[[(r.board, r.source) == (b, s) for r in rows]])}
            for b, s, f in groups
        ],
        "rows": [
            {
                "board": r.board,
                "model": r.model,
                "precision": r.precision,
                "published_ms": r.ms,
                "predicted_ms": round(r.ms * (1 + float(e)), 2),
            }
            for r, e in zip(rows, errors, strict=True)
        ],
    }
    save("predict", result, arguments.save)


if __name__ == "__main__":
    main()

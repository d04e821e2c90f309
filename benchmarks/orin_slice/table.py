"""The results of the slice as Markdown tables: one line per network and precision, dense beside 2:4.

    python benchmarks/orin_slice/table.py [--sms 8]

Reads benchmarks/results/orin_slice.json. `layers` is how many layers run a 2:4 kernel, of those that TensorRT found
eligible.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS

NOISE = 0.06
"""Differences of a whole detector below this share mean nothing."""
ENGINES = re.compile(r" (?=(?:fp|int)\d)[a-z0-9+:\- ]*?(?= slim|$)")
"""The list of engines in a network's name, as in `YOLOX-nano int8+int8 2:4`."""
ORDER = ("fp32", "fp16", "int8", "int8-qdq-fuse", "int8-qdq-sparse")


def networks(rows: Sequence[Mapping[str, Any]], sms: int) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The timed engines of each network, by name; later rows replace earlier ones."""
    result: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["sms"] == sms and row.get("kernels", "orin") == "orin":
            engines = {name: facts for name, facts in row["engines"].items() if "us" in facts}
            result.setdefault(ENGINES.sub("", row["network"]), {}).update(engines)
    return {name: engines for name, engines in result.items() if engines}


def lines(engines: Mapping[str, Mapping[str, Any]], noise: float) -> Iterator[str]:
    """Cells of a line per precision: precision, dense, 2:4, gain, layers."""
    for precision in ORDER:
        dense, sparse = engines.get(precision), engines.get(f"{precision} 2:4")
        if dense is None and sparse is None:
            continue
        cells = [precision, f"{dense['us']:.0f}" if dense else "", f"{sparse['us']:.0f}" if sparse else ""]
        gain = dense["us"] / sparse["us"] if dense and sparse else None
        within = gain is not None and abs(gain - 1) < noise
        cells.append("" if gain is None else f"{gain:.2f}x" + (", noise" if within else ""))
        cells.append(f"{sparse['sparse_kernels']} of {sparse['eligible']}" if sparse else "")
        yield " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "orin_slice.json")
    parser.add_argument("--sms", type=int, default=8, help="Multiprocessors of the slice.")
    arguments = parser.parse_args()
    print("| network | engine | dense, us | 2:4, us | gain | layers |\n|---|---|---|---|---|---|")
    for name, engines in networks(json.loads(arguments.results.read_text())["rows"], arguments.sms).items():
        for line in lines(engines, 0.0 if "conv" in name else NOISE):
            print(f"| {name} | {line} |")


if __name__ == "__main__":
    main()

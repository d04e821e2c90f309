"""How well the slice represents an Orin: times of YOLOv8-shaped networks on it against times published for real Orins.

    python benchmarks/orin_slice/published.py [--orin ../shared/data/orin] [--plot docs/images/orin-slice.svg] [--save]

Reads benchmarks/results/orin_slice.json. A slice's time is multiplied only by the ratio of the clocks, so memory-bound
times come out too short: the slice's share of an H200's memory is far faster than an Orin's. Published: the bare
engine's latency at 640x640, as in benchmarks/predict.py. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import predict
from benchmarks.common import RESULTS, save
from edgesparse.predict.boards import board

NETWORK = re.compile(r"YOLOv8([nsm])-shaped silu batch 1 (?!.*slim)")
SIZE, MARGIN = 420, 50


@dataclass(frozen=True)
class Pair:
    """One network on one board: milliseconds measured there by `source`, and those of the slice, scaled by clock."""

    network: str
    precision: str
    board: str
    sms: int
    published_ms: float
    slice_ms: float
    source: str

    @property
    def error(self) -> float:
        return self.slice_ms / self.published_ms - 1


def sliced(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], tuple[float, float]]:
    """Microseconds and the GPU's clock in MHz by network, precision and multiprocessors."""
    times = {}
    for row in rows:
        if match := NETWORK.match(row["network"]):
            clock = float(row["clocks"]["clocks.sm"].split()[0])
            for precision in ("fp16", "int8"):
                if us := row["engines"].get(precision, {}).get("us"):
                    times[f"yolov8{match[1]}", precision, row["sms"]] = (us, clock)
    return times


def pairs(rows: Sequence[dict[str, Any]], folder: Path) -> Iterator[Pair]:
    times = sliced(rows)
    for measured in [*predict.trtutils(folder), *predict.published()]:
        place = board(measured.board)
        key = (measured.model, measured.precision, place.sms)
        if measured.size == predict.SIZE and key in times:
            us, clock = times[key]
            scaled = us * clock / place.gpu_mhz / 1e3
            yield Pair(*key[:2], measured.board, place.sms, round(measured.ms, 3), round(scaled, 3), measured.source)


def plot(values: Sequence[Pair]) -> str:
    """Published against scaled milliseconds, both logarithmic, with the line of equal times. SVG."""
    numbers = [n for pair in values for n in (pair.published_ms, pair.slice_ms)]
    low, high = 0.8 * min(numbers), 1.25 * max(numbers)

    def place(ms: float) -> float:
        return MARGIN + (SIZE - 2 * MARGIN) * math.log(ms / low) / math.log(high / low)

    parts = [f'<path d="M{MARGIN} {SIZE - MARGIN}L{SIZE - MARGIN} {MARGIN}" stroke="#888" stroke-dasharray="4"/>']
    for ms in [m for m in (0.5, 1, 2, 5, 10, 20, 50) if low < m < high]:
        x, y = place(ms), SIZE - place(ms)
        parts.append(f'<path d="M{x:.1f} {SIZE - MARGIN}V{MARGIN}M{MARGIN} {y:.1f}H{SIZE - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{SIZE - MARGIN + 16}" text-anchor="middle">{ms:g}</text>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{ms:g}</text>')
    for pair in values:
        color = "#2878b5" if pair.sms == 16 else "#e07b39"
        title = f"{pair.network} {pair.precision}, {pair.board}: {pair.published_ms} ms, slice {pair.slice_ms} ms"
        fill = color if pair.precision == "fp16" else "none"
        x, y = place(pair.published_ms), SIZE - place(pair.slice_ms)
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{color}" stroke-width="2">'
        parts.append(f"{circle}<title>{title}</title></circle>")
    words = [
        (SIZE / 2, SIZE - 12, "measured on an Orin, ms"),
        (SIZE / 2, 20, "slice, scaled by clock, ms; blue 16 SMs, orange 8; hollow INT8"),
    ]
    parts += [f'<text x="{x}" y="{y}" text-anchor="middle">{text}</text>' for x, y, text in words]
    style = "font-family:sans-serif;font-size:12px;background:#fff"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" style="{style}">{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "orin_slice.json")
    parser.add_argument("--orin", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data" / "orin")
    parser.add_argument("--plot", type=Path, help="Write the plot as SVG.")
    parser.add_argument("--save", action="store_true", help="Write benchmarks/results/orin_slice_published.json.")
    arguments = parser.parse_args()
    content = json.loads(arguments.results.read_text())
    values = sorted(pairs(content["rows"], arguments.orin), key=lambda p: (p.sms, p.network, p.precision, p.board))
    if not values:
        sys.exit("no network of the slice was published for an Orin: measure yolo:n:silu:fp16 first, and give --orin")
    result = {key: content[key] for key in ("device", "versions", "date")}
    result["command"] = "python benchmarks/orin_slice/published.py --save"
    result["rows"] = [{**asdict(pair), "error": round(pair.error, 3)} for pair in values]
    save("orin_slice_published", result, arguments.save)
    if arguments.plot:
        arguments.plot.write_text(plot(values))


if __name__ == "__main__":
    main()

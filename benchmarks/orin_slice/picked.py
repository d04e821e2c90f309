"""How often the rule that predicts which layers run a 2:4 kernel is right, layer by layer, on the slice's engines.

    python benchmarks/orin_slice/picked.py [--save]

Reads benchmarks/results/orin_slice.json. The rule (edgesparse.predict.roofline.likely_sparse) was derived from the
networks of DERIVED; the others are held out. Only layers that could run 2:4 count. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS, save
from benchmarks.orin_slice.cases import cases
from edgesparse.backends.tensorrt.inspect import onnx_names
from edgesparse.predict.fusion import fused_layers
from edgesparse.predict.roofline import likely_sparse

ROOT = RESULTS.parents[1]
DERIVED = ("4 conv3x3-relu 64 ", "4 conv3x3-relu 128 ", "4 conv3x3-relu 256 ", "YOLOv8n-shaped relu")
"""Name prefixes of the networks that the rule was derived from."""


def compare(row: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Counts of layers predicted correctly, wrongly expected and missed, by precision, for one network. Empty for older
    rows and for ONNX files that are not part of the project."""
    results = {}
    kind, *rest = row.get("case", "").split(":")
    known = kind in ("chains", "yolo") or (kind == "onnx" and (ROOT / rest[0]).exists())
    for way in ("int8 2:4", "fp16 2:4"):
        engine = row["engines"].get(way, {})
        if "sparse_layers" not in engine or not known:
            continue
        (case,) = cases([row["case"].replace("onnx:", f"onnx:{ROOT}/")])
        ran = {name for layer in engine["sparse_layers"] for name in onnx_names(layer)}
        count = results[way[:4]] = Counter[str]()
        for work in fused_layers(case.source):
            if work.sparse:
                expected, happened = likely_sparse(work, way[:4]), work.name in ran
                count["right" if expected == happened else "expected" if expected else "missed"] += 1
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "orin_slice.json")
    parser.add_argument("--save", action="store_true", help="Write benchmarks/results/orin_slice_picked.json.")
    arguments = parser.parse_args()
    content = json.loads(arguments.results.read_text())
    totals: dict[str, Counter[str]] = {}
    rows = []
    for row in content["rows"]:
        for precision, count in compare(row).items():
            use = "derived from" if row["network"].startswith(DERIVED) else "held out"
            rows.append({"network": row["network"], "sms": row["sms"], "precision": precision, "use": use, **count})
            totals.setdefault(f"{use}, {precision}", Counter()).update(count)
    result = {key: content[key] for key in ("device", "versions", "date")}
    result["command"] = "python benchmarks/orin_slice/picked.py --save"
    shares = {use: {**count, "share_right": round(count["right"] / count.total(), 3)} for use, count in totals.items()}
    save("orin_slice_picked", {**result, "totals": shares, "rows": rows}, arguments.save)


if __name__ == "__main__":
    main()

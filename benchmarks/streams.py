"""How many cameras the default detector's engines can serve: batch sizes, streams, dense against 2:4.

    python benchmarks/streams.py [--batch 1,4,8] [--streams 1,2,4] [--candidates fp16,fp16-2:4] [--save]

The measurement of `edgesparse bench --batch --streams`, with INT8 calibrated on calib_data/. It tests the claim that a
board that serves 16 cameras with the dense engine serves 25 with the 2:4 one. --save writes results/streams.json and
the page results/streams.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from edgesparse.progress import quiet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from edgesparse import device
from edgesparse.bench.cameras import Demand
from edgesparse.bench.page import page, row
from edgesparse.bench.throughput import Workload, of_recipe, summary
from edgesparse.builder.targets import DEMO, recipe_of
from edgesparse.config import parse

CANDIDATES = "fp16,fp16-2:4,int8-table,int8-table-2:4,int8-qdq,int8-qdq-2:4"
CALIBRATION = Path(__file__).resolve().parents[1] / "calib_data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,4,8")
    parser.add_argument("--streams", default="1,2,4")
    parser.add_argument("--candidates", default=CANDIDATES)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--max-age", type=float, default=100, help="Milliseconds.")
    parser.add_argument("--seconds", type=float, default=1, help="Per engine and number of streams.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    fields = recipe_of(DEMO).model_dump(mode="json")
    fields["build"] |= {"backend": arguments.backend, "candidates": arguments.candidates.split(",")}
    fields["calibrate"] |= {"images": str(CALIBRATION)}
    recipe, demand = parse(fields, "streams"), Demand(arguments.fps, arguments.max_age)
    streams, loads = [int(n) for n in arguments.streams.split(",")], []
    for batch in (int(n) for n in arguments.batch.split(",")):
        loads += of_recipe(recipe, Workload([batch], streams, demand, arguments.seconds), quiet)
        print("\n".join("  ".join(row(load)) for load in loads if load.batch == batch), file=sys.stderr, flush=True)
        words, clocks = summary(loads, demand), str(device.clocks())
        result = {**machine(), "clocks": clocks, "demand": asdict(demand), "summary": words}
        result["loads"] = [asdict(load) for load in loads]
        if arguments.save:  # after each batch size, so that an interrupted run keeps its results
            (RESULTS / "streams.json").write_text(json.dumps(result, indent=2) + "\n")
            about = f"{result['device'].get('gpu') or result['device'].get('cpu')}; {clocks}"
            (RESULTS / "streams.html").write_text(page("The default detector: throughput", about, words, loads))
    print(words)


if __name__ == "__main__":
    main()

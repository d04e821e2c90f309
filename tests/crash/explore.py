#!/usr/bin/env python3
"""Every state that a power cut may leave: work is recorded, each prefix and reordering replayed and checked.

    python tests/crash/explore.py --count 15000 [--scenario deploy] [--seed 0]

Needs strace. Prints a JSON object with the states per scenario and model, and those that broke a promise; exit code 1
if one did. docs/guide/fleet.md says what a power cut may cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("fleet", "service")]

import disk
import trace_program
from scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent
MODELS = ("ext4", "worst")
SAMPLES = 6
"""Least reorderings to sample per moment, where there are too many to try all."""
WORST = 5
"""Broken states to print per scenario and model."""


def explore(name: str, most: int, seed: int = 0) -> dict[str, Any]:
    """Check up to `most` states of a scenario per model, spread evenly over all. Returns figures."""
    scenario = SCENARIOS[name]
    memory = Path("/dev/shm")  # thousands of folders, each synced: this takes hours on a disk
    place = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
    with place as text, mock.patch.dict(os.environ, EDGESPARSE_STATE=str(Path(text).resolve() / "state")):
        folder = Path(text).resolve()
        (folder / "disk").mkdir()
        scenario.prepare(folder)
        command = [sys.executable, str(HERE / "scenarios.py"), name, str(folder)]
        start, operations = trace_program.record(command, folder / "disk", folder / "trace")
        result: dict[str, Any] = {"operations": len(operations)}
        for model in MODELS:
            left = list(disk.states(start, operations, model, max(SAMPLES, most // 20), seed))
            chosen = [left[at * len(left) // min(most, len(left))] for at in range(min(most, len(left)))]
            ended = [(-1, tree) for tree in disk.finished(start, operations, model, SAMPLES, seed)]
            broken = [why for state in [*chosen, *ended] if (why := _broken(folder, scenario, operations, *state))]
            checked = len(chosen) + len(ended)
            result[model] = {
                "states": len(left),
                "checked": checked,
                "broken": len(broken),
                "examples": broken[:WORST],
            }
        return result


def _broken(folder: Path, scenario: Scenario, operations: Sequence[disk.Operation], count: int, tree: disk.Tree) -> str:
    """Return which promise is broken after `count` operations, -1 for all of them; empty if none is."""
    shutil.rmtree(folder / "disk")
    (folder / "disk").mkdir()
    tree.write(folder / "disk")
    try:
        scenario.check(folder, count < 0)
    except Exception as error:
        when = (
            "at the end" if count < 0 else f"after {count}: {operations[count - 1]}"[:200] if count else "at the start"
        )
        line = traceback.extract_tb(error.__traceback__)[1]
        return f"{when}: line {line.lineno}, {line.line}: {type(error).__name__}: {error}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=15_000, help="states to check, over all scenarios")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.scenario or list(SCENARIOS)
    begin, left = time.monotonic(), options.count
    results: dict[str, Any] = {}
    total = dict.fromkeys(("states", "checked", "broken"), 0)
    for at, name in enumerate(names):
        results[name] = explore(name, -(-left // (len(names) - at) // len(MODELS)), options.seed)
        for figures in map(results[name].get, MODELS):
            total = {key: count + figures[key] for key, count in total.items()}
        left = max(options.count - total["checked"], 0)
        ahead = (time.monotonic() - begin) / (at + 1) * (len(names) - at - 1)
        print(f"{name}: {total['checked']} states in all, {ahead:.0f} s left", file=sys.stderr, flush=True)
    print(json.dumps({"scenarios": results, "total": total, "seconds": round(time.monotonic() - begin)}, indent=1))
    return bool(total["broken"])


if __name__ == "__main__":
    sys.exit(main())

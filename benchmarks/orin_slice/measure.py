"""Speedup from 2:4 and INT8 on an Orin-sized slice of a larger GPU, with kernels that an Orin has.

    python benchmarks/orin_slice/measure.py --sms 8 --case chains --case yolo:n:relu [--jobs 15] [--out FILE]

A stand-in, not an Orin: the number of multiprocessors is an Orin's and the kernels are Ampere's, but clocks and memory
bandwidth are those of the host GPU. Compute-bound times scale with the clocks. Written for TensorRT 8.5.3 on a GPU of
compute capability 9.0.

First every engine is built (dense before 2:4, INT8 before FP16, with one timing cache per network) and stored in
FOLDER, by several processes at the same time with --jobs, each in its own slice and each building one network after
another, so that it loads a kernel only once. A build that exceeds the time limit is recorded and skipped; a build that
is stored is not repeated, and one that was cut off continues from its timing cache. Then, alone on the GPU, the
engines of each network are timed in interleaved rounds, each as one CUDA graph. A network's result is appended to FILE
as soon as it is available, one JSON object per line, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import RESULTS
from benchmarks.orin_slice.cases import Case, cases
from benchmarks.orin_slice.engines import Builder
from benchmarks.orin_slice.slice import Slice, Timed, clocks, compiled, interleaved, shared_gpu
from benchmarks.orin_slice.store import MISSING, Store
from edgesparse.version import VERSION

ROUNDS = 25
START = 120.0
"""Seconds until a process must have begun its first build."""


def build(arguments: argparse.Namespace, store: Store) -> None:
    """Build the engines that are not stored yet of the cases that no other process has; each step is one JSON line on
    standard output."""
    import tensorrt as trt

    _place, builder = Slice(arguments.sms, arguments.slot), Builder(trt, store.folder)
    for case in cases(arguments.case):
        if not store.claim(case):
            continue
        for variant in case.variants():
            if store.facts(case, variant.name) != MISSING:
                continue
            _say({"building": case.name, "way": variant.name})
            try:
                built = builder.build(variant.model.SerializeToString(), variant.options, store.name(case))
                store.write(case, variant.name, built.as_dict(), built.plan)
            except RuntimeError as error:
                store.write(case, variant.name, {"failed": str(error)})


def measure(arguments: argparse.Namespace, store: Store) -> None:
    """Time the stored engines of each case; each result is one JSON line on standard output."""
    import tensorrt as trt

    place, builder = Slice(arguments.sms), Builder(trt, store.folder)
    for case in cases(arguments.case):
        facts = {way: dict(store.facts(case, way)) for way in case.ways}
        built = [way for way in case.ways if "failed" not in facts[way]]  # what was cut off may have left half a plan
        plans = {way: plan for way in built if (plan := store.plan(case, way))}
        if not plans:
            continue
        _say({"building": case.name})
        engines = {way: Timed(place, trt, builder.load(plan)) for way, plan in plans.items()}
        for way, timing in interleaved(engines, ROUNDS).items():
            facts[way] |= timing
        row: dict[str, Any] = {"network": case.name, "sms": arguments.sms, "kernels": arguments.kernels}
        row |= {"case": case.text, "command": command(arguments, case), "engines": facts, "date": _today()}
        _say({"row": row | {"clocks": clocks(), "tensorrt": trt.__version__}})


def command(arguments: argparse.Namespace, case: Case) -> str:
    kernels = "" if arguments.kernels == "orin" else f" --kernels {arguments.kernels}"
    return f"python benchmarks/orin_slice/measure.py --sms {arguments.sms}{kernels} --case '{case.text}'"


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Parent:
    """Runs the processes that build, then the one that measures, within the whole budget."""

    arguments: argparse.Namespace
    store: Store
    environment: dict[str, str]
    end: float

    def build_all(self, todo: Sequence[Case], jobs: int) -> None:
        for case in todo:
            self.store.release(case)
        threads = [threading.Thread(target=self._work, args=(todo, slot)) for slot in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, todo: Sequence[Case], slot: int) -> None:
        """Keep one process building; what it does not survive is recorded and skipped by the next."""
        while time.monotonic() < self.end:
            stopped = self._child("build", todo, slot, self.end)
            if stopped is None or time.monotonic() >= self.end:
                return
            name, way = stopped
            if not name:
                print(f"slot {slot}: the process that builds does not start", file=sys.stderr, flush=True)
                return
            case = next(case for case in todo if case.name == name)
            self.store.write(case, way, {"failed": "took longer than the limit, or crashed"})
            self.store.release(case)
            print(f"skipped: {name} {way}", file=sys.stderr, flush=True)

    def measure_all(self, todo: Sequence[Case]) -> None:
        """A network that crashes the process is left out."""
        left = list(todo)
        while left and time.monotonic() < self.end:
            stopped = self._child("measure", left, 0, self.end)
            if stopped is None or not stopped[0]:
                return
            print(f"not measured: {stopped[0]}", file=sys.stderr, flush=True)
            left = left[[case.name for case in left].index(stopped[0]) + 1 :]

    def _child(self, task: str, todo: Sequence[Case], slot: int, end: float) -> tuple[str, str] | None:
        """Run one child to its end. Returns the network and engine that it did not survive, or None."""
        line = [sys.executable, __file__, "--child", task, "--slot", str(slot), *self._passed()]
        for case in todo:
            line += ["--case", case.text]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=self.environment)
        return _follow(process, self.arguments, end)

    def _passed(self) -> list[str]:
        values = self.arguments
        return ["--sms", str(values.sms), "--kernels", values.kernels, "--folder", str(values.folder)]


def parent(arguments: argparse.Namespace, store: Store) -> None:
    """Build what is not stored, measure what is not in FILE."""
    compiled("green_context.c")
    # One thread each: NumPy's would spin beside the builders. EAGER: no kernel is loaded while another is timed.
    environment = {"OPENBLAS_NUM_THREADS": "1", "CUDA_MODULE_LOADING": "EAGER", **os.environ}
    if arguments.kernels == "orin":
        environment["LD_PRELOAD"] = str(compiled("toll.c", "-ldl"))
    end = time.monotonic() + arguments.budget
    done = {_key(row) for row in _rows(arguments.out) if MISSING not in row["engines"].values()}
    todo = [case for case in cases(arguments.case) if (case.name, arguments.sms, arguments.kernels) not in done]
    if arguments.stage != "measure":
        with shared_gpu(arguments.jobs) as service:
            Parent(arguments, store, environment | service, end - arguments.reserve).build_all(todo, arguments.jobs)
    if arguments.stage != "build":
        Parent(arguments, store, environment, end).measure_all(todo)


def summary(before: list[dict[str, Any]], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The contents of benchmarks/results/orin_slice.json: rows of one kind of GPU, each with its own command. A new
    measurement replaces the row of the same network, slice and kernels."""
    rows = list({_key(row): row for row in [*before, *measured]}.values())
    facts = rows[-1]["clocks"]
    slices = " or ".join(str(sms) for sms in sorted({row["sms"] for row in rows}))
    device = (
        f"{facts['name']}, {slices} multiprocessors, SM clock {facts['clocks.sm']}, driver {facts['driver_version']}"
    )
    return {
        "question": "What do INT8 and 2:4 gain on an Orin-sized slice of a larger GPU, with kernels that an Orin has?",
        "device": f"{device}: a stand-in, not an Orin",
        "versions": {"tensorrt": rows[-1]["tensorrt"], "edgesparse": VERSION},
        "date": _today(),
        "command": "in each row",
        "rows": rows,
    }


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["network"], row["sms"], row.get("kernels", "orin")  # the first rows were written without


def _follow(process: subprocess.Popen[str], arguments: argparse.Namespace, end: float) -> tuple[str, str] | None:
    """Write what the child reports. Returns the network and engine that killed it (empty before the first), or None if
    it exited normally."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    building = ("", "")
    while True:
        limit = min(arguments.limit if building[0] else START, max(end - time.monotonic(), 0.1))
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            process.kill()
            process.wait()
            return building
        if line is None:
            return None if process.wait() == 0 else building
        if not line.startswith("{"):
            print(line, end="", file=sys.stderr, flush=True)
            continue
        message = json.loads(line)
        if "building" in message:
            building = (message["building"], message.get("way", ""))
        if "row" in message:
            with arguments.out.open("a") as file:
                file.write(json.dumps(message["row"]) + "\n")
            _show(message["row"])


def _show(row: dict[str, Any]) -> None:
    parts = []
    for name, engine in row["engines"].items():
        if "us" in engine:
            kernels = f"{engine['sparse_kernels']}/{engine['layers']} 2:4, {engine['sm90_kernels']} sm90"
            parts.append(f"{name} {engine['us']} us ({kernels}, {engine['build_s']} s)")
        else:
            parts.append(f"{name}: {engine.get('failed', '')[:80]}")
    print(f"[{row['sms']} SMs] {row['network']}: " + "; ".join(parts), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], help="What to measure; may be repeated.")
    parser.add_argument("--sms", type=int, default=8, help="Multiprocessors of the slice; 0 is the whole GPU.")
    parser.add_argument("--kernels", choices=("orin", "any"), default="orin", help="orin: none that is Hopper's own.")
    parser.add_argument("--jobs", type=int, default=1, help="Builds at the same time, each in its own slice.")
    parser.add_argument("--out", type=Path, default=Path("orin_slice.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/orin_slice"), help="For engines, caches and logs.")
    parser.add_argument("--limit", type=float, default=240.0, help="Seconds that one build may take.")
    parser.add_argument("--budget", type=float, default=500.0, help="Seconds for everything.")
    parser.add_argument("--reserve", type=float, default=60.0, help="Seconds of these that are kept for timing.")
    parser.add_argument("--stage", choices=("build", "measure"), help="Do only this; both by default.")
    parser.add_argument("--save", action="store_true", help="Merge FILE into benchmarks/results/orin_slice.json.")
    parser.add_argument("--child", choices=("build", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--slot", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    store = Store(arguments.folder / f"{arguments.kernels}-{arguments.sms}")
    {"build": build, "measure": measure, None: parent}[arguments.child](arguments, store)
    if arguments.save:
        file = RESULTS / "orin_slice.json"
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        file.write_text(json.dumps(summary(before, _rows(arguments.out)), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Speedup from 2:4 and INT8 on an Orin-sized slice of a larger GPU, with kernels that an Orin has.

    python benchmarks/orin_slice/measure.py --sms 8 --case chains --case yolo:n:relu [--out FILE]

A stand-in, not an Orin: the number of multiprocessors is an Orin's and the kernels are Ampere's, but clocks and memory
bandwidth are those of the host GPU. Compute-bound times scale with the clocks. Written for TensorRT 8.5.3 on a GPU of
compute capability 9.0.

For each network, all engines are built in one process with one timing cache (dense before 2:4, INT8 before FP16), then
timed in interleaved rounds, each as one CUDA graph. A result is appended to FILE as soon as it is available, one JSON
object per line, and is not measured again. Each build has a time limit: a build that exceeds it is recorded and
skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from onnx import ModelProto

from benchmarks.common import RESULTS
from benchmarks.orin_slice import networks
from benchmarks.orin_slice.engines import Builder, Options
from benchmarks.orin_slice.slice import Slice, Timed, clocks, compiled, interleaved
from edgesparse.compress import slim
from edgesparse.version import VERSION

ROUNDS = 25


@dataclass(frozen=True)
class Variant:
    """One engine of a network: `name` such as `int8 2:4`, its model, and its build options."""

    name: str
    model: ModelProto
    options: Options


@dataclass(frozen=True)
class Case:
    """One network and the engines that are built from it."""

    text: str
    """As given on the command line."""
    name: str
    source: ModelProto
    ways: tuple[str, ...]
    words: tuple[str, ...] = ()

    def variants(self) -> Iterator[Variant]:
        """Dense before 2:4, INT8 before FP16: later builds find most tactics already timed."""
        sparse = networks.pruned(self.source) if any("2:4" in way for way in self.ways) else None
        for way in self.ways:
            pruned = way.endswith("2:4")
            base = way.removesuffix(" 2:4")
            model = sparse if pruned and sparse is not None else self.source
            qdq = base.startswith("int8-qdq")
            if qdq:
                model = networks.with_qdq(model, "sparse" if base.endswith("sparse") else "fuse")
            precision = "int8" if base.startswith("int8") else base
            heuristic, free, jit = "fast" in self.words, "free" in self.words, "nojit" not in self.words
            yield Variant(way, model, Options(precision, pruned, qdq, heuristic, free, jit))


PAIRS = ("int8", "int8 2:4", "fp16", "fp16 2:4")
QDQ = ("int8-qdq-fuse", "int8-qdq-fuse 2:4", "int8-qdq-sparse", "int8-qdq-sparse 2:4")


def cases(selected: list[str]) -> Iterator[Case]:
    """`chains[:TEXT]`, `qdq[:TEXT]`, `yolo:WIDTH:ACTIVATION[:way+way]`, `onnx:FILE[:way+way]`.

    Additional words for the last two: `fast`, `free` and `nojit` (engines.Options); for a YOLO also `b4` or another
    batch, and `slim` (edgesparse slim).

    Raises ValueError for any other word.
    """
    for text in selected:
        kind, *rest = text.split(":")
        if kind in ("chains", "qdq"):
            for chain in networks.CHAINS:
                if not rest or rest[0] in chain.name:
                    ways = PAIRS if kind == "chains" else QDQ
                    name = chain.name + (" Q/DQ" if kind == "qdq" else "")
                    yield Case(f"{kind}:{chain.name}", name, chain.model(), ways)
        elif kind == "yolo":
            chosen = _ways(rest[2:]) or PAIRS
            batch = next((int(word[1:]) for word in rest if re.fullmatch(r"b\d+", word)), 1)
            model = networks.yolov8(rest[0], rest[1], batch=batch)
            model = slim(model)[0] if "slim" in rest else model
            name = f"YOLOv8{rest[0]}-shaped {rest[1]} batch {batch} {'+'.join(chosen)}"
            name = " ".join([name, *(word for word in rest[2:] if word in ("fast", "free", "nojit", "slim"))])
            yield Case(text, name, model, chosen, tuple(rest[2:]))
        elif kind == "onnx":
            import onnx

            chosen = _ways(rest[1:]) or PAIRS
            name = f"{Path(rest[0]).stem} {'+'.join(chosen)}"
            yield Case(text, name, onnx.load(rest[0]), chosen, tuple(rest[1:]))
        else:
            raise ValueError(f"no case {text!r}")


def _ways(words: list[str]) -> tuple[str, ...]:
    result = next((word for word in words if not re.fullmatch(r"fast|free|nojit|slim|b\d+", word)), "")
    return tuple(way.replace("_", " ").replace("24", "2:4") for way in result.split("+")) if result else ()


def child(arguments: argparse.Namespace) -> None:
    """Build and time all cases that FILE does not have yet; each step is one JSON line on standard output."""
    import tensorrt as trt

    place = Slice(arguments.sms)
    builder = Builder(trt, arguments.folder, f"{arguments.kernels}-{arguments.sms}")
    skip = {(case, way) for case, way in json.loads(arguments.skip)}
    for case in cases(arguments.case):
        done = [row for row in _rows(arguments.out) if row["network"] == case.name and row["sms"] == arguments.sms]
        if not done:
            _measure(case, place, trt, builder, arguments, skip)


def _measure(
    case: Case, place: Slice, trt: Any, builder: Builder, arguments: argparse.Namespace, skip: set[tuple[str, str]]
) -> None:
    engines: dict[str, Timed] = {}
    row: dict[str, Any] = {"network": case.name, "sms": arguments.sms, "kernels": arguments.kernels}
    row["case"] = case.text
    row["command"] = f"python benchmarks/orin_slice/measure.py --sms {arguments.sms} --case '{case.text}'"
    row["engines"] = {}
    for variant in case.variants():
        if (case.name, variant.name) in skip:
            row["engines"][variant.name] = {"failed": "took longer than the limit, or crashed"}
            continue
        _say({"building": [case.name, variant.name]})
        try:
            built = builder.build(variant.model.SerializeToString(), variant.options)
            engines[variant.name] = Timed(place, trt, built.engine)
            row["engines"][variant.name] = built.as_dict()
        except RuntimeError as error:
            row["engines"][variant.name] = {"failed": str(error)}
    for name, timing in interleaved(engines, ROUNDS).items():
        row["engines"][name] |= timing
    row |= {"clocks": clocks(), "tensorrt": trt.__version__}
    _say({"row": row})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def parent(arguments: argparse.Namespace) -> None:
    """Run the child until every case is measured, skipping builds that exceed the limit, within the whole budget."""
    compiled("green_context.c")
    environment = dict(os.environ)
    if arguments.kernels == "orin":
        environment["LD_PRELOAD"] = str(compiled("toll.c", "-ldl"))
    end, skip = time.monotonic() + arguments.budget, list[list[str]]()
    while time.monotonic() < end:
        command = [sys.executable, __file__, "--child", "--skip", json.dumps(skip), *sys.argv[1:]]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        building = _follow(process, arguments, end)
        if building is None:
            return
        if building in skip:
            print("the process that measures does not start: its error is above", file=sys.stderr)
            return
        skip.append(building)
        print(f"skipped: {building}", file=sys.stderr, flush=True)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The contents of benchmarks/results/orin_slice.json: rows of one kind of GPU, each with its own command."""
    facts = rows[-1]["clocks"]
    slices = " or ".join(str(sms) for sms in sorted({row["sms"] for row in rows}))
    device = (
        f"{facts['name']}, {slices} multiprocessors, SM clock {facts['clocks.sm']}, driver {facts['driver_version']}"
    )
    return {
        "question": "What do INT8 and 2:4 gain on an Orin-sized slice of a larger GPU, with kernels that an Orin has?",
        "device": f"{device}: a stand-in, not an Orin",
        "versions": {"tensorrt": rows[-1]["tensorrt"], "edgesparse": VERSION},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": "in each row",
        "rows": rows,
    }


def _follow(process: subprocess.Popen[str], arguments: argparse.Namespace, end: float) -> list[str] | None:
    """Write what the child reports. Returns the build that killed it, or None if it exited normally."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    building: list[str] | None = None
    while True:
        limit = min(arguments.limit if building else 120.0, max(end - time.monotonic(), 0.1))
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            process.kill()
            return building or ["start", ""]
        if line is None:
            return None if process.wait() == 0 else building or ["start", ""]
        if not line.startswith("{"):
            print(line, end="", file=sys.stderr, flush=True)
            continue
        message = json.loads(line)
        building = message.get("building", building)
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
    parser.add_argument("--out", type=Path, default=Path("orin_slice.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/orin_slice"), help="For caches and logs.")
    parser.add_argument("--limit", type=float, default=240.0, help="Seconds that one build may take.")
    parser.add_argument("--budget", type=float, default=500.0, help="Seconds for everything.")
    parser.add_argument("--save", action="store_true", help="Write benchmarks/results/orin_slice.json from FILE.")
    parser.add_argument("--skip", default="[]", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (child if arguments.child else parent)(arguments)
    if arguments.save and not arguments.child:
        text = json.dumps(summary(_rows(arguments.out)), indent=1)
        (RESULTS / "orin_slice.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

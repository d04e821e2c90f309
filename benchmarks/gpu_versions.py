"""The whole frame path on a GPU, from frame to boxes, of several checkouts of edgesparse with one engine, interleaved.

    python benchmarks/gpu_versions.py --work FOLDER [--net relu] --tree before=CHECKOUT [--tree ...] [--out FILE]

FOLDER has the engine that `benchmarks/gpu_path.py --work FOLDER` built for one of its networks with 80 classes; about
40 candidates per frame pass the threshold. Each checkout runs in a process of its own and detects in blocks of frames,
one checkout after another, in an order that is reversed from round to round. `now` is this checkout. A ratio is the
median of each round's medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.gpu_setup import Net

ROOT = Path(__file__).resolve().parents[1]
CLASSES, SIZE, HD = 80, (640, 640), (1080, 1920, 3)
BLOCK, WARM = 100, 20


def serve(engine: Path, frames: Path, conf: float) -> None:
    """In a child, of the checkout first in PYTHONPATH: for each line, time a block of frames."""
    from edgesparse.backends import backend
    from edgesparse.config import DetectorSpec, InputSpec, Run
    from edgesparse.runtime.detector import Detector

    spec = DetectorSpec(head="yolov8", classes=tuple(map(str, range(CLASSES))), input=InputSpec(size=SIZE))
    shots = np.load(frames)
    with Detector(backend("tensorrt").load(engine), spec, Run(conf=conf)) as detector:
        near = [detector.frame_buffer(HD) for _ in shots]
        for buffer, shot in zip(near, shots, strict=True):
            buffer[...] = shot
        for _ in sys.stdin:
            times, boxes = [], 0
            for turn in range(WARM + BLOCK):
                begun = time.perf_counter_ns()
                detections = detector(near[turn % len(near)])
                times.append(time.perf_counter_ns() - begun)
                boxes += len(detections)
            print(json.dumps({"ns": times[WARM:], "boxes": boxes, "where": detector.where}), flush=True)


class Child:
    def __init__(self, tree: Path, of: Net, frames: Path) -> None:
        paths = os.pathsep.join([str(tree.resolve()), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(frames)]
        command += ["--engine", str(of.path), "--conf", str(of.conf)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )

    def block(self) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a checkout's process ended with {self._process.wait()}")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def compared(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from benchmarks.gpu_setup import SHOTS, confident, image, net

    of, frames = confident(net(options.net, options.work)), folder / "frames.npy"
    np.save(frames, np.stack([image(seed) for seed in range(SHOTS)]))
    trees = {"now": ROOT, **{name: Path(path) for name, _, path in (tree.partition("=") for tree in options.tree)}}
    children = {name: Child(tree, of, frames) for name, tree in trees.items()}
    blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for child in children.values():
        child.block()
    until, order = time.monotonic() + options.seconds, list(trees)
    while time.monotonic() < until:
        for name in order:
            blocks[name].append(children[name].block())
        order.reverse()
    for child in children.values():
        child.close()
    medians = {name: np.array([np.median(block["ns"]) for block in each]) for name, each in blocks.items()}
    report: dict[str, Any] = {"rounds": len(medians["now"]), "net": of.name, "conf": of.conf}
    for name, each in blocks.items():
        p50, p99 = np.percentile(np.concatenate([block["ns"] for block in each]), (50, 99)) / 1e6
        report[name] = {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}
        report[name] |= {"boxes": each[0]["boxes"], "where": each[0]["where"]}
        if name != "now":
            report[name]["now_over_it"] = round(float(np.median(medians["now"] / medians[name])), 4)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, help="folder of the engines of benchmarks/gpu_path.py")
    parser.add_argument("--net", choices=("relu", "small"), default="relu")
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=FOLDER", help="another checkout")
    parser.add_argument("--seconds", type=float, default=8, help="that blocks are timed [%(default)s]")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--conf", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.engine, options.serve, options.conf)
        return
    if options.work is None:
        parser.error("--work is needed")
    sys.path.insert(0, str(ROOT))
    from benchmarks.common import machine

    with tempfile.TemporaryDirectory() as folder:
        result = {"question": __doc__, **machine(), "milliseconds": compared(options, Path(folder))}
    print(json.dumps(result["milliseconds"], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

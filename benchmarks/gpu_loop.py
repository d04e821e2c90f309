"""The whole frame loop on a GPU against the bare engine: `edgesparse run` and the service with 1 to 64 cameras.

    python benchmarks/gpu_loop.py [--seconds 120] [--work FOLDER] [--only PART ...] [--video FILE] [--save]

Needs TensorRT, pycuda and nvcc; `--backend onnxruntime` measures the same on a CPU. Builds engines of the default
detector and of networks of ReLU blocks (FP16), then measures, each part in its own process: 1920x1080 frames in memory
that are taken as fast as the loop asks for them, and H.264 files that are decoded as fast as they come, with tracking,
zones, lines and JSON lines on, and in the service its metrics, read once per second. A batch holds one frame of each
camera, at most 16. The bare engine is the engine's graph of the same batch, launched without pause. `slice` runs the
same on 16 multiprocessors, as many as a Jetson AGX Orin has, through CUDA's Multi-Process Service: there the engine
takes as much of the time as it does on a board. `still` is the same with cameras that each show one image, so that
objects stay where they are; else each shows four in turn, and tracks begin and end all the time. `flat` runs up to
100,000 frames.

Each part's result is printed and added to FOLDER/gpu_loop.json as soon as it is available. A part that fails or takes
longer than its limit does not stop the others. Within --seconds, as many parts run as there is time for, in their
order; another run with the same --work and --out adds the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, store_part, wait_or_kill

BUILDS = ("build kernels 1", "build relu 16", "build relu 4", "build relu 1", "build parts 16")
PARTS = (
    *("memory relu 16", "slice relu 16", "still relu 16", "files relu 16", "memory relu 64", "memory relu 4"),
    *("memory relu 1", "flat relu 16", "files relu 4", "files relu 1", "files relu 64"),
    *("memory parts 16", "slice parts 16", "still parts 16"),
)
"""The default detector is last: TensorRT 8.5.3 takes minutes for it, half a minute for the ReLU blocks."""
LIMITS = {"build": 150.0, "memory": 40.0, "slice": 45.0, "still": 45.0, "files": 40.0, "flat": 110.0}
"""Time limit per part, in seconds."""
TOGETHER = 2
"""Builds at a time: TensorRT's builders starve each other."""
SLICE = 16
"""Multiprocessors of a slice."""
_MULTIPROCESSORS = 16
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT"""


class Bench:
    """The parts of one run, within its time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._until: float = time.monotonic() + options.seconds

    def left(self) -> float:
        return self._until - time.monotonic()

    def build(self, names: list[str]) -> None:
        """Build what is missing, TOGETHER at a time; nothing is timed meanwhile."""
        waiting = [name for name in names if not engine_of(self._options.work, name).exists()]
        running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        while (waiting or running) and self.left() > 0:
            while waiting and len(running) < TOGETHER + ("build kernels 1" in running):
                name = waiting.pop(0)
                running[name] = self._start(name), time.monotonic() + LIMITS["build"]
            for name, (process, end) in list(running.items()):
                if process.poll() is not None or time.monotonic() > end:
                    self._finish(name, process, 0.0)
                    del running[name]
            time.sleep(0.1)
        for name, (process, _) in running.items():
            self._finish(name, process, 0.0)

    def measure(self, name: str) -> None:
        _, net, cameras = name.split()
        if not engine_of(self._options.work, f"build {net} {batch_of(int(cameras))}").exists():
            keep(self._options, name, {"error": "its engine was not built"})
            return
        if self.left() < 8:
            return
        try:
            with sliced(name.startswith(("slice", "still"))) as environment:
                self._finish(name, self._start(name, environment), min(LIMITS[name.split()[0]], self.left()))
        except Exception as error:  # the other parts go on
            keep(self._options, name, {"error": f"{type(error).__name__}: {error}"})

    def _start(self, name: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        options = self._options
        command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--work", str(options.work)]
        command += ["--out", str(options.out), "--backend", options.backend, "--seconds", str(max(8.0, self.left()))]
        command += ["--video", str(options.video)] if options.video else []
        return subprocess.Popen(command, env={**os.environ, **(environment or {})})

    def _finish(self, name: str, process: subprocess.Popen[bytes], limit: float) -> None:
        code = wait_or_kill(process, limit)
        if code != 0:
            why = "no result within its time" if code is None else code
            keep(self._options, name, {"error": f"the part ended with {why}"})


@contextmanager
def sliced(is_slice: bool) -> Iterator[dict[str, str]]:
    """The environment of a part: with SLICE multiprocessors, or with all."""
    if not is_slice:
        yield {}
        return
    from benchmarks.orin_slice.slice import shared_gpu
    from edgesparse.backends.cuda.graph import LIBRARY, check

    cuda, device, most = ctypes.CDLL(LIBRARY), ctypes.c_int(), ctypes.c_int()
    check(cuda.cuInit(0), "cuInit")
    check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    check(cuda.cuDeviceGetAttribute(ctypes.byref(most), _MULTIPROCESSORS, device), "cuDeviceGetAttribute")
    with shared_gpu(2) as environment:
        yield {**environment, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{100 * SLICE / most.value:.2f}"}


def batch_of(cameras: int) -> int:
    return min(cameras, 16)


def engine_of(work: Path, build: str) -> Path:
    _, net, batch = build.split()
    return work / f"{net}-{batch}.engine"


def keep(options: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    print(json.dumps({name: result}), flush=True)
    store_part(options.out / "gpu_loop.json", (__doc__ or "").split("\n")[0], name, result)


def part(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import gpu_loop_parts as parts
    from benchmarks.gpu_loop_ways import Setup

    kind, net, number = options.part.split()
    if kind == "build":
        return parts.build(net, int(number), options.work, options.backend)
    setup = Setup(net, int(number), batch_of(int(number)), options.work, options.backend, still=kind == "still")
    until = time.monotonic() + min(options.seconds, LIMITS[kind]) - 4
    if kind == "files":
        return parts.files(setup, options.video, until)
    return parts.flat(setup, until) if kind == "flat" else parts.memory(setup, until)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=120, help="for all [%(default)s]")
    parser.add_argument("--work", type=Path, help="folder of engines, which are built unless they are there")
    parser.add_argument("--out", type=Path, help="folder of results [a temporary one]")
    parser.add_argument("--only", action="append", metavar="PART", choices=(*BUILDS, *PARTS), help="may be repeated")
    parser.add_argument("--video", type=Path, help="an H.264 file of 1920x1080 [encoded with ffmpeg]")
    parser.add_argument("--backend", default="tensorrt", help="[%(default)s]")
    parser.add_argument("--save", action="store_true", help="results go to benchmarks/results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = RESULTS if options.save else options.out or Path(tempfile.mkdtemp())
    options.work = options.work or Path(tempfile.mkdtemp())
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    return options


def main() -> int:
    options = parse_arguments()
    os.environ.setdefault("EDGESPARSE_STATE", str((options.work / "state").absolute()))
    if options.part:
        faulthandler.dump_traceback_later(LIMITS[options.part.split()[0]] - 3)  # shows where it is when it is ended
        try:
            keep(options, options.part, part(options))
        except Exception:
            keep(options, options.part, {"error": traceback.format_exc(limit=-3).strip()[-700:]})
        return 0
    bench, parts = Bench(options), options.only or PARTS
    needed = {f"build {name.split()[1]} {batch_of(int(name.split()[2]))}" for name in parts}
    bench.build([name for name in BUILDS if name in needed or name == BUILDS[0]])
    for name in parts:
        if not name.startswith("build"):
            bench.measure(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

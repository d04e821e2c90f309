"""The frame path on a GPU with TensorRT, compared with the bare engine and with the usual script.

    python benchmarks/gpu_path.py [--out FOLDER] [--work FOLDER] [--budget SECONDS] [--only PART ...] [--save]

Needs TensorRT, pycuda and nvcc. Builds the default detector and networks of ReLU blocks at 640x640 (FP16), then
measures these parts, each in its own process with its own time limit: the letterbox kernel, with frames in GPU memory,
against the device's copy bandwidth; the whole path to detections, 50 boxes, from a 1920x1080 frame that is read in
place from page-locked memory, interleaved in one process with the same path with NMS on the CPU or frames in GPU memory
or any other, the engine's graph alone, copies of a whole frame and of only the rows that are read, and the usual script
(OpenCV letterbox, pageable copies, whole output copied back, NumPy decode); allocations after the first frames; a frame
with 4 and 9 tiles, in one run of the engine and image by image; 1, 4 and 16 cameras on a small network, batched and
unbatched; and, only if named, engines that take the image in a layout of their own against FP32 planes. Each part's
result is printed and added to FOLDER/gpu_path.json as soon as it is available; --save sets that folder to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, store_part, wait_or_kill

PARTS = (
    *(f"build {name}" for name in ("parts 1", "relu 1", "small 1", "small 4", "small 5", "small 10", "small 16")),
    *("kernel", "path relu", "path parts", "allocations", "tiles", "cameras"),
)
LIMITS = {
    "build": 170.0,
    "kernel": 60.0,
    "path": 110.0,
    "allocations": 30.0,
    "tiles": 40.0,
    "cameras": 60.0,
    "layout": 400.0,
}
"""Time limit per part, in seconds."""
LAYOUTS = tuple(f"layout {name} {precision}" for name in ("small", "relu") for precision in ("fp16", "int8"))
"""Parts that build two engines each, and run only if they are named."""


def build(name: str, batch: int, work: Path) -> dict[str, Any]:
    from importlib import resources

    from benchmarks.gpu_nets import relu_blocks
    from edgesparse.backends import BuildOptions, backend
    from edgesparse.backends.base import Limits

    path = work / f"{name}-{batch}.engine"
    if path.exists():
        return {"seconds": 0.0, "there": True}
    if name == "parts":
        model = Path(str(resources.files("edgesparse").joinpath("demo/parts_2to4.onnx")))
    else:
        model = relu_blocks(work / f"{name}-{batch}.onnx", name, batch)
    options = BuildOptions(precision="fp16", limits=Limits(level=1), detailed=False)
    result = backend("tensorrt").build(model, work / f"{name}-{batch}.part", options)
    result.path.rename(path)
    return {"seconds": round(result.seconds, 1), "device_memory": result.device_memory}


def part(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import gpu_cameras, gpu_layout, gpu_parts, gpu_tiles
    from benchmarks.gpu_kernel import kernel

    name, *more = options.part.split()
    work = options.work
    doing: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(more[0], int(more[1]), work),
        "kernel": lambda: kernel(work),
        "path": lambda: gpu_parts.path(more[0], work, options.frames),
        "allocations": lambda: gpu_parts.allocations("relu", work),
        "tiles": lambda: gpu_tiles.tiles(work),
        "cameras": lambda: gpu_cameras.cameras(work),
        "layout": lambda: gpu_layout.layout(more[0], more[1], work),
    }
    return doing[name]()


def once(options: argparse.Namespace, name: str, wait: bool = True) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--work", str(options.work)]
    command += ["--frames", str(options.frames), "--out", str(options.out)]
    begun, process = time.monotonic(), subprocess.Popen(command)
    if wait:
        finish(options, name, process, min(LIMITS[name.split()[0]], max(1.0, options.until - begun)))
    return process


def finish(options: argparse.Namespace, name: str, process: subprocess.Popen[bytes], limit: float) -> None:
    code = wait_or_kill(process, limit)
    if code != 0:
        why = f"took longer than {limit:.0f} s" if code is None else code
        keep(options, name, {"error": f"the part ended with {why}"})


def keep(options: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    print(json.dumps({name: result}, indent=1), flush=True)
    store_part(options.out / "gpu_path.json", __doc__ or "", name, result)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of results [a temporary one]")
    parser.add_argument("--work", type=Path, help="folder of engines, which are built unless they are there")
    parser.add_argument("--budget", type=float, default=400, help="seconds for all [%(default)s]")
    parser.add_argument("--only", action="append", metavar="PART", choices=(*PARTS, *LAYOUTS), help="may be repeated")
    parser.add_argument("--frames", type=int, default=10_000, help="that the whole path is timed on [%(default)s]")
    parser.add_argument("--save", action="store_true", help="results go to benchmarks/results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = RESULTS if options.save else options.out or Path(tempfile.mkdtemp())
    options.work = options.work or Path(tempfile.mkdtemp())
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("EDGESPARSE_STATE", str((options.work / "state").absolute()))
    if options.part:
        faulthandler.dump_traceback_later(LIMITS[options.part.split()[0]] - 5)  # show where it is when it is terminated
        try:
            keep(options, options.part, part(options))
        except Exception:
            traceback.print_exc()
            keep(options, options.part, {"error": traceback.format_exc(limit=-3).strip()[-700:]})
        return 0
    options.until = time.monotonic() + options.budget
    parts = options.only or PARTS
    # Builds run in parallel, since they mostly use the CPU; nothing is timed meanwhile.
    builds = [name for name in parts if name.startswith("build") and not built(options.work, name)]
    running = {name: once(options, name, wait=False) for name in builds}
    for name, process in running.items():
        finish(options, name, process, min(LIMITS["build"], max(1.0, options.until - time.monotonic())))
    for name in parts:
        if not name.startswith("build") and time.monotonic() < options.until:
            once(options, name)
    return 0


def built(work: Path, name: str) -> bool:
    _, net, batch = name.split()
    return (work / f"{net}-{batch}.engine").exists()


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of calibration: YOLOX-nano on the training images.

    python benchmarks/calibration.py [--real ../shared/real] [--images 160] [--save]

Each case runs in its own process, which reads the images itself; peak memory is that of the whole process. `layers`
covers the inputs of every layer that multiplies; `all` covers every activation, as TensorRT's table requires.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.detectors import YOLOX, images
from edgesparse.int8.calibration import CalibrationOptions, calibrate
from edgesparse.int8.observe import activations

CASES = (("layers", "entropy"), ("layers", "best"), ("all", "best"))


def measure(tensors: str, method: str, real: Path, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    model = onnx.load(real / "models" / "yolox_nano.onnx")
    batches = images(real / "coco_mini" / "train", count)
    names = activations(model) if tensors == "all" else None
    source = calibrate(model, batches, CalibrationOptions(method, spec=YOLOX.input), tensors=names)
    return {
        "tensors": len(source.ranges),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "warnings": list(source.warnings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--images", type=int, nargs="+", default=[20, 160])
    parser.add_argument("--save", action="store_true", help="Write results/calibration.json.")
    parser.add_argument("--inner", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        tensors, method = arguments.inner
        print(json.dumps(measure(tensors, method, arguments.real, arguments.images[0])))
        return
    results = {}
    for count in arguments.images:
        for case in CASES:
            command = [
                sys.executable,
                __file__,
                "--real",
                str(arguments.real),
                "--images",
                str(count),
                "--inner",
                *case,
            ]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[f"{count} images, {', '.join(case)}"] = json.loads(ran.stdout.splitlines()[-1])
    save("calibration", {**machine(), **results}, arguments.save)


if __name__ == "__main__":
    main()

"""Speed of the demo scene: frames per second of Scene.render, and stills per second.

    python benchmarks/scene.py [--save] [--seconds 5] [--height 480] [--width 640] [--threads N]

There is no peer; the requirement is 60 frames per second at 640x480 on two cores, so that a demo never waits for its
images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edgesparse.demo.scene import Scene, still

RESULT = Path(__file__).parent / "results" / "scene.json"


def rate(draw: Callable[[], object], seconds: float) -> dict[str, float]:
    """Calls per second over at least `seconds`, percentiles per call in milliseconds, and CPU time per call over all
    threads, which is meaningful even on a busy machine."""
    times: list[float] = []
    used = time.process_time()
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        draw()
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, (50, 99)) * 1000
    return {
        "per_second": round(len(times) / sum(times), 1),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "max_ms": round(max(times) * 1000, 3),
        "cpu_ms": round((time.process_time() - used) * 1000 / len(times), 3),
        "calls": len(times),
    }


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure(seconds: float, height: int, width: int) -> dict[str, object]:
    for seed in range(40):  # each shape is drawn once and cached
        still(seed, height=height, width=width)
    scene, out = Scene(0, height=height, width=width), np.empty((height, width, 3), np.uint8)
    seeds = iter(range(10**9))
    return {
        "command": " ".join(["python", "benchmarks/scene.py", *sys.argv[1:]]),
        "device": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "opencv_threads": cv2.getNumThreads(),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "opencv": cv2.__version__},
        "frame": [height, width],
        "render": rate(lambda: scene.render(out), seconds),
        "still": rate(lambda: still(next(seeds), height=height, width=width), seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"also write {RESULT.parent.name}/{RESULT.name}")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to time each")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--threads", type=int, help="OpenCV threads [default: OpenCV's]")
    args = parser.parse_args()
    if args.threads is not None:
        cv2.setNumThreads(args.threads)
    text = json.dumps(measure(args.seconds, args.height, args.width), indent=2)
    print(text)
    if args.save:
        RESULT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

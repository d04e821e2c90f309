"""How long a user waits from starting apps/detect.py on a finished package to the first line of detections.

    python benchmarks/cold_start.py [--real ../shared/real] [--runs 10] [--save]

Each run is a new process; the clock starts before the process does. Prints JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.builder.targets import ready

HERE = Path(__file__).resolve().parent


def first_line(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.communicate()
    if '"detections": [{' not in line:
        raise SystemExit(f"the first line holds no detection: {line[:200]!r}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    package = ready(options.real / "models" / "yolox_nano.onnx", HERE / "scratch", names="coco")
    video = options.real / "video" / "bottle-detection.mp4"
    app = HERE.parent / "apps" / "detect.py"
    command = [sys.executable, str(app), "--model", str(package.folder), "--source", str(video), "--frames", "1"]
    seconds = sorted(first_line(command) for _ in range(options.runs))
    result = {
        **machine(),
        "runs": options.runs,
        "seconds": [round(value, 3) for value in seconds],
        "worst": seconds[-1],
    }
    save("cold_start", result, options.save)


if __name__ == "__main__":
    main()

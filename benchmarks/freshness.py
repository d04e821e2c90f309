"""Age of frames when the engine is slower than the camera: edgesparse against OpenCV's plain loop.

    python benchmarks/freshness.py [--minutes 10] [--real ../shared/real] [--save]

The plain loop is what most scripts use: `while True: ok, frame = capture.read(); detect(frame)`. Both read the same
RTSP camera on the loopback interface (10 frames per second) at the same time, each in its own process, with an engine
that sleeps for one and a half frame periods. Every image contains its number, so its age is measured from the time the
camera sent it. Prints JSON: the median age in the last ten seconds of each minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.rig import FPS, NUMBERS, Rig, numbered_video, read_number
from edgesparse.stream.sources.open import open_source

HERE = Path(__file__).resolve().parent
ENGINE_SECONDS = 1.5 / FPS
LAST_SECONDS = 10.0


def plain(url: str) -> Iterator[NDArray[np.uint8]]:
    """OpenCV's capture as most scripts use it; reopened when it ends."""
    capture = cv2.VideoCapture(url)
    while True:
        has_frame, frame = capture.read()
        if not has_frame:
            capture = cv2.VideoCapture(url)
            continue
        yield np.asarray(frame, np.uint8)


def edgesparse(url: str) -> Iterator[NDArray[np.uint8]]:
    with open_source(url) as source:
        for frame in source:
            yield frame.image


def watch(reader: str, url: str, table: Path, seconds: float) -> None:
    """Run one of the two processes: print, for each frame, the seconds since the start and the frame's age in
    milliseconds."""
    sent = np.memmap(table, np.int64, "r", shape=(1, NUMBERS))
    started, rows = time.monotonic(), []
    for frame in (plain if reader == "plain" else edgesparse)(url):
        time.sleep(ENGINE_SECONDS)
        now = time.monotonic_ns()
        rows.append((now / 1e9 - started, (now - int(sent[0, read_number(frame)])) / 1e6))
        if rows[-1][0] > seconds:
            break
    print(json.dumps(rows))


def by_minute(rows: NDArray[np.float64], minutes: float) -> list[float | None]:
    """Median age in milliseconds in the last ten seconds of each minute; None if there was no frame."""
    ends = [60.0 * (n + 1) for n in range(int(minutes))] or [60 * minutes]
    last = [rows[(rows[:, 0] > end - LAST_SECONDS) & (rows[:, 0] <= end), 1] for end in ends]
    return [round(float(np.median(ages)), 1) if len(ages) else None for ages in last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--videos", type=Path, default=HERE / "scratch", help="where the encoded video is kept")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--watch", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        reader, url, table, seconds = options.watch
        watch(reader, url, Path(table), float(seconds))
        return
    options.videos.mkdir(exist_ok=True)
    original = options.real / "video" / "one-by-one-person-detection.mp4"
    video = numbered_video(original, options.videos / "long.mp4", (640, 360), NUMBERS)
    with tempfile.TemporaryDirectory() as folder, Rig({"cam-0": video}, Path(folder)) as rig:
        command = [sys.executable, __file__, "--watch"]
        arguments = [rig.server.url_of("cam-0"), str(Path(folder) / "times.bin"), str(60 * options.minutes)]
        readers = {
            reader: subprocess.Popen([*command, reader, *arguments], stdout=subprocess.PIPE, text=True)
            for reader in ("plain", "edgesparse")
        }
        ages = {reader: np.array(json.loads(process.communicate()[0])) for reader, process in readers.items()}
    result = {
        **machine(),
        "camera_fps": FPS,
        "engine_ms": 1e3 * ENGINE_SECONDS,
        "opencv": cv2.__version__,
        "age_ms_by_minute": {reader: by_minute(rows, options.minutes) for reader, rows in ages.items()},
        "frames": {reader: len(rows) for reader, rows in ages.items()},
    }
    save("freshness", result, options.save)


if __name__ == "__main__":
    main()

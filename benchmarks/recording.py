"""Milliseconds of CPU per image that `--video` takes for each format: the source of the table in docs/guide/cameras.md.

    python benchmarks/recording.py [--size HEIGHT WIDTH] [--frames N] [--save]

For an image that does not change, and for the demo scene: everything moves, with the noise of a sensor, which VP8 takes
longest for. Time is that of all threads on the CPU, so that other load on the machine hardly changes it; the median of
three recordings. `.mp4` has H.264 if GStreamer has an encoder for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.demo.scene import Scene
from edgesparse.stream.frames import Image
from edgesparse.stream.recording.h264 import h264_here
from edgesparse.stream.sinks.recorder import FORMATS, Recorder

FPS, RUNS = 30, 3


def milliseconds(path: Path, images: Sequence[Image]) -> float:
    """CPU time per image of one recording."""
    begin = time.process_time()
    recorder = Recorder(path, FPS, force=True)
    for number, image in enumerate(images):
        recorder.add(image, number * 10**9 // FPS)
    recorder.close()
    return 1e3 * (time.process_time() - begin) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/recording.json")
    options = parser.parse_args()
    scene = Scene(0, height=options.size[0], width=options.size[1])
    images = [scene.render()[0].copy() for _ in range(options.frames)]
    with tempfile.TemporaryDirectory() as folder:
        times = {
            suffix: {
                content: round(median(milliseconds(Path(folder) / f"video{suffix}", shown) for _ in range(RUNS)), 2)
                for content, shown in (("still", images[:1] * options.frames), ("noisy", images))
            }
            for suffix in FORMATS
        }
    result = {**machine(), "size": list(options.size), "frames": options.frames}
    save("recording", {**result, "h264": h264_here()[0], "cpu_ms_per_image": times}, options.save)


if __name__ == "__main__":
    main()

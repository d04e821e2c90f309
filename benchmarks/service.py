"""Cost of the service in the frame loop: compared with the loop alone, with a viewer, and under a flood of requests.

    python benchmarks/service.py [--frames 150] [--rounds 3] [--save]

Frames of the demo scene at 1920x1080 in memory, the default detector on one thread. Conditions are interleaved;
visitors are separate processes, on loopback. Prints milliseconds per frame, the ratio to the loop alone, and the
observer's microseconds per frame, as JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.builder.build import build
from edgesparse.builder.targets import DEMO, recipe_of
from edgesparse.config import ONLY, Camera
from edgesparse.runtime.detections import Detections
from edgesparse.service import engine as engines
from edgesparse.service.notify import Notify
from edgesparse.service.parts import Parts
from edgesparse.service.settings import ServiceSettings, WebSettings
from edgesparse.stream.cameras import Feed
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sources.memory import scene_frames

PORT = 18080
VIEWER = """
import sys, time, urllib.request
number = 0
while True:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/camera/camera.jpg?after={number}") as answer:
        number = int(answer.headers.get("X-Snapshot") or number)
    time.sleep(0.1)
"""
FLOOD = """
import socket, sys, threading
def ask():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as wire:
                wire.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
                while wire.recv(65536): pass
        except OSError:
            pass
threads = [threading.Thread(target=ask) for _ in range(16)]
[thread.start() for thread in threads]
"""


class Stamps(Sink):
    """Records when each frame was finished."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def write(self, frame: Frame, detections: Detections) -> None:
        self.at.append(time.perf_counter())

    def close(self) -> None:
        pass


@contextmanager
def visitors(program: str | None) -> Iterator[None]:
    if program is None:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", program, str(PORT)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


def milliseconds(loop: Loop, frames: int) -> list[float]:
    stamps = Stamps()
    loop.sinks = [*loop.sinks, stamps]
    try:
        loop.run(frames)
    finally:
        loop.sinks = loop.sinks[:-1]
    return [1e3 * float(gap) for gap in np.diff(stamps.at)]


def observer_microseconds(parts: Parts, frame: Frame, detections: Detections, count: int = 2000) -> float:
    """Return the microseconds that Watch.frame takes while nobody views a camera."""
    feed_status = parts.health.cameras[0]
    row = np.full(8, 1_000_000, np.int64)
    begin = time.perf_counter()
    for _ in range(count):
        parts.watch.frame(feed_status, frame, detections, row)
    return 1e6 * (time.perf_counter() - begin) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    recipe = recipe_of(DEMO)
    recipe = recipe.model_copy(update={"build": recipe.build.model_copy(update={"threads": 1})})
    with tempfile.TemporaryDirectory() as store:
        package = build(recipe, Path(store), make_current=False).package
        run = package.manifest.run.model_copy(update={"source": "demo"})
        loaded = engines.load(package, run)
        result = measure(loaded, options.frames, options.rounds)
        loaded.detector.close()
    save("service", {**machine(), **result}, options.save)


def measure(loaded: engines.LoadedEngine, frames: int, rounds: int) -> dict[str, Any]:
    detector, source = loaded.detector, scene_frames()
    feed = Feed(Camera(name=ONLY, source="demo"), source, loaded.run, detector.spec.classes)
    alone = Loop([feed], detector)
    parts = Parts(ServiceSettings(web=WebSettings(port=PORT)), loaded, Notify({}))
    served = Loop([feed], detector, [parts.outputs], observer=parts.watch)
    conditions = {
        "the loop alone": (alone, None),
        "the service, no viewer": (served, None),
        "one viewer": (served, VIEWER),
        "16 visitors request /metrics as fast as they can": (served, FLOOD),
    }
    milliseconds(served, 30)
    times: dict[str, list[float]] = {name: [] for name in conditions}
    for _ in range(rounds):
        for name, (loop, program) in conditions.items():
            with visitors(program):
                times[name] += milliseconds(loop, frames)
    frame = source.read()
    frame.source = ONLY
    observer = observer_microseconds(parts, frame, detector(frame.image))
    parts.close()
    base = float(np.median(times["the loop alone"]))
    return {
        "frames": frames * rounds,
        "size": "1920x1080",
        "cores": len(os.sched_getaffinity(0)),
        "observer_us": round(observer, 1),
        "ms_per_frame": {
            name: {
                "median": round(float(np.median(values)), 2),
                "p99": round(float(np.percentile(values, 99)), 2),
                "ratio": round(float(np.median(values)) / base, 3),
            }
            for name, values in times.items()
        },
    }


if __name__ == "__main__":
    main()

"""Requests per second over HTTP, and the age of a camera's frames beside them.

    python benchmarks/http_inference.py [--seconds 8] [--rounds 3] [--save]

One camera at 30 frames per second and 640x480 (the demo scene) in the service's frame loop; in a second process,
clients that each send a JPEG of 640x480 again as soon as they have their answer. The engine sleeps for 10 ms per batch,
in place of one on a GPU, with batch 1 and 4; and the default detector runs on one thread of the CPU, where clients and
engine also compete for the cores. Conditions are interleaved. Prints, per engine and number of clients: images answered
and refused per second, milliseconds per request, and rate and age (capture to detections, ms) of the camera's frames.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.backends import backend
from edgesparse.builder.build import build
from edgesparse.builder.targets import DEMO, open_detector, recipe_of
from edgesparse.config import ONLY, Camera, DetectorSpec, InputSpec
from edgesparse.demo.scene import Scene
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.service.settings import WebSettings
from edgesparse.service.web.server import Web
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop

PORT = 18081
CLIENTS = (0, 1, 4, 16, 48)
ENGINE_MS = 10
CLIENT = """
import http.client, json, sys, threading, time
port, count, seconds, image = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), open(sys.argv[4], "rb").read()
times, statuses, end = [], {}, time.monotonic() + seconds
def ask():
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    while (begin := time.monotonic()) < end:
        wire.request("POST", "/v1/detect", image, {"Content-Type": "image/jpeg"})
        answer = wire.getresponse()
        answer.read()
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        if answer.status == 200:
            times.append(time.monotonic() - begin)
        else:
            time.sleep(float(answer.headers.get("Retry-After", 0)))
threads = [threading.Thread(target=ask) for _ in range(count)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"times": times, "statuses": statuses}))
"""


class Ages:
    """An Observer that keeps the age of each frame in milliseconds."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        self.ms.append(row[7] / 1e6)
        return 0.0

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        pass


class Served:
    """A frame loop with one camera, or none, and the web server that answers requests with it."""

    def __init__(self, detector: Detector, camera: bool = True) -> None:
        self._detector, self._ages, self._stop = detector, Ages(), threading.Event()
        cameras = [Camera(name=ONLY, source="demo", fps=30)] if camera else []
        self.loop = Loop.of(cameras, detector, observer=self._ages, stop=self._stop)
        self.thread = threading.Thread(target=self.loop.run)

    def measure(self, clients: int, seconds: float, image: Path) -> dict[str, Any]:
        """Returns raw figures of one condition."""
        report: Any = SimpleNamespace(
            health=SimpleNamespace(judge=lambda: SimpleNamespace(why=""), cameras=()),
            governor=SimpleNamespace(share=1.0, why=""),
            identity=SimpleNamespace(model="model", package="package", backend="null"),
            requests=self.loop.requests,
            refusals={},
        )
        web = Web(WebSettings(port=PORT), report, Path)
        try:
            command = [sys.executable, "-c", CLIENT, str(PORT), str(clients), str(seconds), str(image)]
            time.sleep(0.5)
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            self._ages.ms.clear()
            begin = time.monotonic()
            if clients:
                answers = json.loads(process.communicate()[0])
            else:
                process.wait()
                time.sleep(seconds)
                answers = {"times": [], "statuses": {}}
            return {**answers, "ages": list(self._ages.ms), "seconds": time.monotonic() - begin}
        finally:
            web.close()

    def close(self) -> None:
        self._stop.set()
        self.thread.join()
        self.loop.close()


def sleeping(folder: Path, batch: int) -> Detector:
    """An engine that takes ENGINE_MS per batch, and detects one object in each image."""
    boxes = [[100, 100, 200, 200, 0.9, 0]]
    plan = {
        "inputs": [["images", [batch, 3, 640, 640], "float32"]],
        "outputs": [["output0", [batch, 1, 6], "float32"]],
        "values": {"output0": [boxes] * batch},
        "seconds": ENGINE_MS / 1000,
    }
    path = folder / f"plan-{batch}.json"
    path.write_text(json.dumps(plan))
    spec = DetectorSpec(head="end2end", classes=("part",), input=InputSpec(size=(640, 640)))
    return Detector(backend("null").load(path), spec)


def on_cpu(folder: Path) -> Detector:
    recipe = recipe_of(DEMO)
    recipe = recipe.model_copy(update={"build": recipe.build.model_copy(update={"threads": 1})})
    package = build(recipe, folder, make_current=False).package
    return open_detector(package, package.manifest.run)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of all rounds of one condition together."""
    seconds = sum(each["seconds"] for each in rounds)
    ages = [age for each in rounds for age in each["ages"]]
    times = [1000 * value for each in rounds for value in each["times"]]
    refused = sum(n for each in rounds for status, n in each["statuses"].items() if status != "200")
    figures = {"answered_per_s": len(times) / seconds, "refused_per_s": refused / seconds}
    for name, values in (("request_ms", times), ("camera_age_ms", ages)):
        if values:
            figures |= {f"{name}_p{p}": float(np.percentile(values, p)) for p in (50, 99)}
    figures["camera_fps"] = len(ages) / seconds
    return {name: round(value, 1) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cv2.imwrite(str(folder / "image.jpg"), Scene(0, height=480, width=640).render()[0])
        engines = {
            f"{ENGINE_MS} ms, batch 1": (sleeping(folder, 1), True),
            f"{ENGINE_MS} ms, batch 4": (sleeping(folder, 4), True),
            f"{ENGINE_MS} ms, batch 4, no camera": (sleeping(folder, 4), False),
            "the default detector on a thread of the CPU": (on_cpu(folder), True),
        }
        raw: dict[str, dict[int, list[dict[str, Any]]]] = {key: {n: [] for n in CLIENTS} for key in engines}
        for _ in range(options.rounds):
            for key, (detector, camera) in engines.items():
                with ExitStack() as stack:
                    served = Served(detector, camera)
                    served.thread.start()
                    stack.callback(served.close)
                    for clients in CLIENTS:
                        raw[key][clients].append(served.measure(clients, options.seconds, folder / "image.jpg"))
    results = {
        key: {f"{n} clients": summary(rounds) for n, rounds in by_clients.items()} for key, by_clients in raw.items()
    }
    save("http_inference", {**machine(), "results": results}, options.save)


if __name__ == "__main__":
    main()

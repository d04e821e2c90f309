"""Eight cameras on one engine for half an hour, while server, cameras and network fail.

    python benchmarks/soak.py [--minutes 30] [--cameras 8] [--real ../shared/real] [--out FOLDER] [--save]

Real video over GStreamer's RTSP server on the loopback interface, 640x360 at 10 frames per second. Every image contains
its number, so its age is measured from the time the camera sent it. One after another, the server is killed, cameras
freeze, go silent, send garbage or change size, and the network delays or corrupts packets or drops connections. In the
last fifth of the time nothing fails, but the engine has only half of the speed that all cameras need. The engine is the
null backend, which only sleeps. Around the loop is everything that the service has: the web page, MQTT, a webhook and
JSON lines, attacked throughout by hostile visitors, a hostile broker and a hostile webhook server (hostile.py). Prints
JSON with the requirements that are met; exit code 1 if one is not. soak.json and the plot soak.svg are written to OUT
and, with --save, to results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from benchmarks.rig import FPS, Rig, numbered_video
from benchmarks.soak_judge import ENGINE_SECONDS, FAILURES, Failure, Lost, Measured, judge
from benchmarks.soak_plot import plot
from benchmarks.soak_service import beside
from edgesparse.backends import backend
from edgesparse.config import Camera, DetectorSpec, InputSpec
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.service.watch import Watch as ServiceWatch
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop

HERE = Path(__file__).resolve().parent
SIZE, SMALL = (640, 360), (480, 270)
GAP = 2.5
"""Seconds between the end of a failure and the next."""


class Watch:
    """An observer that records the age of every frame and forwards each call to the service's observer."""

    def __init__(self, rig: Rig, frames: int, service: ServiceWatch) -> None:
        self._rig, self._service = rig, service
        # Written to immediately, so that recording allocates no memory.
        self.frames: NDArray[np.float64] = np.full((frames, 4), 0.0)
        self.count = 0
        self.lost: list[Lost] = []
        self._states: dict[str, str] = {}

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        number = int(camera.name.rpartition("-")[2])
        done = frame.time_ns + int(row[7])
        sent = self._rig.sent_ns(number, frame.image) or frame.time_ns  # a broken image's number was never sent
        self.frames[self.count] = number, done / 1e9, row[7] / 1e9, (done - sent) / 1e9
        self.count += 1
        return self._service.frame(camera, frame, detections, row)

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        self._service.update(cameras)
        for camera in cameras:
            if camera.state == "away" and self._states.get(camera.name) != "away":
                self.lost.append((camera.name, camera.since_ns / 1e9, camera.why))
            self._states[camera.name] = camera.state


class Sampler(threading.Thread):
    """Records memory, descriptors and threads once per second, and the memory of the capture processes."""

    def __init__(self, seconds: int) -> None:
        super().__init__(daemon=True)
        self.rows: NDArray[np.float64] = np.full((seconds, 5), 0.0)
        self.count = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(1.0) and self.count < len(self.rows):
            previous = self.rows[self.count - 1, 4]
            isolated = sum(map(proportional_mb, capture_processes())) if self.count % 5 == 0 else previous
            self.rows[self.count] = time.monotonic(), resident_mb(), descriptors(), threads(), isolated
            self.count += 1


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def proportional_mb(process: str) -> float:
    """Pages shared by several processes count once."""
    with suppress(OSError):
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        return int(match[1]) / 1000 if match else 0.0
    return 0.0


def capture_processes() -> list[str]:
    """The fork server and the captures."""
    servers = [p for p in children("self") if b"fork_server" in Path(f"/proc/{p}/cmdline").read_bytes()]
    return servers + [child for process in servers for child in children(process)]


def children(process: str) -> list[str]:
    return [
        child for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def engine(folder: Path, seconds: float) -> Detector:
    """A detector on the null backend, with two boxes in each frame."""
    boxes = [[40, 40, 120, 200, 0.9, 0], [150, 60, 220, 180, 0.8, 0]]
    plan = {
        "inputs": [["images", [1, 3, 320, 320], "float32"]],
        "outputs": [["output0", [1, 2, 6], "float32"]],
        "values": {"output0": [boxes]},
        "seconds": seconds,
    }
    path = folder / f"engine-{seconds}.json"
    path.write_text(json.dumps(plan))
    spec = DetectorSpec(head="end2end", classes=("thing",), input=InputSpec(size=(320, 320)))
    return Detector(backend("null").load(path), spec)


class Failures(threading.Thread):
    """Makes the cameras fail, one after another or all, until `stop`."""

    def __init__(self, rig: Rig, cameras: int, small: dict[int, Path], large: dict[int, Path]) -> None:
        super().__init__(daemon=True)
        self._rig, self._cameras, self._videos = rig, cameras, (large, small)
        self.stop = threading.Event()
        self.done: list[Failure] = []
        self.error: BaseException | None = None
        self._random = random.Random(0)
        self._sizes = [0] * cameras

    def run(self) -> None:
        self.stop.wait(GAP)
        number = 0
        try:
            while not self.stop.is_set():
                for kind, seconds in FAILURES.items():
                    number = (number + 1) % self._cameras
                    self._fail(kind, number, seconds)
                    if self.stop.wait(GAP + self._random.random()):
                        break
        except BaseException as error:
            self.error = error

    def _fail(self, kind: str, number: int, seconds: float) -> None:
        rig, name = self._rig, f"cam-{number}"
        all_of_them = kind == "kill"
        failure = Failure(kind, tuple(range(self._cameras)) if all_of_them else (number,), time.monotonic())
        if all_of_them:
            rig.server.kill()
            self.stop.wait(seconds)
            rig.server.start()
        elif kind == "size":
            self._sizes[number] ^= 1
            rig.server.tell("video", name, self._videos[self._sizes[number]][number])
        elif kind in ("hold", "garble", "cut"):
            rig.network(kind, number)
            self.stop.wait(seconds)
            rig.network("pass", number)
        else:
            rig.server.tell(kind, name)
            self.stop.wait(seconds)
            rig.server.tell("play", name)
        failure.over = time.monotonic()
        self.done.append(failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--videos", type=Path, default=HERE / "scratch", help="where the encoded videos are kept")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        result, images = soak(options.minutes * 60, options.cameras, options.real, options.videos, Path(folder))
    text = json.dumps(result, indent=2)
    print(text)
    for place in (options.out, RESULTS if options.save else None):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            (place / "soak.json").write_text(text + "\n")
            (place / "soak.svg").write_text(images)
    sys.exit(0 if all(result["holds"].values()) else 1)


def soak(seconds: float, cameras: int, real: Path, scratch: Path, folder: Path) -> tuple[dict[str, Any], str]:
    scratch.mkdir(exist_ok=True)
    films = sorted((real / "video").glob("*.mp4"))
    large, small = (
        {n: numbered_video(films[n % 2], scratch / f"{n % 2}-{w}x{h}.mp4", (w, h), 30 * FPS) for n in range(cameras)}
        for w, h in (SIZE, SMALL)
    )
    quick, slow = engine(folder, ENGINE_SECONDS), engine(folder, 2 / (cameras * FPS))
    frames = int(2 * seconds * cameras * FPS) + 1000
    with Rig({f"cam-{n}": large[n] for n in range(cameras)}, folder) as rig:
        settings = [Camera(name=f"cam-{n}", source=rig.url(n)) for n in range(cameras)]
        warm_up(settings[0], quick)
        before = descriptors(), threads()
        sampler, stop = Sampler(int(seconds) + 60), threading.Event()
        failures = Failures(rig, cameras, small, large)
        with beside(quick, folder) as attacked:
            watch = Watch(rig, frames, attacked.parts.watch)
            started = time.monotonic()
            sampler.start()
            with Loop.of(settings, quick, [attacked.parts.outputs], observer=watch, stop=stop) as loop:
                script = threading.Thread(target=direct, args=(loop, failures, stop, seconds, settings, slow))
                script.start()
                summary = loop.run()
                script.join()
                sampler.stop.set()
                sampler.join()
        left = settled(before)
    if failures.error is not None:
        raise failures.error
    measured = Measured(
        frames=watch.frames[: watch.count],
        samples=sampler.rows[: sampler.count],
        lost=watch.lost,
        failures=failures.done,
        started=started,
        switched=started + 0.8 * seconds,
    )
    result = judge(measured, cameras, left, attacked.result)
    return {**machine(), **result, "frames": summary.frames, "dropped": summary.dropped}, plot(measured)


def direct(
    loop: Loop, failures: Failures, stop: threading.Event, seconds: float, settings: Sequence[Camera], slow: Detector
) -> None:
    """Failures for four fifths of the time, then the slow engine."""
    failures.start()
    time.sleep(0.8 * seconds - GAP)
    failures.stop.set()
    failures.join()
    time.sleep(GAP)
    loop.replace(settings, slow)
    time.sleep(0.2 * seconds)
    stop.set()


def warm_up(camera: Camera, detector: Detector) -> None:
    """Let libraries start their permanent threads and descriptors, so that these do not count as leaks."""
    with Loop.of([camera], detector) as loop:
        loop.run(limit=20)


def settled(before: tuple[int, int]) -> dict[str, int]:
    """Additional descriptors and threads, once drivers have had time to return: an opener that hangs has 10 s, and what
    it then leaves in cycles must be collected."""
    for _ in range(40):
        gc.collect()
        if descriptors() <= before[0] and threads() <= before[1]:
            break
        time.sleep(0.5)
    else:
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        names = [thread.name for thread in threading.enumerate()]
        print(f"left over, of {before} before: {links}, {names}", file=sys.stderr)
    return {"descriptors": descriptors() - before[0], "threads": threads() - before[1]}


if __name__ == "__main__":
    main()

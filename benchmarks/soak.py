"""Eight cameras on one engine for half an hour, while server, cameras and network fail.

    python benchmarks/soak.py [--minutes 30] [--cameras 8] [--real ../shared/real] [--out FOLDER] [--save]

Real video over GStreamer's RTSP server on the loopback, 640x360 at 10 frames a second, every picture with its number in
it, so that its age counts from when the camera handed it over. One after another the server is killed, cameras freeze,
fall silent, send garbage, change their size, the network holds packets back, garbles them, cuts connections. In the
last fifth nothing fails, and the engine is twice too slow for all. The engine is the null backend's: it answers at once
and sleeps. What must hold is judged at the end; exit code 1 where it does not. Prints JSON; OUT gets soak.json and the
plot soak.svg; with --save, results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from benchmarks.rig import FPS, Rig, numbered_video
from benchmarks.soak_plot import plot
from edgesparse.backends import backend
from edgesparse.config import Camera, DetectorSpec, InputSpec
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop

HERE = Path(__file__).resolve().parent
ENGINE_SECONDS = 0.004
PERIOD = 1 / FPS
SIZE, SMALL = (640, 360), (480, 270)
GAP = 3.0
"""Seconds between the end of a failure and the next."""
FAILURES = {
    "kill": 3.0,
    "freeze": 5.0,
    "stall": 4.0,
    "garbage": 3.0,
    "size": 1.0,
    "hold": 1.0,
    "garble": 2.0,
    "cut": 0.0,
}
"""How many seconds each lasts."""
BACK = 2.0
"""Seconds within which a camera must be back."""


@dataclass
class Failure:
    """Times on the monotonic clock, in seconds."""

    kind: str
    cameras: tuple[int, ...]
    begun: float
    over: float = 0.0


class Watch:
    """The observer: notes every frame's age and, each second, memory, descriptors and threads."""

    def __init__(self, rig: Rig, frames: int, seconds: int) -> None:
        self._rig = rig
        # Written to at once, so that noting takes no memory.
        self.frames: NDArray[np.float64] = np.full((frames, 4), 0.0)
        self.samples: NDArray[np.float64] = np.full((seconds, 4), 0.0)
        self.count = self.sampled = 0
        self.lost: list[tuple[str, float, str]] = []
        self._states: dict[str, str] = {}

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> None:
        number = int(camera.name.rpartition("-")[2])
        done = frame.time_ns + int(row[7])
        sent = self._rig.sent_ns(number, frame.image)
        self.frames[self.count] = number, done / 1e9, row[7] / 1e9, (done - sent) / 1e9
        self.count += 1

    def turn(self, cameras: Sequence[CameraStatus]) -> None:
        for camera in cameras:
            if camera.state == "away" and self._states.get(camera.name) != "away":
                self.lost.append((camera.name, camera.since_ns / 1e9, camera.why))
            self._states[camera.name] = camera.state
        now = time.monotonic()
        if self.sampled == 0 or now - self.samples[self.sampled - 1, 0] >= 1:
            self.samples[self.sampled] = now, resident_mb(), descriptors(), threads()
            self.sampled += 1


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def engine(folder: Path, seconds: float) -> Detector:
    """The null backend's, with two boxes in each frame."""
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
    """Makes one camera, or all, fail after another, until `stop`."""

    def __init__(self, rig: Rig, cameras: int, small: dict[int, Path], whole: dict[int, Path]) -> None:
        super().__init__(daemon=True)
        self._rig, self._cameras, self._videos = rig, cameras, (whole, small)
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
    parser.add_argument("--videos", type=Path, default=HERE / "scratch", help="where the coded videos are kept")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--save", action="store_true")
    said = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        result, pictures = soak(said.minutes * 60, said.cameras, said.real, said.videos, Path(folder))
    text = json.dumps(result, indent=2)
    print(text)
    for place in (said.out, RESULTS if said.save else None):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            (place / "soak.json").write_text(text + "\n")
            (place / "soak.svg").write_text(pictures)
    sys.exit(0 if all(result["holds"].values()) else 1)


def soak(seconds: float, cameras: int, real: Path, scratch: Path, folder: Path) -> tuple[dict[str, Any], str]:
    scratch.mkdir(exist_ok=True)
    films = sorted((real / "video").glob("*.mp4"))
    whole, small = (
        {n: numbered_video(films[n % 2], scratch / f"{n % 2}-{w}x{h}.mp4", (w, h), 30 * FPS) for n in range(cameras)}
        for w, h in (SIZE, SMALL)
    )
    quick, slow = engine(folder, ENGINE_SECONDS), engine(folder, 2 / (cameras * FPS))
    frames = int(2 * seconds * cameras * FPS) + 1000
    with Rig({f"cam-{n}": whole[n] for n in range(cameras)}, folder) as rig:
        settings = [Camera(name=f"cam-{n}", source=rig.url(n)) for n in range(cameras)]
        warm_up(settings[0], quick)
        before = descriptors(), threads()
        watch, stop = Watch(rig, frames, int(seconds) + 60), threading.Event()
        failures = Failures(rig, cameras, small, whole)
        begun = time.monotonic()
        with Loop.of(settings, quick, observer=watch, stop=stop) as loop:
            acts = threading.Thread(target=direct, args=(loop, failures, stop, seconds, settings, slow), daemon=True)
            acts.start()
            summary = loop.run()
            acts.join()
        left = settled(before)
    if failures.error is not None:
        raise failures.error
    switched = begun + 0.8 * seconds
    result = judge(watch, failures.done, (begun, switched), cameras, left)
    return {**machine(), **result, "frames": summary.frames, "dropped": summary.dropped}, plot(
        watch.frames[: watch.count], watch.samples[: watch.sampled], failures.done, begun, switched
    )


def direct(
    loop: Loop, failures: Failures, stop: threading.Event, seconds: float, settings: Sequence[Camera], slow: Detector
) -> None:
    """Four fifths of the time failures, then the slow engine."""
    failures.start()
    time.sleep(0.8 * seconds - GAP)
    failures.stop.set()
    failures.join()
    time.sleep(GAP)
    loop.replace(settings, slow)
    time.sleep(0.2 * seconds)
    stop.set()


def warm_up(camera: Camera, detector: Detector) -> None:
    """What libraries start once, and keep, does not count as left over."""
    with Loop.of([camera], detector) as loop:
        loop.run(limit=20)


def settled(before: tuple[int, int]) -> dict[str, int]:
    """Descriptors and threads more than before, once drivers had their time to come back."""
    gc.collect()
    for _ in range(100):
        if descriptors() <= before[0] and threads() <= before[1]:
            break
        time.sleep(0.1)
    return {"descriptors": descriptors() - before[0], "threads": threads() - before[1]}


def judge(
    watch: Watch, failures: Sequence[Failure], times: tuple[float, float], cameras: int, left: dict[str, int]
) -> dict[str, Any]:
    begun, switched = times
    frames, samples = watch.frames[: watch.count], watch.samples[: watch.sampled]
    healthy, loaded = frames[frames[:, 1] < switched], frames[frames[:, 1] > switched + 5]
    calm = healthy[undisturbed(healthy, failures)]
    backs = {kind: recovery(kind, failures, healthy, watch.lost) for kind in FAILURES}
    steady = samples[(samples[:, 0] > begun + min(120.0, 0.4 * (switched - begun))) & (samples[:, 0] < switched)]
    shares = [int((loaded[:, 0] == n).sum()) for n in range(cameras)]
    overload = {"frames": shares, "least_to_most": round(min(shares) / max(1, *shares), 3), "age": ages(loaded)}
    limit = 2 * PERIOD + ENGINE_SECONDS
    memory = {"least": round(float(steady[:, 1].min()), 1), "most": round(float(steady[:, 1].max()), 1)}
    worst = max((b["back_s"]["most"] for b in backs.values() if b["count"]), default=0.0)
    return {
        "minutes": round((samples[-1, 0] - begun) / 60, 2),
        "cameras": cameras,
        "engine_ms": 1e3 * ENGINE_SECONDS,
        "failures": backs,
        "age_while_nothing_fails": ages(calm),
        "age_of_every_frame": ages(healthy),
        "age_limit_ms": 1e3 * limit,
        "twice_too_many": overload,
        "resident_mb": memory,
        "left_over": left,
        "holds": {
            "back_within_two_seconds": worst <= BACK,
            "noticed_within_two_seconds": all(b["noticed_s"] <= BACK + 0.1 for b in backs.values()),
            "age_p99": bool(ages(calm)["p99_ms"] <= 1e3 * limit),
            "evenly_shared": overload["least_to_most"] >= 0.9,
            "none_grows_old": bool(ages(loaded)["p99_ms"] <= 1e3 * (2 * PERIOD + 2 / (cameras * FPS))),
            "memory_flat": memory["most"] - memory["least"] <= 20,
            "nothing_left_over": max(left.values()) <= 0,
        },
    }


def undisturbed(frames: NDArray[np.float64], failures: Sequence[Failure]) -> NDArray[np.bool_]:
    """Which frames came while their camera neither failed nor was just back."""
    calm = np.ones(len(frames), bool)
    for failure in failures:
        near = (frames[:, 1] > failure.begun) & (frames[:, 1] < failure.over + BACK)
        calm &= ~(near & np.isin(frames[:, 0], failure.cameras))
    return calm


def recovery(
    kind: str, failures: Sequence[Failure], frames: NDArray[np.float64], lost: Sequence[tuple[str, float, str]]
) -> dict[str, Any]:
    """For one kind of failure: how often, how long until it was noticed, at most, and until each camera was back."""
    noticed, back, count = [0.0], [], 0
    for failure in failures:
        if failure.kind != kind:
            continue
        count += 1
        for number in failure.cameras:
            own = frames[(frames[:, 0] == number) & (frames[:, 1] > failure.over), 1]
            back.append(float(own[0]) - failure.over if len(own) else float("inf"))
            away = [at for name, at, _ in lost if name == f"cam-{number}" and failure.begun < at < failure.over]
            noticed += [away[0] - failure.begun] if away else []
    numbers = np.array(back or [0.0])
    spread = {"median": round(float(np.median(numbers)), 2), "most": round(float(numbers.max()), 2)}
    return {"count": count, "seconds": FAILURES[kind], "noticed_s": round(max(noticed), 2), "back_s": spread}


def ages(frames: NDArray[np.float64]) -> dict[str, float]:
    """Milliseconds from when the camera handed the picture over to its detections, and from when it was captured."""
    if not len(frames):
        return {"p50_ms": 0.0, "p99_ms": 0.0, "most_ms": 0.0, "captured_p99_ms": 0.0}
    p50, p99 = 1e3 * np.percentile(frames[:, 3], (50, 99))
    return {
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "most_ms": round(1e3 * float(frames[:, 3].max()), 1),
        "captured_p99_ms": round(1e3 * float(np.percentile(frames[:, 2], 99)), 1),
    }


if __name__ == "__main__":
    main()

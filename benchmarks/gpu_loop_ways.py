"""The frame loop of `edgesparse run` and of the service, measured: for benchmarks/gpu_loop.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detectors import PARTS
from benchmarks.gpu_nets import CLASSES, SIZE
from benchmarks.gpu_setup import HD
from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec, Run, parse
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import STAGES, Detector
from edgesparse.stream.cameras import CameraStatus, Feed, Observer
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import JsonLines

ZONES = {"all": [[0, 0], [1, 0], [1, 1], [0, 1]], "left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
LINES = {"middle": [[0.5, 0], [0.5, 1]]}
SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read()
    time.sleep(1)
"""


@dataclass(frozen=True)
class Setup:
    """An engine, and how many cameras use it. `still`: each camera shows one image instead of several in turn."""

    net: str
    cameras: int
    batch: int
    work: Path
    backend: str
    still: bool = False

    @property
    def engine(self) -> Path:
        return self.work / f"{self.net}-{self.batch}.engine"

    @property
    def spec(self) -> DetectorSpec:
        if self.net == "parts":
            return PARTS
        return DetectorSpec(head="yolov8", classes=tuple(map(str, range(CLASSES))), input=InputSpec(size=SIZE))

    def run(self, source: str = "demo") -> Run:
        """Settings with tracking, zones and lines."""
        names = [f"camera-{i}" for i in range(self.cameras)]
        cameras = [{"name": name, "source": source, "zones": ZONES, "lines": LINES} for name in names]
        conf = 0.4 if self.net == "parts" else 0.08  # of `relu`, about thirty boxes per frame remain
        fields = {"model": "model.onnx", "run": {"cameras": cameras, "tracking": "bytetrack", "conf": conf}}
        return parse(fields, "gpu_loop").run

    @contextmanager
    def detector(self, run: Run) -> Iterator[Detector]:
        with Detector(backend(self.backend).load(self.engine), self.spec, run, "fp16") as detector:
            yield detector


class Watched:
    """An Observer that keeps each frame's durations and times the observer it passes them on to. `rows`: nanoseconds
    of capture, preprocess, engine, decode, nms, track, sinks, the total, the age, and the other observer."""

    def __init__(self, most: int, inner: Observer | None = None) -> None:
        self.rows, self.frames, self.boxes, self._inner = np.zeros((most, 10), np.int64), 0, 0, inner
        self.begun_ns = self.ended_ns = 0

    def restart(self) -> None:
        self.frames = self.boxes = 0

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        start = time.perf_counter_ns()
        pause = self._inner.frame(camera, frame, detections, row) if self._inner is not None else 0.0
        self.ended_ns = time.perf_counter_ns()
        if not self.frames:
            self.begun_ns = self.ended_ns
        mine = self.rows[self.frames % len(self.rows)]
        mine[:9], mine[9] = row, self.ended_ns - start
        self.frames += 1
        self.boxes += len(detections)
        return pause

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        if self._inner is not None:
            self._inner.update(cameras)

    def summary(self, batch: int) -> dict[str, Any]:
        rows = self.rows[: self.frames]
        if not len(rows):
            return {"frames": 0}
        mean = rows.mean(axis=0) / 1e3
        age = np.percentile(rows[:, 8], (50, 99)) / 1e6
        stages = {"capture": mean[0] / batch, **dict(zip(STAGES, mean[1:5] / batch, strict=True))}
        stages["wait for the engine"] = stages.pop("engine")
        stages |= {"tracking, zones and lines": mean[5], "outputs": mean[6], "metrics": mean[9]}
        return {
            "frames": self.frames,
            "frames_a_second": round((self.frames - batch) / (self.ended_ns - self.begun_ns) * 1e9, 1),
            "boxes_a_frame": round(self.boxes / self.frames, 1),
            "age_ms": {"p50": round(float(age[0]), 3), "p99": round(float(age[1]), 3)},
            "us_a_frame": {name: round(float(value), 1) for name, value in stages.items()},
        }


Open = Callable[[Setup, Run, Detector], list[Feed]]


class Ways:
    """The loop of `edgesparse run` and that of the service, both with the same cameras."""

    def __init__(self, setup: Setup, run: Run, detector: Detector, opened: Open, most: int = 1 << 18) -> None:
        self._setup, self._run, self._detector, self._open, self._most = setup, run, detector, opened, most

    def as_run(self, seconds: float, limit: int | None = None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder, self._json_lines(folder) as sink:
            return self._timed(sink, None, seconds, limit)

    def _json_lines(self, folder: str) -> JsonLines:
        return JsonLines(Path(folder) / "out.jsonl", self._detector.spec.classes)

    def as_service(self, seconds: float, limit: int | None = None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder, service(self._detector, self._run, Path(folder)) as parts:
            return self._timed(parts.outputs, parts.watch, seconds, limit)

    def _timed(self, sink: Sink, observer: Observer | None, seconds: float, limit: int | None) -> dict[str, Any]:
        stop, watched = threading.Event(), Watched(self._most, observer)
        feeds = self._open(self._setup, self._run, self._detector)
        with Loop(feeds, self._detector, [sink], observer=watched, stop=stop) as loop:
            loop.run(3 * self._setup.cameras)
            watched.restart()
            cpu, own = time.process_time(), time.thread_time()
            memory = resident(), gpu_free()
            timer = threading.Timer(seconds, stop.set)
            timer.start()
            ended = loop.run(limit).ended
            timer.cancel()
            cpu, own = time.process_time() - cpu, time.thread_time() - own
            result = watched.summary(self._setup.batch)
            frames = max(watched.frames, 1)
            result["cpu_us_a_frame"] = {"process": round(1e6 * cpu / frames), "loop": round(1e6 * own / frames)}
            after = resident(), gpu_free()
            result["bytes_taken"] = {"resident": after[0] - memory[0], "gpu": memory[1] - after[1]}
            result["gpu_free"] = after[1]
            return {**result, "ended": ended}

    def allocated(self) -> dict[str, int]:
        """The most bytes that Python and NumPy hold at a time in 20 batches after the first ones, and those kept."""
        feeds = self._open(self._setup, self._run, self._detector)
        with tempfile.TemporaryDirectory() as folder, self._json_lines(folder) as sink:
            with Loop(feeds, self._detector, [sink]) as loop:
                loop.run(10 * self._setup.batch)
                tracemalloc.start()
                loop.run(5 * self._setup.batch)
                base = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                loop.run(20 * self._setup.batch)
                now, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
        return {"peak": peak - base, "kept": now - base, "frame": int(np.prod(HD))}


@contextmanager
def service(detector: Detector, run: Run, folder: Path) -> Iterator[Any]:
    """The service's parts around the loop, with JSON lines, and metrics that are read once per second."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import packages

    from edgesparse.package.store import find_package
    from edgesparse.service.engine import LoadedEngine, identify
    from edgesparse.service.notify import Notify
    from edgesparse.service.parts import Parts
    from edgesparse.service.settings import load_settings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "device.yaml"
    settings.write_text(f"service: {{web: {{port: {port}}}, jsonl: {{file: rows.jsonl, most: 500 MB}}}}\n")
    (folder / "package").mkdir()
    packages.fill(folder / "package", "aaa", detector=detector.spec, run=run)
    package = find_package(folder / "package")
    engine = LoadedEngine(package, detector, run, identify(package.manifest, detector, fallback=False))
    parts = Parts(load_settings(settings).service, engine, Notify({}))
    scraper = subprocess.Popen([sys.executable, "-c", SCRAPER, str(port)], stderr=subprocess.DEVNULL)
    try:
        yield parts
    finally:
        scraper.kill()
        scraper.wait()
        parts.close()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_free() -> int:
    from edgesparse.backends.cuda import gpu as cuda

    try:
        return int(cuda.gpu().free())
    except Exception:  # no GPU
        return 0

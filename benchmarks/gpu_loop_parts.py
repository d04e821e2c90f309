"""The measurements of benchmarks/gpu_loop.py."""

from __future__ import annotations

import os
import shutil
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
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detectors import PARTS
from benchmarks.gpu_nets import CLASSES, SIZE, relu_blocks
from benchmarks.gpu_setup import HD, SHOTS, image
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import Limits
from edgesparse.bench.throughput import run_busy
from edgesparse.config import DetectorSpec, InputSpec, Run, parse
from edgesparse.demo.scene import Scene
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import STAGES, Detector
from edgesparse.stream.cameras import CameraStatus, Feed, Observer
from edgesparse.stream.frames import Frame
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.memory import MemorySource

ZONES = {"all": [[0, 0], [1, 0], [1, 1], [0, 1]], "left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
LINES = {"middle": [[0.5, 0], [0.5, 1]]}
FLAT = 100_000
SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read()
    time.sleep(1)
"""


@dataclass(frozen=True)
class Setup:
    """An engine, and how many cameras use it."""

    net: str
    cameras: int
    batch: int
    work: Path
    backend: str

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
        conf = 0.4 if self.net == "parts" else 0.04  # of `relu`, about two boxes per frame remain
        fields = {"model": "model.onnx", "run": {"cameras": cameras, "tracking": "bytetrack", "conf": conf}}
        return parse(fields, "gpu_loop").run

    @contextmanager
    def detector(self, run: Run) -> Iterator[Detector]:
        with Detector(backend(self.backend).load(self.engine), self.spec, run, "fp16") as detector:
            yield detector


def build(net: str, batch: int, work: Path, name: str) -> dict[str, Any]:
    """Build an engine in FP16, of the files that `edgesparse build` would build it of."""
    from edgesparse.builder.prepare import prepare

    if net == "kernels":
        return kernels(work, name)
    with tempfile.TemporaryDirectory() as folder:
        if net == "parts":
            path = Path(str(resources.files("edgesparse").joinpath("demo/parts_2to4.onnx")))
            fields = {"model": str(path), "build": {"batch": {"min": batch, "opt": batch, "max": batch}}}
            model = prepare(parse(fields, "gpu_loop"), Path(folder)).simplified
        else:
            model = relu_blocks(Path(folder) / "model.onnx", net, batch)
        precision: Any = "fp16" if name == "tensorrt" else "fp32"
        options = BuildOptions(precision=precision, limits=Limits(level=1), detailed=False)
        out = work / f"{net}-{batch}.part"
        result = backend(name).build(model, out, options)
        result.path.rename(work / f"{net}-{batch}.engine")
    return {"seconds": round(result.seconds, 1)}


def kernels(work: Path, name: str) -> dict[str, Any]:
    """Compile the frame path's kernels, so that no part waits for them."""
    begun = time.monotonic()
    if name == "tensorrt":
        from edgesparse.backends.cuda import gpu as cuda
        from edgesparse.backends.cuda.kernels import kernels as compiled

        compiled(cuda.gpu())
    (work / "kernels-1.engine").touch()
    return {"seconds": round(time.monotonic() - begun, 1)}


class Watched:
    """An Observer that keeps each frame's durations and times the observer it passes them on to. `rows`: nanoseconds
    of capture, preprocess, engine, decode, nms, sinks, the total, the age, and the other observer."""

    def __init__(self, most: int, inner: Observer | None = None) -> None:
        self.rows, self.frames, self.boxes, self._inner = np.zeros((most, 9), np.int64), 0, 0, inner
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
        mine[:8], mine[8] = row, self.ended_ns - start
        self.frames += 1
        self.boxes += len(detections)
        return pause

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        if self._inner is not None:
            self._inner.update(cameras)

    def summary(self, batch: int, outputs_ns: int) -> dict[str, Any]:
        rows, frames = self.rows[: self.frames], max(self.frames, 1)
        if not len(rows):
            return {"frames": 0}
        mean = rows.mean(axis=0) / 1e3
        age = np.percentile(rows[:, 7], (50, 99)) / 1e6
        outputs = outputs_ns / frames / 1e3
        stages = {"capture": mean[0] / batch, **dict(zip(STAGES, mean[1:5] / batch, strict=True))}
        stages["wait for the engine"] = stages.pop("engine")
        stages |= {"tracking, zones and lines": mean[5] - outputs, "outputs": outputs, "metrics": mean[8]}
        return {
            "frames": self.frames,
            "frames_a_second": round((self.frames - batch) / (self.ended_ns - self.begun_ns) * 1e9, 1),
            "boxes_a_frame": round(self.boxes / frames, 1),
            "age_ms": {"p50": round(float(age[0]), 3), "p99": round(float(age[1]), 3)},
            "us_a_frame": {name: round(float(value), 1) for name, value in stages.items()},
        }


class Timed(Sink):
    """Times another sink."""

    def __init__(self, inner: Sink) -> None:
        self._inner, self.ns = inner, 0

    def write(self, frame: Frame, detections: Detections) -> None:
        start = time.perf_counter_ns()
        self._inner.write(frame, detections)
        self.ns += time.perf_counter_ns() - start

    def close(self) -> None:
        self._inner.close()


def in_memory(setup: Setup, run: Run, detector: Detector) -> list[Feed]:
    shots = [image(seed) for seed in range(SHOTS)]
    cameras = run.all_cameras()
    return [Feed(each, MemorySource(shots, each.name), run, detector.spec.classes) for each in cameras]


def from_file(setup: Setup, run: Run, detector: Detector) -> list[Feed]:
    from edgesparse.stream.cameras import open_feeds

    return open_feeds(run.all_cameras(), run, detector.spec.classes, patient=True)


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
        stop, timed, watched = threading.Event(), Timed(sink), Watched(self._most, observer)
        feeds = self._open(self._setup, self._run, self._detector)
        with Loop(feeds, self._detector, [timed], observer=watched, stop=stop) as loop:
            loop.run(3 * self._setup.cameras)
            watched.restart()
            timed.ns, cpu, own = 0, time.process_time(), time.thread_time()
            memory = resident(), gpu_free()
            timer = threading.Timer(seconds, stop.set)
            timer.start()
            ended = loop.run(limit).ended
            timer.cancel()
            cpu, own = time.process_time() - cpu, time.thread_time() - own
            result = watched.summary(self._setup.batch, timed.ns)
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


def bare(setup: Setup, seconds: float = 0.7) -> float:
    """Frames per second of the engine alone: its graph, launched without pause."""
    if setup.backend != "tensorrt":
        with backend(setup.backend).load(setup.engine) as runner:
            return setup.batch * run_busy([runner], seconds)[1]
    from benchmarks.gpu_peers import Bare

    engine = Bare(setup.engine)
    engine.run()
    runs, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        with engine._card:
            for _ in range(4):
                engine._graph.launch()
            engine._stream.synchronize()
        runs += 4
    return setup.batch * runs / (now - begun)


def path(setup: Setup, detector: Detector, seconds: float = 0.7) -> float:
    """Frames per second of the detector alone, with every slot busy."""
    near = [detector.frame_buffer(HD) for _ in range(2 * setup.batch)]
    for seed, buffer in enumerate(near):
        buffer[...] = image(seed)
    count, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if detector.in_flight == detector.depth:
            detector.collect()
        first = count % 2 * setup.batch
        detector.submit(near[first : first + setup.batch])
        count += 1
    while detector.in_flight:
        detector.collect()
    return setup.batch * count / (now - begun)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_free() -> int:
    from edgesparse.backends.cuda import gpu as cuda

    try:
        return int(cuda.gpu().free())
    except Exception:  # no GPU
        return 0


def against(setup: Setup, result: dict[str, Any], ways: Sequence[str], before: float) -> dict[str, Any]:
    """Ratios to the faster of two measurements of the bare engine, one before and one after the loop's."""
    engine = max(before, bare(setup))
    for way in ways:
        if "frames_a_second" in result.get(way, {}):
            result[way]["of_the_engine"] = round(result[way]["frames_a_second"] / engine, 4)
    return {"engine_frames_a_second": round(engine, 1), "batch": setup.batch, **result}


def memory(setup: Setup, until: float) -> dict[str, Any]:
    run, before = setup.run(), bare(setup)
    with setup.detector(run) as detector:
        ways = Ways(setup, run, detector, in_memory)
        result: dict[str, Any] = {"where": detector.where, "depth": detector.depth}
        result["detector_alone_frames_a_second"] = round(path(setup, detector), 1)
        share = max(2.0, min(3.0, (until - time.monotonic() - 6) / 2))
        result["run"] = ways.as_run(share)
        result["service"] = ways.as_service(share)
        if time.monotonic() < until - 4:
            result["allocated_bytes"] = ways.allocated()
    return against(setup, result, ("run", "service"), before)


def flat(setup: Setup, until: float) -> dict[str, Any]:
    run, before = setup.run(), bare(setup)
    with setup.detector(run) as detector:
        ways = Ways(setup, run, detector, in_memory)
        result = {"service": ways.as_service(until - time.monotonic() - 4, FLAT)}
    return against(setup, result, ("service",), before)


def files(setup: Setup, video: Path | None, until: float) -> dict[str, Any]:
    """Every camera is the same file. `decoding_alone`: frames per second of the same sources without a detector."""
    with tempfile.TemporaryDirectory() as folder:
        if video is None and shutil.which("ffmpeg") is None:
            return {"error": "not run: no ffmpeg to encode a file with, and no --video"}
        run, before = setup.run(str((video or encoded(Path(folder))).absolute())), bare(setup)
        with setup.detector(run) as detector:
            result: dict[str, Any] = {"decoding_alone": round(decoding(from_file(setup, run, detector)), 1)}
            result["cores"] = len(os.sched_getaffinity(0))
            result["run"] = Ways(setup, run, detector, from_file).as_run(min(5.0, until - time.monotonic() - 4))
        if "frames_a_second" in result["run"]:
            result["run"]["of_decoding"] = round(result["run"]["frames_a_second"] / result["decoding_alone"], 4)
        return against(setup, result, ("run",), before)


def encoded(folder: Path) -> Path:
    out, scene = folder / "scene.mp4", Scene(0, height=HD[0], width=HD[1])
    command = f"ffmpeg -loglevel error -f rawvideo -pix_fmt bgr24 -s {HD[1]}x{HD[0]} -r 30 -i - -c:v libx264 "
    command += f"-preset veryfast -crf 27 -pix_fmt yuv420p -g 30 {out}"
    with subprocess.Popen(command.split(), stdin=subprocess.PIPE) as coder:
        assert coder.stdin is not None
        for _ in range(200):
            coder.stdin.write(scene.render()[0].tobytes())
        coder.stdin.close()
    return out


def decoding(feeds: Sequence[Feed], seconds: float = 2.0) -> float:
    for feed in feeds:
        feed.source.read()
    count, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        read = [feed.source.read() is not None for feed in feeds]
        count += sum(read)
        if not any(read):
            break
    for feed in feeds:
        feed.source.close()
    return count / (now - begun)

"""What benchmarks/gpu_path.py measures, a function a part. Each returns what goes into the results."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu_nets import CLASSES, SIZE
from edgesparse.backends import backend
from edgesparse.backends.cuda import gpu
from edgesparse.backends.cuda_graph import Graph
from edgesparse.backends.tensorrt_inspect import read_plan
from edgesparse.config import DetectorSpec, InputSpec, Run, load_recipe
from edgesparse.runtime.detector import STAGES, Detector

HD = (1080, 1920, 3)


@dataclass(frozen=True)
class Net:
    """An engine with what its detector needs."""

    name: str
    path: Path
    spec: DetectorSpec
    conf: float


def net(name: str, work: Path, batch: int = 1) -> Net:
    """`parts`, the default detector, or `relu`; the latter's confidence is such that it finds about 20 boxes."""
    path = work / f"{name}-{batch}.engine"
    if name == "parts":
        recipe = load_recipe(Path(str(resources.files("edgesparse").joinpath("demo/parts.yaml"))))
        spec = DetectorSpec(head="yolov8", classes=tuple(recipe.classes or ()), input=InputSpec(size=(320, 320)))
        return Net(name, path, spec, 0.4)
    spec = DetectorSpec(head="yolov8", classes=tuple(map(str, range(CLASSES))), input=InputSpec(size=SIZE))
    return Net(name, path, spec, 0.25)


def picture(seed: int = 0, shape: tuple[int, ...] = HD) -> np.ndarray:
    """A frame that is no noise: what a camera gives is smooth, and has edges."""
    small = np.random.default_rng(seed).integers(0, 256, (27, 48, 3), np.uint8)
    return np.asarray(cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.uint8)


def milliseconds(ns: Sequence[int] | np.ndarray) -> dict[str, float]:
    p50, p90, p99 = np.percentile(np.asarray(ns, np.float64), (50, 90, 99)) / 1e6
    return {"p50": round(p50, 4), "p90": round(p90, 4), "p99": round(p99, 4)}


def wall(action: Callable[[], object], count: int, into: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(count):
        begun = clock()
        action()
        into.append(clock() - begun)


class Bare:
    """The engine alone as a graph: one launch, one wait; and the copy of one frame from page-locked memory."""

    def __init__(self, path: Path) -> None:
        self._card, self._runner = gpu(), backend("tensorrt").load(path)
        stream = self._runner._held["stream"]  # type: ignore[attr-defined]
        with self._card:
            graph = Graph(stream.handle, self._runner._engine)  # type: ignore[attr-defined]
            self._frame, self._near = self._card.host(HD, "uint8"), self._card.memory(int(np.prod(HD)))
        self._frame[...] = picture(5)
        self._stream, self._graph = stream, graph

    def run(self) -> None:
        with self._card:
            self._graph.launch()
            self._stream.synchronize()

    def copy(self) -> None:
        with self._card:
            self._card.driver.memcpy_htod_async(self._near, self._frame, self._stream)
            self._stream.synchronize()


class Common:
    """The usual script: OpenCV letterbox, pageable copies, execute, the whole output back, NumPy decode, OpenCV NMS."""

    def __init__(self, of: Net) -> None:
        import tensorrt as trt

        self._card, self._conf, self._size = gpu(), of.conf, of.spec.input.size
        with self._card:
            self._plan = read_plan(trt, of.path)
            engine = self._plan.engine
            self._context = engine.create_execution_context()
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
            self._memory = {name: self._card.memory(4 * int(np.prod(shape))) for name, shape in shapes.items()}
            for name, block in self._memory.items():
                self._context.set_tensor_address(name, int(block))
            self._stream = self._card.stream()
        self._in, self._out = names
        self._shape = shapes[self._out]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        height, width = self._size
        ratio = min(height / frame.shape[0], width / frame.shape[1])
        new = (round(frame.shape[1] * ratio), round(frame.shape[0] * ratio))
        top, left = (height - new[1]) // 2, (width - new[0]) // 2
        resized = cv2.resize(frame, new, interpolation=cv2.INTER_LINEAR)
        below, right = height - new[1] - top, width - new[0] - left
        canvas = cv2.copyMakeBorder(resized, top, below, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
        blob = np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], np.float32) / 255
        raw = np.empty(self._shape, np.float32)
        with self._card:
            self._card.driver.memcpy_htod(self._memory[self._in], np.ascontiguousarray(blob, np.float32))
            self._context.execute_async_v3(self._stream.handle)
            self._stream.synchronize()
            self._card.driver.memcpy_dtoh(raw, self._memory[self._out])
        rows = raw[0].T
        scores = rows[:, 4:]
        labels = scores.argmax(1)
        best = scores.max(1)
        keep = best >= self._conf
        boxes, best, labels = rows[keep, :4], best[keep], labels[keep]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        moved = corners + np.pad(labels[:, None] * 4096.0, ((0, 0), (0, 3)))
        kept = np.asarray(cv2.dnn.NMSBoxes(moved, best, self._conf, 0.45), int).ravel()
        corners = corners[kept]
        corners[:, :2] -= (left, top)
        return np.concatenate([corners / ratio, best[kept, None], labels[kept, None]], 1)


@contextmanager
def opened(of: Net, conf: float | None = None) -> Iterator[Detector]:
    with Detector(backend("tensorrt").load(of.path), of.spec, Run(conf=of.conf if conf is None else conf)) as detector:
        yield detector


def confident(of: Net, frame: np.ndarray) -> Net:
    """With the confidence that lets about 20 candidates through; `parts` keeps its own."""
    if of.name == "parts":
        return of
    with opened(of, 0.001) as detector:
        found = detector(frame).confidence
    conf = float(found[min(20, len(found) - 1)]) if len(found) else of.conf
    return Net(of.name, of.path, of.spec, min(max(conf, 0.01), 0.95))


def path(name: str, work: Path, frames: int = 10_000) -> dict[str, Any]:
    """The whole path beside the bare engine, the copy alone and the common way, by turns, in one process."""
    shots = [picture(seed) for seed in range(4)]
    of = confident(net(name, work), shots[0])
    bare, common = Bare(of.path), Common(of)
    taken: dict[str, list[int]] = {key: [] for key in ("path", "pageable", "bare", "copy", "common")}
    stages: list[np.ndarray] = []
    with opened(of) as detector:
        near = [detector.frame_buffer(HD) for _ in shots]
        for buffer, shot in zip(near, shots, strict=True):
            buffer[...] = shot
        turn = iter(range(1 << 40))
        actions = {
            "path": lambda: detector(near[next(turn) % 4]),
            "pageable": lambda: detector(shots[next(turn) % 4]),
            "bare": bare.run,
            "copy": bare.copy,
            "common": lambda: common(shots[next(turn) % 4]),
        }
        for action in actions.values():
            wall(action, 60, [])
        gc.collect()
        rounds = 50
        counts = {"path": frames // rounds, "pageable": 20, "bare": 40, "copy": 40, "common": 8}
        before = (gpu().free(), resident())
        for _ in range(rounds):
            for key, action in actions.items():
                wall(action, 3, [])  # what the other way left in the caches does not count
                wall(action, counts[key], taken[key])
                if key == "path":
                    stages.append(detector.times.copy())
        after = (gpu().free(), resident())
        boxes = [len(detector(frame)) for frame in near]
        theirs = [len(common(frame)) for frame in shots]
        flow = in_flight(detector, near, 2.0)
        where, depth = detector.where, detector.depth
    found = {key: milliseconds(values) for key, values in taken.items()}
    floor = found["bare"]["p50"] + found["copy"]["p50"]
    return {
        "milliseconds": found,
        "path_over_engine_and_copy": round(found["path"]["p50"] / floor, 3),
        "common_over_path": round(found["common"]["p50"] / found["path"]["p50"], 2),
        "common_over_pageable": round(found["common"]["p50"] / found["pageable"]["p50"], 2),
        "p99_over_p50": round(found["path"]["p99"] / found["path"]["p50"], 3),
        "frames": len(taken["path"]),
        "stages_ms_p50": dict(zip(STAGES, np.median(stages, axis=0) / 1e6, strict=True)),
        "boxes": {"path": boxes, "common": theirs},
        "overlapped": flow,
        "gpu_bytes_taken": before[0] - after[0],
        "resident_bytes_taken": after[1] - before[1],
        "where": where,
        "depth": depth,
        "conf": of.conf,
    }


def in_flight(detector: Detector, near: Sequence[np.ndarray], seconds: float) -> dict[str, float]:
    """Frames a second with every slot busy, one frame a batch."""
    count, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if detector.in_flight == detector.depth:
            detector.collect()
        detector.submit([near[count % len(near)]])
        count += 1
    while detector.in_flight:
        detector.collect()
    return {"frames_a_second": round(count / (now - begun), 1)}


def resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def allocations(name: str, work: Path) -> dict[str, Any]:
    """What Python and NumPy allocate in a frame after the first ones, and the GPU in 1000."""
    import tracemalloc

    of = confident(net(name, work), picture())
    with opened(of) as detector:
        near = detector.frame_buffer(HD)
        near[...] = picture()
        for _ in range(50):
            detector(near)
        free = gpu().free()
        tracemalloc.start()
        detector(near)
        base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(1000):
            detector(near)
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return {
            "peak_bytes_in_a_frame": peak - base,
            "bytes_kept_after_1000": now - base,
            "gpu_bytes_taken": free - gpu().free(),
            "frame_bytes": near.nbytes,
        }


def cameras(work: Path, seconds: float = 3.0) -> dict[str, Any]:
    """1, 4 and 16 cameras of 1080p at 30 frames a second, the newest frame of each, through engines of batch 1 and 4;
    and as many frames as go through when there is always a new one."""
    found: dict[str, Any] = {"offered_a_second_and_camera": 30}
    for batch in (1, 4):
        of = confident(net("relu", work, batch), picture())
        with opened(of) as detector:
            for count in (1, 4, 16):
                rings = [[detector.frame_buffer(HD) for _ in range(2)] for _ in range(count)]
                for i, ring in enumerate(rings):
                    for buffer in ring:
                        buffer[...] = picture(i)
                for rate in (30.0, 0.0):
                    key = f"{count} cameras, batch {batch}, {'30 a second' if rate else 'as many as go'}"
                    found[key] = Watched(detector, rings, rate).run(seconds)
                del rings
    return found


class Watched:
    """Cameras that deliver at a rate, or, at 0, have a new frame whenever they are asked."""

    def __init__(self, detector: Detector, rings: list[list[np.ndarray]], rate: float) -> None:
        self._detector, self._rings, self._period = detector, rings, 1 / rate if rate else 0.0
        self._last, self._next = [-1] * len(rings), 0
        self._stamps: list[list[float]] = []
        self._ages: list[float] = []
        self.dropped = 0

    def run(self, seconds: float) -> dict[str, float]:
        detector, begun = self._detector, time.perf_counter()
        while (now := time.perf_counter()) - begun < seconds:
            fresh = self._fresh(now - begun)
            if fresh and detector.in_flight < detector.depth:
                detector.submit([self._rings[i][self._last[i] % 2] for i, _ in fresh])
                self._stamps.append([begun + stamp for _, stamp in fresh])
            elif detector.in_flight:
                self._collect()
        while detector.in_flight:
            self._collect()
        ages = np.percentile(self._ages, (50, 99)) * 1e3
        return {
            "frames_a_second": round(len(self._ages) / seconds, 1),
            "dropped": self.dropped,
            "age_ms_p50": round(float(ages[0]), 3),
            "age_ms_p99": round(float(ages[1]), 3),
        }

    def _fresh(self, now: float) -> list[tuple[int, float]]:
        """Up to a batch of cameras with a frame that was not taken yet, in turn, and when it was captured."""
        found = []
        if self._detector.in_flight == self._detector.depth:
            return found
        for step in range(len(self._rings)):
            i = (self._next + step) % len(self._rings)
            phase = self._period * i / len(self._rings)
            index = int((now - phase) // self._period) if self._period else self._last[i] + 1
            if index > self._last[i] and (index >= 0):
                self.dropped += max(0, index - self._last[i] - 1)
                self._last[i] = index
                found.append((i, phase + index * self._period if self._period else now))
            if len(found) == self._detector.batch:
                break
        if found:
            self._next = (found[-1][0] + 1) % len(self._rings)
        return found

    def _collect(self) -> None:
        self._detector.collect()
        now = time.perf_counter()
        self._ages += [now - stamp for stamp in self._stamps.pop(0)]

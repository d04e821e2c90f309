"""The measurements of benchmarks/gpu_path.py, one function per part of the results."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kernel import place_of, rows_read
from benchmarks.gpu_peers import Bare, Common
from benchmarks.gpu_setup import HD, SHOTS, confident, image, net, opened
from edgesparse.backends.cuda import slots
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.runtime.detector import STAGES, Detector

ROWS = "copy of as many rows as are read"
DEVICE = "frame in GPU memory"
SAME = "the same frame in GPU memory"
"""Its address does not change, so neither does the graph."""
ROUNDS = 50
COUNTS = {"pageable": 10, "nms on the cpu": 20, "bare": 40, "copy": 40, "common": 5, ROWS: 40}
"""Timed calls per round."""


def milliseconds(ns: Sequence[int] | NDArray[np.int64]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(np.asarray(ns, np.float64), (50, 90, 99)) / 1e6
    return {"p50": round(p50, 4), "p90": round(p90, 4), "p99": round(p99, 4)}


def wall(action: Callable[[], object], count: int, into: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(count):
        begun = clock()
        action()
        into.append(clock() - begun)


def path(name: str, work: Path, frames: int = 10_000, seconds: float = 45.0) -> dict[str, Any]:
    """Compare the whole path with the bare engine, the copy alone and the usual script, interleaved in one process.

    Stops after `seconds` with the frames timed so far.
    """
    shots, of = [image(seed) for seed in range(SHOTS)], confident(net(name, work))
    bare, common, rows = Bare(of.path), Common(of), len(rows_read(place_of(HD[:2], "bgr", of.spec.input.size)))
    with opened(of) as detector, nms_on_the_cpu(), opened(of) as other:
        near, gpu_frames = in_frame_buffers(detector, shots), in_gpu_memory(shots)
        stages: dict[str, list[NDArray[np.int64]]] = {"path": [], DEVICE: []}
        ways: tuple[tuple[str, Callable[[Any], Sized], Sequence[Any]], ...]
        ways = ("path", detector, near), (DEVICE, detector, gpu_frames), ("nms on the cpu", other, near)
        timed = interleaved(
            {
                **ways_of(detector, other, near, gpu_frames, shots),
                "bare": bare.run,
                "copy": bare.copy,
                ROWS: partial(bare.copy, rows),
                "common": partial(on_each, common, cycle(shots)),
            },
            {**COUNTS, **dict.fromkeys(("path", DEVICE, SAME), frames // ROUNDS)},
            seconds,
            lambda key: stages[key].append(detector.times.copy()) if key in stages else None,
        )
        return {
            **ratios({key: milliseconds(values) for key, values in timed.ns.items()}),
            "rows_read": f"{rows} of {HD[0]}",
            "frames": len(timed.ns["path"]),
            "stages_ms": {key: per_stage(rows, timed.ns[key]) for key, rows in stages.items()},
            "boxes": {
                key: [len(detect(frame)) for frame in those]
                for key, detect, those in (*ways, ("common", common, shots))
            },
            "overlapped": in_flight(detector, near, 2.0),
            "between_events_of_the_gpu_ms": {
                **{key: graph_alone(detector, those) for key, _, those in ways[:2]},
                "engine": round(bare.latency(), 4),
            },
            **timed.bytes_taken,
            "where": detector.where,
            "depth": detector.depth,
            "conf": of.conf,
        }


def per_stage(rows: Sequence[NDArray[np.int64]], whole: Sequence[int]) -> dict[str, dict[str, float]]:
    """The detector's stages, and what the calls take beside them: naming the frame, its place, handing over."""
    named = {name: milliseconds(column) for name, column in zip(STAGES, np.stack(rows, axis=1), strict=True)}
    return {**named, "beside them": milliseconds(np.asarray(whole) - np.sum(rows, axis=1))}


def ways_of(
    detector: Detector, other: Detector, near: Sequence[Any], on_gpu: Sequence[Any], shots: Sequence[Any]
) -> dict[str, Callable[[], object]]:
    """The calls of the detectors, by what differs."""
    return {
        "path": partial(on_each, detector, cycle(near)),
        DEVICE: partial(on_each, lambda frame: detector.detect([frame]), cycle(on_gpu)),
        SAME: lambda: detector.detect(on_gpu[:1]),
        "pageable": partial(on_each, detector, cycle(shots)),
        "nms on the cpu": partial(on_each, other, cycle(near)),
    }


def on_each(detect: Callable[[Any], object], frames: Iterator[Any]) -> None:
    detect(next(frames))


def in_frame_buffers(detector: Detector, shots: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    near = [detector.frame_buffer(HD) for _ in shots]
    for buffer, shot in zip(near, shots, strict=True):
        buffer[...] = shot
    return near


def in_gpu_memory(shots: Sequence[NDArray[np.uint8]]) -> list[Any]:
    from pycuda import gpuarray

    with gpu():
        return [gpuarray.to_gpu(shot) for shot in shots]


@dataclass(frozen=True)
class Timed:
    """`ns`: nanoseconds of each call, by action. `bytes_taken`: by all calls together, of the GPU's and the CPU's."""

    ns: dict[str, list[int]]
    bytes_taken: dict[str, int]


def interleaved(
    actions: Mapping[str, Callable[[], object]],
    counts: Mapping[str, int],
    seconds: float,
    after: Callable[[str], object],
) -> Timed:
    """Warm up all actions, then time each `counts` times per round. `after` is called after each timed call."""
    taken: dict[str, list[int]] = {key: [] for key in actions}
    for action in actions.values():
        wall(action, 60, [])
    gc.collect()
    until = time.monotonic() + seconds
    free, kept = gpu().free(), resident()
    for _ in range(ROUNDS):
        if time.monotonic() > until:
            break
        for key, action in actions.items():
            wall(action, 3, [])  # the cache state left by the other action does not count
            for _ in range(counts[key]):
                wall(action, 1, taken[key])
                after(key)
    grown = {"gpu_bytes_taken": free - gpu().free(), "resident_bytes_taken": resident() - kept}
    return Timed(taken, grown)


def ratios(report: dict[str, dict[str, float]]) -> dict[str, Any]:
    p50 = {key: values["p50"] for key, values in report.items()}
    return {
        "milliseconds": report,
        "path_over_engine_and_copy": round(p50["path"] / (p50["bare"] + p50["copy"]), 3),
        "path_over_engine_and_copy_of_the_rows": round(p50["path"] / (p50["bare"] + p50[ROWS]), 3),
        "common_over_path": round(p50["common"] / p50["path"], 2),
        "common_over_pageable": round(p50["common"] / p50["pageable"], 2),
        "p99_over_p50": round(report["path"]["p99"] / p50["path"], 3),
        "frame_in_gpu_memory_over_engine_us": {
            each: round(1e3 * (report[DEVICE][each] - report["bare"][each]), 1) for each in ("p50", "p99")
        },
        "frame_in_gpu_memory_p99_over_p50": round(report[DEVICE]["p99"] / p50[DEVICE], 3),
    }


@contextmanager
def nms_on_the_cpu() -> Iterator[None]:
    """Let detectors created in this context run NMS on the CPU."""
    before, slots.NMS_LIMIT = slots.NMS_LIMIT, 0
    try:
        yield
    finally:
        slots.NMS_LIMIT = before


def graph_alone(detector: Detector, frames: Sequence[Any]) -> float:
    """Return the milliseconds of one batch's graph between two GPU events, from one of these frames."""
    for _ in range(detector.depth):
        detector.detect(frames[:1])
    slot = detector._rounds._ring._slots[0]
    launch, stream, samples = slot._held["graphs"][1], slot._engine.stream, []  # type: ignore[attr-defined]
    with gpu() as card:
        start, end = card.event(), card.event()
        for _ in range(200):
            launch()
            start.record(stream)
            launch()
            end.record(stream)
            end.synchronize()
            samples.append(start.time_till(end))
    return round(float(np.median(samples)), 4)


def in_flight(detector: Detector, near: Sequence[NDArray[np.uint8]], seconds: float) -> dict[str, float]:
    """Return frames per second with every slot busy, at one frame per batch."""
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
    match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def allocations(name: str, work: Path) -> dict[str, Any]:
    """Return the bytes that Python and NumPy allocate per frame after warm-up, and that the GPU allocates in 1000
    frames."""
    import tracemalloc

    of = confident(net(name, work))
    with opened(of) as detector:
        near = detector.frame_buffer(HD)
        near[...] = image()
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

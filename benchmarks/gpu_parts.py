"""What benchmarks/gpu_path.py measures, a function a part. Each returns what goes into the results."""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_given import HD, SHOTS, confident, image, net, opened
from benchmarks.gpu_kernel import place_of, rows_read
from benchmarks.gpu_peers import Bare, Common
from edgesparse.backends.cuda import slots
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.runtime.detector import STAGES, Detector

ROWS = "copy of as many rows as are read"


def milliseconds(ns: Sequence[int] | NDArray[np.int64]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(np.asarray(ns, np.float64), (50, 90, 99)) / 1e6
    return {"p50": round(p50, 4), "p90": round(p90, 4), "p99": round(p99, 4)}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def wall(action: Callable[[], object], count: int, into: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(count):
        begun = clock()
        action()
        into.append(clock() - begun)


def path(name: str, work: Path, frames: int = 10_000, seconds: float = 45.0) -> dict[str, Any]:
    """The whole path beside the bare engine, the copy alone and the common way, interleaved in one process.

    After so many seconds it ends with the frames that there are.
    """
    shots = [image(seed) for seed in range(SHOTS)]
    of = confident(net(name, work))
    say(f"{name}: confidence {of.conf:.3f}")
    bare, common, rows = Bare(of.path), Common(of), len(rows_read(place_of(HD[:2], "bgr", of.spec.input.size)))
    taken: dict[str, list[int]] = {}
    stages: list[NDArray[np.int64]] = []
    with opened(of) as detector, nms_on_the_cpu(), opened(of) as other:
        near = [detector.frame_buffer(HD) for _ in shots]
        for buffer, shot in zip(near, shots, strict=True):
            buffer[...] = shot
        turn = iter(range(1 << 40))
        actions: dict[str, Callable[[], object]] = {
            "path": lambda: detector(near[next(turn) % SHOTS]),
            "pageable": lambda: detector(shots[next(turn) % SHOTS]),
            "nms on the cpu": lambda: other(near[next(turn) % SHOTS]),
            "bare": bare.run,
            "copy": bare.copy,
            ROWS: partial(bare.copy, rows),
            "common": lambda: common(shots[next(turn) % SHOTS]),
        }
        taken.update({key: [] for key in actions})
        for action in actions.values():
            wall(action, 60, [])
        say(f"{name}: warm")
        gc.collect()
        rounds, until = 50, time.monotonic() + seconds
        counts = {
            "path": frames // rounds,
            "pageable": 10,
            "nms on the cpu": 20,
            "bare": 40,
            "copy": 40,
            "common": 5,
            ROWS: 40,
        }
        before = (gpu().free(), resident())
        for _ in range(rounds):
            if time.monotonic() > until:
                break
            for key, action in actions.items():
                wall(action, 3, [])  # what the other way left in the caches does not count
                wall(action, counts[key], taken[key])
                if key == "path":
                    stages.append(detector.times.copy())
        after = (gpu().free(), resident())
        say(f"{name}: {len(taken['path'])} frames timed")
        boxes = [len(detector(frame)) for frame in near]
        on_cpu = [len(other(frame)) for frame in near]
        theirs = [len(common(frame)) for frame in shots]
        flow = in_flight(detector, near, 2.0)
        on_gpu = {"path": graph_alone(detector), "engine": round(bare.latency(), 4)}
        where, depth = detector.where, detector.depth
    report = {key: milliseconds(values) for key, values in taken.items()}
    floor = report["bare"]["p50"] + report["copy"]["p50"]
    lower = report["bare"]["p50"] + report[ROWS]["p50"]
    return {
        "milliseconds": report,
        "path_over_engine_and_copy": round(report["path"]["p50"] / floor, 3),
        "path_over_engine_and_copy_of_the_rows": round(report["path"]["p50"] / lower, 3),
        "rows_read": f"{rows} of {HD[0]}",
        "common_over_path": round(report["common"]["p50"] / report["path"]["p50"], 2),
        "common_over_pageable": round(report["common"]["p50"] / report["pageable"]["p50"], 2),
        "p99_over_p50": round(report["path"]["p99"] / report["path"]["p50"], 3),
        "frames": len(taken["path"]),
        "stages_ms_p50": dict(zip(STAGES, np.median(stages, axis=0) / 1e6, strict=True)),
        "boxes": {"path": boxes, "nms on the cpu": on_cpu, "common": theirs},
        "overlapped": flow,
        "between_events_of_the_gpu_ms": on_gpu,
        "gpu_bytes_taken": before[0] - after[0],
        "resident_bytes_taken": after[1] - before[1],
        "where": where,
        "depth": depth,
        "conf": of.conf,
    }


@contextmanager
def nms_on_the_cpu() -> Iterator[None]:
    """For detectors that are made meanwhile."""
    before, slots.NMS_LIMIT = slots.NMS_LIMIT, 0
    try:
        yield
    finally:
        slots.NMS_LIMIT = before


def graph_alone(detector: Detector) -> float:
    """Milliseconds of one batch's graph between two events of the GPU."""
    slot = detector._ring._slots[0]
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
    """Frames per second with every slot busy, one frame per batch."""
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
    """What Python and NumPy allocate in a frame after the first ones, and the GPU in 1000."""
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

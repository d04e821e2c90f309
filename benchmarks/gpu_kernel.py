"""The letterbox kernel alone, compared with the device's copy bandwidth: a part of benchmarks/gpu_path.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu, gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.kernels import Kernels, Launch, compiled, kernels
from edgesparse.backends.cuda.layouts import IMAGE, IMAGES, TAP, image_of, input_of, taps
from edgesparse.backends.cuda.slots import ROWS
from edgesparse.backends.frames import Pixels, Place
from edgesparse.config import InputSpec
from edgesparse.runtime.letterbox import Letterbox

SIZE = (640, 640)
BATCH, SETS, REPEATS = 8, 3, 24
SECTOR = 32
BYTES = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1}


def bandwidth(card: Gpu) -> float:
    """GB/s of a device-to-device copy, counting bytes read and written."""
    size = 1 << 29
    with card:
        a, b, stream = card.memory(size), card.memory(size), card.stream()
        card.driver.memset_d8(int(a), 7, size)

        def record() -> None:
            for _ in range(10):
                card.driver.memcpy_dtod_async(int(b), int(a), size, stream)

        seconds = timed(card, Graph(stream.handle, record), stream) / 10
        a.free()
        b.free()
    return 2 * size / seconds / 1e9


def timed(card: Gpu, graph: Graph, stream: Any) -> float:
    """Median of 15 launches, in seconds between two GPU events."""
    start, end, elapsed = card.event(), card.event(), []
    for _ in range(18):
        graph.launch()  # so that the GPU is busy when timing starts
        start.record(stream)
        graph.launch()
        end.record(stream)
        end.synchronize()
        elapsed.append(start.time_till(end) / 1e3)
    return float(np.median(elapsed[3:]))


def place_of(size: tuple[int, int], kind: Pixels, target: tuple[int, int] = SIZE) -> Place:
    box = Letterbox.fit(size, target, "centre")
    return Place(kind, *size, box.top, box.left, box.height, box.width)


def moved(place: Place, dtype: str) -> dict[str, int]:
    """Bytes that one frame has to move: every 32-byte sector with at least one needed byte, and the output."""
    needed_rows = rows_read(place)
    pixels = used(taps(place.frame_width, place.width, True), place.frame_width)
    if place.pixels in ("bgr", "rgb"):
        bytes_of = (3 * pixels[:, None] + np.arange(3)).ravel()
    elif place.pixels == "yuyv":
        bytes_of = np.concatenate([2 * pixels, 4 * (pixels // 2) + 1, 4 * (pixels // 2) + 3])
    else:
        bytes_of = pixels
    read = len(needed_rows) * len(np.unique(bytes_of // SECTOR)) * SECTOR
    if place.pixels == "nv12":
        read += len(np.unique(needed_rows // 2)) * len(np.unique((pixels // 2 * 2) // SECTOR)) * SECTOR
    return {"read": read, "written": 3 * SIZE[0] * SIZE[1] * BYTES[dtype]}


def rows_read(place: Place) -> NDArray[Any]:
    return used(taps(place.frame_height, place.height, False), place.frame_height)


def used(values: NDArray[Any], limit: int) -> NDArray[Any]:
    """Positions with a nonzero weight."""
    first, second = values["at"][values["near"] > 0], values["at"][values["far"] > 0] + 1
    positions: NDArray[Any] = np.unique(np.clip(np.concatenate([first, second]), 0, limit - 1))
    return positions


class Case:
    """Launches the kernel on eight frames, cycling through several sets of frames so that none is in the cache."""

    def __init__(self, card: Gpu, use: Kernels, size: tuple[int, int], kind: Pixels, dtype: str, rows: int) -> None:
        self._card, self._use, self._name, self._rows = card, use, f"letterbox_{dtype}", rows
        self.place, self.dtype = place_of(size, kind), dtype
        wide = {"bgr": 3, "rgb": 3, "nv12": 1.5, "yuyv": 2}[kind]
        self._frame = int(size[0] * size[1] * wide)
        self._blocks: list[Any] = []
        self._stream = card.stream()
        images, all_taps = np.zeros(IMAGES, IMAGE), np.zeros(BATCH * sum(SIZE), TAP)
        end = 0
        for i in range(BATCH):
            end = image_of(self.place, images[i], end, all_taps)
        self._input, self._taps = self._settled(input_of(InputSpec(size=SIZE))), self._settled(all_taps)
        noise = np.random.default_rng(0).integers(0, 256, self._frame, np.uint8)
        self._images = []
        for _ in range(SETS):
            for i in range(BATCH):
                images["data"][i] = self._settled(noise)
            self._images.append(images.copy())
        card.driver.Context.synchronize()
        self._outs = [self._memory(moved(self.place, dtype)["written"] * BATCH) for _ in range(SETS)]

    def seconds(self) -> float:
        elapsed = timed(self._card, Graph(self._stream.handle, self._record), self._stream) / REPEATS
        for block in self._blocks:
            block.free()
        return elapsed

    def _record(self) -> None:
        grid = (-(-SIZE[1] // 32), -(-SIZE[0] // (8 * self._rows)), BATCH)
        for i in range(REPEATS):
            image, out = self._images[i % SETS], self._outs[i % SETS]
            pointers: list[int | NDArray[Any]] = [self._input, image, self._taps, out]
            Launch(self._use, self._name, grid, (32, 8, 1), pointers)(self._stream.handle)

    def _settled(self, values: NDArray[Any]) -> int:
        at = self._memory(values.nbytes)
        self._card.driver.memcpy_htod(at, values)
        return at

    def _memory(self, size: int) -> int:
        self._blocks.append(self._card.memory(size))
        return int(self._blocks[-1])


def kernel(work: Path) -> dict[str, Any]:
    """Microseconds and share of the copy bandwidth by size, kind and output; and by pixel rows per thread."""
    card, report = gpu(), {}
    peak = bandwidth(card)
    cases: list[tuple[tuple[int, int], Pixels, str, int]] = [
        ((2160, 3840), "bgr", dtype, ROWS) for dtype in ("float32", "float16", "uint8")
    ]
    cases += [((2160, 3840), "nv12", "float16", ROWS), ((1080, 1920), "bgr", "float16", ROWS)]
    cases += [((2160, 3840), "yuyv", "float16", ROWS), ((640, 640), "bgr", "float16", ROWS)]
    cases += [((2160, 3840), "bgr", "float16", rows) for rows in {1, 2, 4} - {ROWS}]
    with card:
        variants = {ROWS: kernels(card)}
        for rows in {1, 2, 4} - {ROWS}:
            cubin, _ = compiled(card.sm, work / f"rows{rows}.cubin", [f"-DROWS={rows}"])
            variants[rows] = Kernels(cubin)
        for size, kind, dtype, rows in cases:
            case = Case(card, variants[rows], size, kind, dtype, rows)
            seconds = case.seconds()
            each = moved(case.place, dtype)
            total = BATCH * (each["read"] + each["written"])
            name = f"8 x {size[1]}x{size[0]} {kind} to {dtype}" + (f", {rows} rows a thread" if rows != ROWS else "")
            report[name] = {
                "microseconds": round(1e6 * seconds, 2),
                "bytes_read": BATCH * each["read"],
                "bytes_written": BATCH * each["written"],
                "gb_a_second": round(total / seconds / 1e9, 1),
                "of_copy_bandwidth": round(total / seconds / 1e9 / peak, 3),
            }
    return {"copy_gb_a_second": round(peak, 1), "cases": report}

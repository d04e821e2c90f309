"""INT8 ranges for TensorRT 8.5 to 10: from a table, or measured by TensorRT on the GPU.

Releases from 11 on have no calibrators; INT8 needs Q/DQ nodes there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.tensorrt.log import BuildLog
from edgesparse.errors import CalibrationError

Images = NDArray[np.float32]


def from_table(trt: Any, path: Path) -> Any:
    """A calibrator that returns the scales of a table and never runs the network.

    Tensors missing from the table stay in higher precision. Raises CalibrationError for a file that is not a table.
    """
    table = for_release(_read(path), trt.__version__)

    class FromTable(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return table

        def write_calibration_cache(self, cache: Any) -> None:
            return None

    return FromTable()


def on_gpu(
    trt: Any, images: Path, shape: tuple[int, ...], keep: Path, log: BuildLog, advance: Callable[[int, int], None]
) -> Any:
    """TensorRT's own entropy calibration on images, through one device buffer that is allocated here.

    `images`: a .npy of N x 3 x H x W float32, read batch by batch; `shape`: the network's input, B x 3 x H x W. An
    incomplete last batch is left out. `keep`: the path for the resulting table. `advance(done, total)` counts images.
    Raises CalibrationError for images that do not fit.
    """
    batches = _Batches(_images(images, shape), shape, log, advance)

    class OnGpu(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return shape[0]

        def get_batch(self, names: list[str]) -> list[int] | None:
            return batches.next()

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            try:
                keep.write_bytes(bytes(cache))
            except OSError as error:
                log.take("WARNING", f"cannot write the calibration table {keep}: {error.strerror}")

    return OnGpu()


def for_release(table: bytes, version: str) -> bytes:
    """The table with this release's own header: `TRT-8503-EntropyCalibration2` for 8.5.3.

    Scales mean the same in every release and algorithm, but TensorRT reads only tables with its own header.
    """
    numbers = [int(part) for part in version.split(".")[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    number = (1000 if major < 10 else 10000) * major + 100 * minor + patch
    _, _, rows = table.partition(b"\n")
    return f"TRT-{number}-EntropyCalibration2\n".encode() + rows


def _read(path: Path) -> bytes:
    try:
        table = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration table {path}: {error.strerror}") from None
    head, _, rows = table.partition(b"\n")
    if not head.startswith(b"TRT-") or b": " not in rows:
        raise CalibrationError(
            f"{path} is not a calibration table: needed 'TRT-<version>-EntropyCalibration2' and 'tensor: scale' rows; "
            "write one with 'edgesparse quantize'"
        )
    return table


def _images(path: Path, shape: tuple[int, ...]) -> Images:
    try:
        stored: Images = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise CalibrationError(f"cannot read the calibration images {path}: {error}") from None
    if stored.dtype != np.float32 or stored.shape[1:] != shape[1:] or len(stored) < shape[0]:
        actual = "x".join(map(str, stored.shape))
        expected = "x".join(map(str, shape[1:]))
        raise CalibrationError(
            f"{path}: found {actual} {stored.dtype}, needed Nx{expected} float32 with at least {shape[0]} images"
        )
    return stored


class _Batches:
    """Images on the device, batch by batch: one buffer in page-locked memory, one in device memory."""

    def __init__(
        self, stored: Images, shape: tuple[int, ...], log: BuildLog, advance: Callable[[int, int], None]
    ) -> None:
        self._stored, self._log, self._advance = stored, log, advance
        self._size, self._total, self._done = shape[0], len(stored) // shape[0] * shape[0], 0
        self._gpu = gpu()
        with self._gpu.errors_of("allocating buffers for the calibration"):
            self._host = self._gpu.host(shape, "float32")
            self._memory = self._gpu.memory(self._host.nbytes)

    def next(self) -> list[int] | None:
        """The device address of the next batch; None after the last one or an error."""
        if self._done >= self._total or self._log.stopped is not None:
            return None
        try:
            np.copyto(self._host, self._stored[self._done : self._done + self._size])
            with self._gpu.errors_of("calibrating"):
                self._gpu.driver.memcpy_htod(self._memory, self._host)
            self._done += self._size
            self._advance(self._done, self._total)
        except BaseException as error:  # an exception in the library would end the process
            self._log.stopped = error
            return None
        return [int(self._memory)]

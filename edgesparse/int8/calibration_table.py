"""TensorRT's calibration table: the text file that its INT8 calibrators read and write.

The first line is `TRT-<version>-<algorithm>`, each other line `<tensor>: <scale>`. The scale, the largest magnitude
divided by 127, is a float32 in big-endian hex without leading zeros. Tensor names are those of the ONNX file.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from edgesparse.errors import CalibrationError

ALGORITHMS = ("EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration", "LegacyCalibration")
UNNAMED = "(Unnamed Layer*"
"""Prefix of TensorRT's names for its own constants; no tensor of the ONNX file has it."""


@dataclass(frozen=True)
class Table:
    """`scales`: tensor name -> float32 scale. `version`: (major, minor, patch) of the TensorRT that wrote it."""

    version: tuple[int, int, int]
    algorithm: str
    scales: Mapping[str, float]


def write(
    scales: Mapping[str, float],
    version: tuple[int, int, int] = (8, 5, 3),
    algorithm: str = "EntropyCalibration2",
) -> bytes:
    """Write the table as this version of TensorRT does. Raises CalibrationError for scales or names it cannot hold.

    TensorRT accepts a table only for the calibrator whose `algorithm` it names.
    """
    if algorithm not in ALGORITHMS:
        raise CalibrationError(f"no calibration algorithm {algorithm!r}: TensorRT knows {', '.join(ALGORITHMS)}")
    lines = [f"TRT-{_number(version)}-{algorithm}"]
    for name, scale in scales.items():
        if not name or "\n" in name or "\r" in name:
            raise CalibrationError(f"a calibration table cannot hold the tensor name {name!r}: rename the tensor")
        lines.append(f"{name}: {_hex(name, scale)}")
    return ("\n".join(lines) + "\n").encode()


def read(data: bytes) -> Table:
    """Read the table in `data`, without TensorRT's unnamed constants and without tensors of scale 0, which have no
    range.

    Raises CalibrationError, with the line, if it is not a table or is damaged.
    """
    lines = [line.rstrip("\r") for line in _text(data).split("\n")]
    head = re.fullmatch(r"TRT-(\d{1,9})-(\w+)", lines[0], re.ASCII)
    if head is None:
        raise CalibrationError(
            "not a TensorRT calibration table (no TRT-VERSION-ALGORITHM in line 1): pass one that a calibrator wrote"
        )
    if head[2] not in ALGORITHMS:
        name = head[2][:40]
        raise CalibrationError(f"calibration table of algorithm {name!r}: TensorRT knows {', '.join(ALGORITHMS)}")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        name, _, digits = line.rpartition(": ")
        if not line or name.startswith(UNNAMED):
            continue
        if not name or not re.fullmatch(r"[0-9a-fA-F]{1,8}", digits):
            raise CalibrationError(
                f"calibration table, line {number} is not 'TENSOR: HEX': {line[:60]!r}; write it again"
            )
        if scale := _scale(digits, number):
            scales[name] = scale
    return Table(_version(int(head[1])), head[2], scales)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CalibrationError(
            "not a TensorRT calibration table (not text): pass one that a calibrator wrote"
        ) from None


def _number(version: tuple[int, int, int]) -> int:
    """Format the version as in a table: 8.5.3 is 8503, 10.3.0 is 100300."""
    major, minor, patch = version
    return major * (10000 if major >= 10 else 1000) + minor * 100 + patch


def _version(number: int) -> tuple[int, int, int]:
    unit = 10000 if number >= 100000 else 1000
    return number // unit, number % unit // 100, number % 100


def _hex(name: str, scale: float) -> str:
    try:
        digits = f"{int.from_bytes(struct.pack('!f', scale), 'big'):x}"
    except OverflowError:
        digits = "7f800000"
    if not 0 < int(digits, 16) < 0x7F800000:
        raise CalibrationError(f"{name}: the scale {scale} is not a float32 above 0: calibrate again")
    return digits


def _scale(digits: str, line: int) -> float:
    value = float(struct.unpack("!f", bytes.fromhex(digits.zfill(8)))[0])
    if not (math.isfinite(value) and value >= 0):
        raise CalibrationError(f"calibration table, line {line}: the scale {value} is not a range; calibrate again")
    return value

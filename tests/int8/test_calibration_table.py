"""Writing and reading TensorRT's calibration table."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.errors import CalibrationError
from edgesparse.int8.calibration_table import ALGORITHMS, Table, read, write

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1).filter(
    lambda name: not name.startswith("(Unnamed Layer*")
)
SCALES = st.floats(float(np.float32(1e-45)), float(np.finfo(np.float32).max), width=32)

WRITTEN_BY_TENSORRT = b"""TRT-8503-EntropyCalibration2
images: 3c010a14
model.0/act: out: 3d8e24b1
(Unnamed Layer* 12) [Constant]_output: 3c010a14
(Unnamed Layer* 13) [Shuffle]: weird: 0
model.1/tiny: 2a
model.2/zero: 0
output0: 40a00000
"""


def test_a_table_that_tensorrt_wrote_is_read() -> None:
    table = read(WRITTEN_BY_TENSORRT)
    assert (table.version, table.algorithm) == ((8, 5, 3), "EntropyCalibration2")
    assert list(table.scales) == ["images", "model.0/act: out", "model.1/tiny", "output0"]
    assert table.scales["images"] == pytest.approx(0.0078759, rel=1e-4)
    assert table.scales["model.1/tiny"] == struct.unpack("!f", bytes.fromhex("0000002a"))[0]
    assert table.scales["output0"] == 5


def test_written_as_tensorrt_writes_it() -> None:
    scales = {"images": struct.unpack("!f", bytes.fromhex("3c010a14"))[0], "a: b": 1.0, "tiny": 42 * 2.0**-149}
    expected = b"TRT-8602-MinMaxCalibration\nimages: 3c010a14\na: b: 3f800000\ntiny: 2a\n"
    assert write(scales, (8, 6, 2), "MinMaxCalibration") == expected


@pytest.mark.parametrize(
    "version, number",
    [((7, 1, 3), 7103), ((8, 5, 2), 8502), ((8, 6, 2), 8602), ((10, 3, 0), 100300), ((10, 13, 3), 101303)],
)
def test_both_numberings_of_releases(version: tuple[int, int, int], number: int) -> None:
    written = write({"x": 1.0}, version)
    assert written.startswith(f"TRT-{number}-".encode())
    assert read(written).version == version


@given(st.dictionaries(NAMES, SCALES), st.sampled_from([(8, 5, 3), (10, 3, 0)]), st.sampled_from(ALGORITHMS))
def test_scales_return_byte_for_byte(scales: dict[str, float], version: tuple[int, int, int], algorithm: str) -> None:
    written = write(scales, version, algorithm)
    result = read(written)
    assert result == Table(version, algorithm, scales)
    assert list(result.scales) == list(scales)
    assert write(result.scales, result.version, result.algorithm) == written


def test_windows_line_ends_and_a_missing_last_one_are_read() -> None:
    assert read(WRITTEN_BY_TENSORRT.replace(b"\n", b"\r\n")) == read(WRITTEN_BY_TENSORRT)
    assert read(WRITTEN_BY_TENSORRT.rstrip()) == read(WRITTEN_BY_TENSORRT)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "TRT-VERSION-ALGORITHM"),
        (b"images: 3c010a14\n", "TRT-VERSION-ALGORITHM"),
        (b"\x89PNG\xff\xfe", "not text"),
        (b"TRT-8503-MagicCalibration\nx: 3c010a14\n", "MagicCalibration.*EntropyCalibration2"),
        (b"TRT-8503-EntropyCalibration2\nimages 3c010a14\n", "line 2.*TENSOR: HEX"),
        (b"TRT-8503-EntropyCalibration2\nimages: 3c010a1\nb: 3c010a14f\n", "line 3"),
        (b"TRT-8503-EntropyCalibration2\nimages: 0.5\n", "line 2"),
        (b"TRT-8503-EntropyCalibration2\nimages: 7f800000\n", "line 2.*inf"),
        (b"TRT-8503-EntropyCalibration2\nimages: bf800000\n", "line 2.*-1.0"),
        (b"TRT-" + b"9" * 5000 + b"-EntropyCalibration2\n", "TRT-VERSION-ALGORITHM"),
        ("TRT-\u0661-EntropyCalibration2\n".encode(), "TRT-VERSION-ALGORITHM"),
    ],
)
def test_files_that_are_not_tables_are_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(CalibrationError, match=says) as refused:
        read(data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e39, 1e-60])
def test_an_invalid_scale_is_not_written(scale: float) -> None:
    with pytest.raises(CalibrationError, match="conv1"):
        write({"conv1": scale})


def test_names_and_algorithms_that_a_table_cannot_hold() -> None:
    with pytest.raises(CalibrationError, match="name"):
        write({"a\nb": 1.0})
    with pytest.raises(CalibrationError, match="EntropyCalibration2"):
        write({"a": 1.0}, algorithm="Entropy")

"""The slice's times compared with those published for real Orins."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.orin_slice import published

ROWS = [
    {
        "network": "YOLOv8n-shaped silu batch 1 fp16+int8",
        "sms": 8,
        "clocks": {"clocks.sm": "2040 MHz"},
        "engines": {"int8": {"us": 1000.0}, "fp16": {"failed": "took longer than the limit"}},
    },
    {"network": "YOLOv8n-shaped relu batch 1 int8", "sms": 8, "clocks": {}, "engines": {"int8": {"us": 1.0}}},
]


def test_times_are_scaled_by_clock_to_boards_of_as_many_multiprocessors(tmp_path: Path) -> None:
    (pair,) = published.pairs(ROWS, tmp_path)
    assert (pair.network, pair.precision, pair.board) == ("yolov8n", "int8", "orin-nano-8gb:MAXN_SUPER")
    assert pair.slice_ms == pytest.approx(2.0), "an Orin Nano's GPU runs at 1020 MHz there, half of the slice's clock"
    assert pair.error == pytest.approx(2.0 / pair.published_ms - 1)


def test_the_plot_has_a_point_per_network(tmp_path: Path) -> None:
    root = ET.fromstring(published.plot(list(published.pairs(ROWS, tmp_path))))
    assert len(root.findall(".//{*}circle")) == 1

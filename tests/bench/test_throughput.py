"""Throughput of a board: parallel streams, and the number of cameras that measured times allow."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.backends import backend
from edgesparse.bench.cameras import Demand, carries, most_cameras
from edgesparse.bench.page import _step, page
from edgesparse.bench.throughput import Load, run_busy, summary
from edgesparse.errors import BuildError

PLAN = {"inputs": [["images", [1, 3, 8, 8], "float32"]], "outputs": [["boxes", [1, 4], "float32"]]}
LONG = Demand(fps=30, max_age_ms=10_000)


def null(folder: Path, **plan: float) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({**PLAN, **plan}))
    return path


def test_streams_run_in_parallel(tmp_path: Path) -> None:
    target, plan = backend("null"), null(tmp_path, seconds=0.01)
    times, rate = run_busy([target.load(plan) for _ in range(4)], 0.1)
    assert len(times) >= 4 * 5 and times.min() >= 0.01
    assert rate > 1.5 / times.mean(), "four that sleep in parallel do more than one"


def test_an_engine_that_fails_ends_all_streams(tmp_path: Path) -> None:
    target = backend("null")
    good, bad = target.load(null(tmp_path)), target.load(null(tmp_path, fail_at=1))
    with pytest.raises(BuildError, match="inference 1 failed"):
        run_busy([good, bad], 5)


@given(st.floats(0.0005, 0.03))
def test_one_stream_carries_as_many_as_fit_into_a_period(seconds: float) -> None:
    most = int((1 - 1e-9) / 30 / seconds)
    assert most_cameras(np.array([seconds]), 1, 1, LONG, most) == most
    assert not carries(np.array([seconds]), 1, 1, LONG, int(1.2 * most) + 2)


@given(st.floats(0.001, 0.05), st.integers(1, 4), st.integers(1, 3), st.integers(1, 30))
def test_more_streams_a_larger_batch_or_more_patience_never_carry_less(
    seconds: float, batch: int, streams: int, count: int
) -> None:
    times = np.array([seconds])
    if carries(times, batch, streams, Demand(30, 80), count):
        assert carries(times, batch + 1, streams, Demand(30, 80), count)
        assert carries(times, batch, streams + 1, Demand(30, 80), count)
        assert carries(times, batch, streams, Demand(30, 200), count)


def test_the_age_counts_as_much_as_the_rate() -> None:
    slow = np.array([0.09])
    assert most_cameras(slow, 8, 4, Demand(30, 100), 100) > 0 == most_cameras(slow, 8, 4, Demand(30, 80), 100)
    sometimes_slow = np.r_[np.full(96, 0.005), np.full(4, 0.3)]
    assert (
        most_cameras(sometimes_slow, 1, 1, Demand(1, 100), 100)
        == 0
        < most_cameras(sometimes_slow[:96], 1, 1, Demand(1, 100), 100)
    )


def load(candidate: str, fps: float, carried: int) -> Load:
    return Load(candidate, 4, 2, fps, 1.0, 2.0, 3.0, carried)


def test_the_summary_compares_dense_with_sparse() -> None:
    loads = [load("fp16", 480, 16), load("fp16-2:4", 750, 25), load("int8-qdq", 470, 15)]
    assert summary(loads, Demand()) == (
        "At 30 frames per second and an age of at most 100 ms: 16 cameras dense (fp16, batch 4, 2 streams: 480 frames "
        "per second), 25 cameras 2:4 (fp16-2:4, batch 4, 2 streams: 750 frames per second), 1.56 times the frames"
    )
    assert "2:4" not in summary(loads[:1], Demand())


def test_the_page_has_every_engine_and_no_external_content() -> None:
    text = page("a <b> & c", "a board", "in words", [load("fp16", 480, 16), load("fp16-2:4", 750, 25)])
    assert "a &lt;b&gt; &amp; c" in text and text.count("<circle") == 2 and text.count("<polyline") == 2
    assert 'class="sparse"' in text and "http" not in text and "750.0" in text
    assert "<svg" in page("nothing", "", "", [])


@given(st.lists(st.floats(1, 1e5), min_size=2, max_size=8))
def test_names_beside_the_plot_do_not_cover_each_other(rates: list[float]) -> None:
    text = page("", "", "", [load(f"c{i}", rate, 1) for i, rate in enumerate(rates)])
    lines = sorted(float(y) for y in re.findall(r'class="name" x="[^"]+" y="([^"]+)"', text))
    assert len(lines) == len(rates) and all(b - a > 13.9 for a, b in itertools.pairwise(lines))


@given(st.floats(1e-6, 1e9))
def test_the_axis_ends_slightly_above_the_largest_value(most: float) -> None:
    assert most < 5 * _step(most) < 3 * most

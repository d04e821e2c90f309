"""Images that come from no camera: where they go beside cameras, and that none of them costs a frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import Collect, black_frames, loop_of, make_detector, record_calls

from edgesparse.errors import BuildError
from edgesparse.runtime.detector import Detector
from edgesparse.stream import pipeline
from edgesparse.stream.arrivals import FAR, Arrivals
from edgesparse.stream.frames import Frame
from edgesparse.stream.in_flight import STARVED_NS
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.requests import Requests

IMAGE = np.zeros((48, 64, 3), np.uint8)
LATER = time.monotonic_ns() + 3_600_000_000_000


def batched(folder: Path, batch: int, **plan: Any) -> Detector:
    boxes = [[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 0], [40, 0, 50, 10, 0.7, 2], [0] * 6]
    shapes: dict[str, Any] = {
        "inputs": [["images", [batch, 3, 64, 64], "float32"]],
        "outputs": [["output0", [batch, 4, 6], "float32"]],
    }
    return make_detector(folder, **shapes, values={"output0": [boxes] * batch}, **plan)


@contextmanager
def running(loop: Loop) -> Iterator[None]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        loop._stop.set()
        thread.join(60)
        assert not thread.is_alive()


def offered(loop: Loop, count: int, image: Any = IMAGE, deadline: int = LATER) -> list[Any]:
    requests = loop.requests.offer([image] * count, deadline)
    assert requests is not None
    return [request.detections for request in requests]


def test_requests_fill_the_places_that_cameras_leave_only_if_there_is_no_gap(tmp_path: Path) -> None:
    detector, sink = batched(tmp_path, 4), Collect()
    calls = record_calls(detector)
    loop = loop_of(black_frames(), detector, [sink])
    results = offered(loop, 5)
    loop.run(3)
    assert loop.requests.answered == 3 and len(loop.requests) == 2, "three with the first frame"
    loop._in_flight._requests_ns -= STARVED_NS
    assert loop.run(1).frames == 4 and not loop.requests
    assert [len(result.result(0)) for result in results] == [3] * 5
    assert calls == ["S0", "C0", "S1", "C1", "S2", "C2", "S3", "C3"] and sink.counts == [3] * 4


def test_without_cameras_the_loop_waits_for_requests_and_batches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "UPDATE_NS", 2_000_000_000)
    detector = batched(tmp_path, 4)
    calls = record_calls(detector)
    loop = Loop([], detector, stop=threading.Event())
    results = offered(loop, 6)
    with running(loop):
        assert [len(result.result(60)) for result in results] == [3] * 6
        assert calls == ["S0", "C0", "S1", "C1"]
        began, before = time.monotonic(), time.process_time()
        assert len(offered(loop, 1)[0].result(60)) == 3 and time.monotonic() - began < 1.5, "it was woken"
        time.sleep(1)
        assert time.process_time() - before < 0.6, "it waits without work"


def test_without_a_frame_they_start_only_if_nothing_is_in_flight(tmp_path: Path) -> None:
    """So a frame that arrives waits for one batch of requests at most."""
    detector = make_detector(tmp_path, slots=2)
    camera, alone = loop_of(black_frames(), detector)._in_flight, Loop([], detector)._in_flight
    assert (camera.room(()), alone.room(())) == (1, 1)
    loop = Loop([], detector)
    camera.submit((), 0, loop.requests.offer([IMAGE], LATER) or ())
    camera._requests_ns = 0
    assert camera.room(()) == 0 and camera.room([None]) == 0  # type: ignore[list-item]
    camera.drop()
    alone.submit((), 0, loop.requests.offer([IMAGE], LATER) or ())
    assert alone.room(()) == 1, "without cameras, batches overlap"
    alone.drop()


def test_an_image_that_the_detector_refuses_costs_no_frame(tmp_path: Path) -> None:
    detector, sink = batched(tmp_path, 2), Collect()
    loop = loop_of(black_frames(), detector, [sink])
    refused, fine = offered(loop, 1, np.zeros((4, 4), np.uint8)), offered(loop, 1)
    loop.run(1)
    loop._in_flight._requests_ns -= STARVED_NS
    assert loop.run(2).frames == 3 and sink.counts == [3, 3, 3]
    assert "needed H x W x 3" in str(refused[0].exception(0)) and len(fine[0].result(0)) == 3


def test_an_image_that_the_detector_refuses_does_not_end_a_loop_without_cameras(tmp_path: Path) -> None:
    loop = Loop([], make_detector(tmp_path), stop=threading.Event())
    with running(loop):
        assert offered(loop, 1, np.zeros((4, 4), np.uint8))[0].exception(5) is not None
        assert len(offered(loop, 1)[0].result(60)) == 3


@pytest.mark.parametrize("slots", [0, 2])
def test_an_engine_that_fails_is_reported_to_the_loop_and_to_who_waits(tmp_path: Path, slots: int) -> None:
    loop = Loop([], make_detector(tmp_path, fail_at=0, slots=slots), stop=threading.Event())
    results = offered(loop, 1)
    with pytest.raises(BuildError, match="as planned"):
        loop.run()
    assert isinstance(results[0].exception(0), BuildError)


def test_an_exchange_of_engines_leaves_nobody_waiting(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, slots=2)
    loop = Loop([], detector)
    requests = loop.requests.offer([IMAGE] * 2, LATER) or ()
    for request in requests:
        loop._in_flight.submit((), 0, [request])
    loop._in_flight.collect()
    loop.drop()
    assert [str(request.detections.exception(0)) for request in requests] == ["the engine was exchanged"] * 2


def test_requests_beyond_the_bound_are_refused_whole() -> None:
    requests = Requests(threading.Event(), most=3)
    assert requests.offer([IMAGE] * 2, LATER) is not None
    assert requests.offer([IMAGE] * 2, LATER) is None and len(requests) == 2
    assert requests.offer([IMAGE], LATER) is not None


@given(st.lists(st.sampled_from(["waits", "late", "gone"]), max_size=12), st.integers(0, 5))
def test_only_what_somebody_still_waits_for_is_taken_in_order(kinds: list[str], most: int) -> None:
    requests = Requests(threading.Event())
    expected = []
    for kind in kinds:
        request = (requests.offer([IMAGE], 0 if kind == "late" else LATER) or [])[0]
        if kind == "gone":
            request.detections.cancel()
        expected += [request] if kind == "waits" else []
    assert requests.take(most) == expected[:most]
    assert requests.take(len(kinds)) == expected[most:] and not requests


def test_a_batch_alone_starts_only_if_it_ends_before_the_next_frame(tmp_path: Path) -> None:
    loop = loop_of(black_frames(), make_detector(tmp_path))
    flight, feed, now = loop._in_flight, loop.feeds[0], time.monotonic_ns()
    flight._requests_ns, flight._lasts_ns = now, 10_000_000
    feed._arrivals = Arrivals()
    for number in range(3):
        feed._arrivals.add(Frame(IMAGE, now + number * 33_000_000, number, "belt"))
    newest = now + 66_000_000
    assert flight._fits(newest + 22_000_000) and not flight._fits(newest + 24_000_000)
    assert not flight._fits(newest + 40_000_000), "the frame is late, and may come any moment"
    assert flight._fits(newest + 50_000_000), "it does not come"
    feed._arrivals.add(Frame(IMAGE, time.monotonic_ns() + 1_000_000_000, 4, "belt"))
    flight._requests_ns, flight._lasts_ns = time.monotonic_ns(), 10**12
    assert flight.room(()) == 0
    flight._requests_ns -= STARVED_NS
    assert flight.room(()) == 1, "cameras without gaps leave a little"


@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.integers(1_000_000, 500_000_000))
def test_the_next_frame_of_a_steady_camera_is_known_whatever_was_dropped(steps: list[int], interval: int) -> None:
    arrivals, index = Arrivals(), 0
    assert arrivals.expected_ns(5) == FAR
    for step in steps:
        index += step
        arrivals.add(Frame(IMAGE, 1_000_000_000 + index * interval, index, "belt"))
    expected = 1_000_000_000 + (index + 1) * interval
    assert abs(arrivals.expected_ns(expected) - expected) <= 1
    assert arrivals.expected_ns(expected, earliest_ns=expected + 7) == expected + 7
    assert arrivals.expected_ns(expected + interval) == FAR

"""Snapshots for the web page and for clips: encoded only on demand, never at the frame loop's expense."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from samples import NAMES, SECOND, sample_detections, sample_frame, wait_until

from edgesparse.service.snapshots import Snapshot, SnapshotEncoder, SnapshotSettings


@pytest.fixture
def snapshots() -> Iterator[SnapshotEncoder]:
    snapshots = SnapshotEncoder(SnapshotSettings(fps=10), NAMES)
    yield snapshots
    snapshots.close()


def test_nothing_is_copied_while_nobody_views_a_camera(snapshots: SnapshotEncoder) -> None:
    for step in range(20):
        snapshots.offer(sample_frame(step / 10), sample_detections(0))
    assert snapshots._copies._places == {} and snapshots.viewed == 0
    assert snapshots.view("door") is None and snapshots.viewed == 1


def test_boxes_are_drawn_on_a_scaled_snapshot(snapshots: SnapshotEncoder) -> None:
    snapshots.change(SnapshotSettings(width=64), NAMES)
    snapshots.offer(sample_frame(0), sample_detections(0))
    snapshots.view("door")
    for step in range(1, 8):
        snapshots.offer(sample_frame(step), sample_detections(0))
        time.sleep(0.05)
    wait_until(lambda: snapshots.view("door"))
    snapshot = snapshots.view("door")
    assert snapshot is not None and snapshot.detections == 1
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (48, 64, 3)
    assert np.abs(image[30].astype(int) - 90).max() > 60, "the sides of a box"


def test_a_frame_of_another_size_gets_a_new_buffer(snapshots: SnapshotEncoder) -> None:
    snapshots.offer(sample_frame(0), sample_detections())
    snapshots.view("door")
    for shape in ((96, 128), (48, 64), (200, 300)):
        wait_until(lambda shape=shape: encoded(snapshots, shape))  # type: ignore[misc]


def encoded(snapshots: SnapshotEncoder, shape: tuple[int, int]) -> bool:
    """Offer a frame of this shape. Returns whether the newest snapshot has it."""
    snapshots.offer(sample_frame(time.monotonic(), shape=shape), sample_detections())
    snapshot = snapshots.view("door")
    if snapshot is None:
        return False
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return image is not None and image.shape[:2] == shape


def test_the_frame_loop_never_waits_for_the_encoder(snapshots: SnapshotEncoder) -> None:
    snapshots.offer(sample_frame(0), sample_detections())
    snapshots.view("door")
    wait_until(lambda: encoded(snapshots, (96, 128)))
    place = snapshots._copies._places["door"]
    wait_until(lambda: place.frame is None)
    with place.lock:  # as if the encoder held it for a long time
        snapshots.offer(sample_frame(time.monotonic() + 1), sample_detections())
        assert place.frame is None


def test_viewing_allocates_nothing_in_the_frame_loop() -> None:
    """Except for one buffer when viewing begins; the encoder thread is stopped here."""
    snapshots = SnapshotEncoder(SnapshotSettings(fps=10), NAMES)
    snapshots.offer(sample_frame(0, shape=(540, 960)), sample_detections(0))
    snapshots.view("door")
    wait_until(lambda: encoded(snapshots, (540, 960)))
    snapshots.close()
    place = snapshots._copies._places["door"]
    frame, detections = sample_frame(time.monotonic(), shape=(540, 960)), sample_detections(0)
    tracemalloc.start()
    for _ in range(50):
        frame.time_ns += SECOND
        snapshots.view("door")
        place.frame = None  # as if it had been encoded
        snapshots.offer(frame, detections)
        assert place.frame is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


def test_a_requested_snapshot_is_encoded_once_though_nobody_views(snapshots: SnapshotEncoder) -> None:
    taken: list[Snapshot] = []
    snapshots.listeners = (lambda camera, snapshot: taken.append(snapshot),)
    snapshots.request("door")
    wait_until(lambda: snapshots.offer(sample_frame(1), sample_detections(0)) or taken)
    for step in range(2, 12):
        snapshots.offer(sample_frame(step), sample_detections(0))
    time.sleep(0.05)
    assert [(snapshot.requested, snapshot.detections) for snapshot in taken] == [(True, 1)]


def test_a_request_outlasts_low_memory_that_freed_all(snapshots: SnapshotEncoder) -> None:
    taken: list[Snapshot] = []
    snapshots.listeners = (lambda camera, snapshot: taken.append(snapshot),)
    snapshots.request("door")

    def offered(count: int) -> bool:
        snapshots.offer(sample_frame(1), sample_detections(0))
        return len(taken) == count

    wait_until(lambda: offered(1))
    snapshots.free()
    snapshots.request("door")
    snapshots.paused = True
    assert not offered(2)
    snapshots.paused = False
    wait_until(lambda: offered(2))
    assert taken[1].requested

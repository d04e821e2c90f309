"""Objects keep their number while they move, hide and cross; each camera counts separately."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pipeline import yolox

from edgesparse.config import Camera, Run
from edgesparse.runtime.detections import Detections
from edgesparse.stream.cameras import Feed, track
from edgesparse.stream.sources.memory import MemorySource
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.tracks import Seen, Tracks, _measure, follow


def detections(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 40 x 60 at x, y, of one class."""
    boxes = np.array([[x, y, x + 40, y + 60] for x, y, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(rows), 0.9, np.float32), np.array([row[2] for row in rows], np.int64))


def numbers(tracks: Tracks, *rows: tuple[float, float, int]) -> list[int]:
    tracked = follow([Seen(tracks, detections(*rows))])[0].track_id
    assert tracked is not None and tracked.dtype == np.int64 and len(tracked) == len(rows)
    return tracked.tolist()


def test_objects_that_move_keep_their_number() -> None:
    tracks = Tracks()
    assert numbers(tracks, (10, 10, 0), (300, 10, 0)) == [-1, -1]
    for step in range(1, 30):
        assert numbers(tracks, (10 + 5 * step, 10, 0), (300 - 5 * step, 200, 0))[0] == 1


def test_the_order_of_the_boxes_does_not_matter() -> None:
    tracks = Tracks()
    for _ in range(3):
        first = numbers(tracks, (10, 10, 0), (300, 10, 0))
    assert numbers(tracks, (300, 10, 0), (10, 10, 0)) == first[::-1]


def test_objects_of_different_classes_that_cross_do_not_change_their_numbers() -> None:
    tracks = Tracks()
    for step in range(40):
        tracked = numbers(tracks, (10 + 5 * step, 10, 0), (210 - 5 * step, 12, 1))
    assert sorted(tracked) == [1, 2] and tracked == numbers(tracks, (10 + 5 * 40, 10, 0), (10, 12, 1))


def test_an_object_that_hides_for_a_while_keeps_its_number_and_one_that_is_long_gone_does_not() -> None:
    tracks = Tracks()
    for _ in range(3):
        numbers(tracks, (10, 10, 0))
    for _ in range(10):
        numbers(tracks)
    assert [numbers(tracks, (10, 10, 0)) for _ in range(2)][-1] == [1]
    for _ in range(40):
        numbers(tracks)
    assert [numbers(tracks, (10, 10, 0)) for _ in range(2)][-1] == [2]


def test_what_is_remembered_does_not_grow() -> None:
    tracks = Tracks()
    for step in range(300):
        numbers(
            tracks, (100 * (step % 50), 100 * (step // 50), step % 3), (100 * (step % 50), 100 * (step // 50), step % 3)
        )
    for _ in range(40):
        numbers(tracks)
    assert len(tracks) == 0


def test_objects_of_one_class_that_cross_keep_their_direction() -> None:
    """Half a box apart vertically: where they overlap, the prediction distinguishes them."""
    tracks = Tracks()
    for step in range(40):
        latest = numbers(tracks, (10 + 5 * step, 10, 0), (210 - 5 * step, 40, 0))
        if step == 5:
            early = latest
    assert latest == early == [1, 2]


def test_speed_is_learned_so_a_hidden_object_is_expected_further_on() -> None:
    tracks = Tracks()
    for step in range(20):
        numbers(tracks, (10 + 8 * step, 10, 0))
    for _ in range(10):
        numbers(tracks)
    assert numbers(tracks, (10 + 8 * 30, 10, 0)) == [1]


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.integers(0, 2)), max_size=8), max_size=20
    )
)
def test_a_number_is_given_once_per_frame_and_belongs_to_one_class(
    frames: list[list[tuple[float, float, int]]],
) -> None:
    tracks, classes = Tracks(), dict[int, int]()
    for rows in frames:
        ids = [number for number in numbers(tracks, *rows) if number >= 0]
        assert len(ids) == len(set(ids))
        for (_, _, class_id), number in zip(rows, numbers(tracks, *rows), strict=True):
            assert number < 0 or classes.setdefault(number, class_id) == class_id


def test_cameras_count_for_themselves_and_go_on_counting_when_they_change() -> None:
    run = Run(cameras=(Camera(name="a", source="0"), Camera(name="b", source="1")), tracking=True)
    images = MemorySource([np.zeros((480, 640, 3), np.uint8)], "memory")
    feeds = [Feed(camera, images, run, ("thing",)) for camera in run.cameras]
    for _ in range(2):
        seen = [each.track_id for each in track(feeds, [detections((10, 10, 0))] * 2)]
    assert [ids.tolist() for ids in seen if ids is not None] == [[1], [1]]
    changed = Feed(run.cameras[0], images, run, ("thing",), feeds[0])
    (followed,) = track([changed], [detections((300, 300, 0), (10, 10, 0))])
    assert followed.track_id is not None and followed.track_id.tolist() == [-1, 1]


def test_people_in_a_real_video_keep_their_numbers(real: Path, tmp_path: Path) -> None:
    """Numbers rarely jump between two frames: a number stays with the box that it overlaps."""
    tracks, seen = Tracks(), []
    with yolox(real, tmp_path, Run(conf=0.5, classes=("person",))) as detector:
        with open_source(real / "video" / "one-by-one-person-detection.mp4") as source:
            for frame in source:
                seen += follow([Seen(tracks, detector(frame.image))])
                if frame.index == 250:
                    break
    count = Counter(int(n) for tracked in seen if tracked.track_id is not None for n in tracked.track_id if n >= 0)
    assert count and len(count) <= 12, count
    assert max(count.values()) >= 30, "somebody is followed over three seconds"
    jumps = moves = 0
    for before, after in pairwise(seen):
        assert before.track_id is not None and after.track_id is not None
        for number, box in zip(after.track_id, after.xyxy, strict=True):
            for old in before.xyxy[before.track_id == number] if number >= 0 else ():
                moves += 1
                jumps += bool(np.abs((box[:2] + box[2:]) - (old[:2] + old[2:])).max() / 2 > 80)
    assert moves > 50 and jumps <= 0.02 * moves


STEP = np.eye(7) + np.eye(7, k=4)
NOISE, ERROR = np.diag([1, 1, 1, 1, 1e-2, 1e-2, 1e-4]), np.diag([1.0, 1, 10, 10])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.booleans()), min_size=3, max_size=30))
def test_the_filter_is_kalmans_with_whole_matrices(path: list[tuple[float, float, bool]]) -> None:
    tracks, state = Tracks(), np.zeros(7)
    covariance = np.diag([10.0, 10, 10, 10, 1e4, 1e4, 1e4])
    for number, (x, y, seen) in enumerate(path):
        box = (100 + x / 10, 100 + y / 10, 0)
        numbers(tracks, *([box] if seen or number == 0 else []))
        measured = _measure(detections(box).xyxy)[0][:, 0]
        if number == 0:
            state[:4] = measured
            continue
        state[6] *= state[2] + state[6] > 0
        state, covariance = STEP @ state, STEP @ covariance @ STEP.T + NOISE
        if seen:
            gain = covariance[:, :4] @ np.linalg.inv(covariance[:4, :4] + ERROR)
            state, covariance = state + gain @ (measured - state[:4]), covariance - gain @ covariance[:4]
        np.testing.assert_allclose(tracks.table[:7, 0], state, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(tracks.table[7:14, 0], np.diag(covariance), rtol=1e-9)

"""Counting: crossings and stays of tracked objects, from boxes through the tracker to counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_cameras import Steady

from edgesparse.config import Run
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import Mask
from edgesparse.stream.cameras import Feed, track
from edgesparse.stream.counter import locate
from edgesparse.stream.frames import Frame
from edgesparse.stream.summary import Summary

NAMES = ("person", "dog")
SECOND = 1_000_000_000
MIDDLE = {"middle": [[0, 0.5], [1, 0.5]]}
LOWER = {"lower": [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]}
TOP, BOTTOM = 40, 360
"""Where feet are, in a frame of 640 x 400, above and below the middle."""


def feed_of(like: Feed | None = None, names: Sequence[str] = NAMES, **settings: Any) -> Feed:
    tracking = settings.pop("tracking", "sort")
    camera = {"name": "gate", "source": "0", **settings}
    run = Run.model_validate_json(json.dumps({"tracking": tracking, "cameras": [camera]}))
    return Feed(run.cameras[0], Steady(), run, names, like)


class Scene:
    """Passes boxes of 40 x 80 pixels to a feed, frame by frame."""

    def __init__(self, feed: Feed, fps: float = 10.0) -> None:
        self.feed, self.fps, self.index, self.start_ns = feed, fps, 0, 7 * SECOND
        self.counts: list[Any] = []

    def show(self, *objects: tuple[float, float, int]) -> Any:
        """Show objects by the x and y of their feet and their class."""
        boxes = [(x - 20, y - 80, x + 20, y) for x, y, _ in objects]
        detections = Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.full(len(boxes), 0.9, np.float32),
            np.array([class_id for _, _, class_id in objects], np.int64),
        )
        time_ns = self.start_ns + round(self.index / self.fps * SECOND)
        frame = Frame(np.zeros((400, 640, 3), np.uint8), time_ns, self.index, "0", "gate")
        self.index += 1
        selected = self.feed.count(frame, track([self.feed], [detections])[0])
        assert selected.counts is not None
        self.counts.append(selected.counts)
        return selected

    def walk(self, x: float, start: float, end: float, seconds: float = 2.0, class_id: int = 0) -> None:
        for y in np.linspace(start, end, round(seconds * self.fps)):
            self.show((x, float(y), class_id))

    @property
    def crossed(self) -> dict[tuple[str, str, int], int]:
        crossed: dict[tuple[str, str, int], int] = self.counts[-1].crossed
        return crossed


@pytest.mark.parametrize("tracking", ["sort", "bytetrack"])
def test_crossings_are_counted_by_direction_and_class(tracking: str) -> None:
    scene = Scene(feed_of(lines=MIDDLE, tracking=tracking))
    scene.walk(100, TOP, BOTTOM)
    scene.walk(300, BOTTOM, TOP, class_id=1)
    scene.walk(500, TOP, BOTTOM)
    assert scene.crossed == {("middle", "in", 0): 2, ("middle", "out", 1): 1}
    assert [c.direction for counts in scene.counts for c in counts.crossings] == ["in", "out", "in"]


@pytest.mark.parametrize("fps", [5, 12, 30, 60])
def test_counts_and_dwell_do_not_depend_on_the_frame_rate(fps: float) -> None:
    scene = Scene(feed_of(lines=MIDDLE, zones=LOWER), fps)
    scene.walk(100, TOP, BOTTOM, seconds=4)
    scene.walk(100, BOTTOM, TOP, seconds=4)
    scene.walk(100, TOP, TOP, seconds=2)
    assert scene.crossed == {("middle", "in", 0): 1, ("middle", "out", 0): 1}
    assert scene.counts[-1].left["lower", 0] == (1, pytest.approx(4.0, abs=3 / fps))


def test_a_track_that_is_lost_and_found_again_counts_once() -> None:
    scene = Scene(feed_of(lines=MIDDLE))
    for y in range(TOP, BOTTOM, 8):
        scene.show(*([(100, y, 0)] if not 180 < y < 230 else []))
    assert scene.crossed == {("middle", "in", 0): 1}


def test_an_object_that_stands_on_the_line_does_not_count_again_and_again() -> None:
    scene, noise = Scene(feed_of(lines=MIDDLE)), np.random.default_rng(0)
    scene.walk(100, TOP, 200)
    for _ in range(200):
        scene.show((100, 200 + float(noise.normal(0, 1.5)), 0))
    assert sum(scene.crossed.values()) <= 1
    scene.walk(100, 200, BOTTOM)
    assert scene.crossed == {("middle", "in", 0): 1}


def test_feet_below_the_frame_do_not_lead_around_the_end_of_a_line() -> None:
    scene = Scene(feed_of(lines={"way": [[0.5, 0], [0.5, 1]]}, zones=LOWER))
    shown = [scene.show((x, 403, 0)) for x in range(380, 260, -6)]
    assert scene.crossed == {("way", "in", 0): 1} and shown[-1].zones == (("lower",),)


def test_a_stay_is_entered_lasts_and_is_left() -> None:
    scene = Scene(feed_of(zones=LOWER))
    scene.walk(100, TOP, TOP, seconds=1)
    inside = [scene.show((100, BOTTOM - n / 4, 0)) for n in range(31)]
    assert not inside[0].counts.entries, "the tracker does not know it here yet"
    first = next(n for n, shown in enumerate(inside) if shown.counts and shown.counts.entries)
    assert inside[-1].dwell == ((pytest.approx(3.0 - first / 10),),)
    for _ in range(20):
        assert len(scene.show()) == 0
    assert scene.counts[-1].entered == {("lower", 0): 1} and not scene.counts[-1].left, "it may be found again"
    for _ in range(20):
        scene.show()
    assert scene.counts[-1].left == {("lower", 0): (1, pytest.approx(3.0 - first / 10))}
    (ended,) = [stay for counts in scene.counts for stay in counts.exits]
    assert (ended.zone, ended.class_id) == ("lower", 0)


def test_an_object_on_the_border_of_a_zone_does_not_come_and_go() -> None:
    scene = Scene(feed_of(zones=LOWER))
    for n in range(60):
        scene.show((100, 203 if n % 4 else 197, 0))
    assert scene.counts[-1].entered == {("lower", 0): 1} and not scene.counts[-1].left


def test_an_object_keeps_its_number_outside_of_zones() -> None:
    scene = Scene(feed_of(zones=LOWER))
    scene.walk(100, 300, 300)
    (before,) = scene.show((100, 300, 0)).track_id
    for y in (*range(300, 100, -8), *range(100, 300, 8)):
        scene.show((100, y, 0))
    assert list(scene.show((100, 300, 0)).track_id) == [before]


def test_a_crossing_outside_of_all_zones_is_counted_and_shown() -> None:
    scene = Scene(feed_of(lines={"upper": [[0, 0.3], [1, 0.3]]}, zones=LOWER))
    shown = [scene.show((100, y, 0)) for y in range(60, 180, 6)]
    crossing = [detections for detections in shown if detections.counts and detections.counts.crossings]
    assert [len(detections) for detections in crossing] == [1] and crossing[0].zones == ((),)
    assert sum(map(len, shown)) == 1, "the others are in no zone"


def test_a_stay_continues_after_a_short_interruption_and_ends_with_a_long_one() -> None:
    """A camera that reconnects: the clock of frames goes on meanwhile."""
    scene = Scene(feed_of(zones=LOWER))
    scene.walk(100, BOTTOM, BOTTOM)
    scene.start_ns += 20 * SECOND
    assert scene.show((100, BOTTOM, 0)).dwell == ((pytest.approx(21.9, abs=0.11),),)
    scene.start_ns += 31 * SECOND
    again = scene.show((100, BOTTOM, 0))
    assert again.dwell == ((0.0,),)
    assert again.counts.left == {("lower", 0): (1, pytest.approx(21.9, abs=0.11))}
    assert again.counts.entered == {("lower", 0): 2}


def test_a_video_s_own_time_counts_not_how_fast_it_is_read() -> None:
    feed = feed_of(zones=LOWER)
    box = Detections(np.array([[80, 280, 120, 360]], np.float32), np.array([0.9], np.float32), np.array([0]))
    frames = [Frame(np.zeros((400, 640, 3), np.uint8), n, n, "v", "gate", n * SECOND // 10) for n in range(42)]
    assert [feed.count(frame, track([feed], [box])[0]).dwell for frame in frames][-1] == ((4.0,),)


def test_without_tracking_zones_select_and_nothing_is_counted() -> None:
    scene = Scene(feed_of(zones=LOWER, tracking=False))
    shown = scene.show((100, BOTTOM, 0), (300, TOP, 0))
    assert shown.zones == (("lower",),) and shown.dwell is None and not scene.counts[-1].entered


def test_a_reload_keeps_the_counts_of_what_has_not_changed() -> None:
    lines = {**MIDDLE, "other": [[0, 0.6], [1, 0.6]]}
    old = feed_of(lines=lines, zones=LOWER)
    scene = Scene(old)
    scene.walk(100, TOP, 230)
    skipped = feed_of(old, lines=lines, zones=LOWER)
    new = feed_of(skipped, lines={**MIDDLE, "other": [[0, 0.7], [1, 0.7]]}, zones=LOWER)
    scene.show((100, 230, 0))
    scene.feed = new
    scene.walk(100, 232, BOTTOM)
    assert scene.crossed == {("middle", "in", 0): 1, ("other", "in", 0): 1}
    assert scene.counts[-1].entered == {("lower", 0): 1}, "it was inside all the time"
    scene.feed = feed_of(new, names=("car",), lines=MIDDLE)
    scene.walk(300, TOP, BOTTOM)
    assert scene.crossed == {("middle", "in", 0): 1}, "another engine's classes: counts begin again"


def test_counts_survive_any_number_of_reloads_without_a_frame() -> None:
    scene = Scene(feed_of(lines=MIDDLE))
    scene.walk(100, TOP, BOTTOM)
    for _ in range(1100):
        scene.feed = feed_of(scene.feed, lines=MIDDLE)
    scene.show((100, BOTTOM, 0))
    assert scene.crossed == {("middle", "in", 0): 1}


def test_a_frame_of_another_size_does_not_cross_lines() -> None:
    scene = Scene(feed_of(lines=MIDDLE))
    scene.walk(100, 220, 260)
    box = Detections(np.array([[80, 180, 120, 260]], np.float32), np.array([0.9], np.float32), np.array([0]))
    for n in range(4):
        large = Frame(np.zeros((800, 640, 3), np.uint8), scene.start_ns + 3 * SECOND + n, n, "0", "gate")
        counts = scene.feed.count(large, track([scene.feed], [box])[0]).counts
        assert counts is not None and not counts.crossed


def test_masks_poses_and_rotated_boxes_stay_with_their_objects() -> None:
    """Of three tracked objects, those in the zone are kept, each with its own shape, number and seconds."""
    feed = feed_of(zones=LOWER, lines={"far": [[0.9, 0], [0.9, 1]]}, tracking="bytetrack")
    boxes = np.array([[80, 300, 120, 380], [300, 20, 340, 100], [500, 280, 540, 360]], np.float32)
    masks = tuple(Mask(400, 640, np.array([n, 1, 255_999 - n], np.uint32)) for n in range(3))
    rotated = np.array([[100, 340, 40, 30, 0.1], [320, 60, 40, 30, 0.2], [520, 320, 40, 30, 0.3]], np.float32)
    objects = Detections(
        boxes,
        np.array([0.9, 0.8, 0.7], np.float32),
        np.zeros(3, np.int64),
        masks=masks,
        keypoints=np.arange(27, dtype=np.float32).reshape(3, 3, 3),
        rotated=rotated,
    )
    frames = [Frame(np.zeros((400, 640, 3), np.uint8), n * SECOND, n, "0", "gate") for n in range(4)]
    shown = [feed.count(frame, track([feed], [objects])[0]) for frame in frames][-1]
    assert shown.track_id is not None and shown.rotated is not None and shown.keypoints is not None
    assert shown.track_id.tolist() == [1, 3] and shown.dwell == ((2.0,), (2.0,))
    assert shown.masks == (masks[0], masks[2])
    assert shown.rotated[:, 4].tolist() == pytest.approx([0.1, 0.3]) and shown.keypoints[1, 0, 0] == 18


KINDS: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    ("box", {}, (50.0, 80.0)),
    ("pose", {"keypoints": np.zeros((1, 17, 3), np.float32)}, (50.0, 80.0)),
    ("rotated", {"rotated": np.array([[48, 61, 30, 20, 0.4]], np.float32)}, (48.0, 61.0)),
]


@pytest.mark.parametrize(("kind", "values", "anchor"), KINDS)
def test_the_anchor_of_each_kind(kind: str, values: dict[str, Any], anchor: tuple[float, float]) -> None:
    box = np.array([[40, 20, 60, 80]], np.float32)
    detections = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), **values)
    assert tuple(detections.anchors[0]) == anchor
    assert detections[np.zeros(1, bool)].anchors.shape == (0, 2)


def test_the_summary_of_a_run_has_the_totals() -> None:
    scene = Scene(feed_of(lines=MIDDLE, zones=LOWER))
    scene.walk(100, TOP, BOTTOM)
    scene.walk(100, BOTTOM, TOP)
    scene.walk(100, TOP, TOP)
    text = str(Summary(cameras={"gate": scene.feed.summary()}))
    assert "gate, line middle: 1 in (1 person), 1 out (1 person)" in text
    assert "gate, zone lower: 1 entered (1 person), 1 left, 1.9 s on average" in text


def test_cameras_are_located_together_as_each_alone() -> None:
    random, frames, shown = np.random.default_rng(0), [], []
    for number, (height, width) in enumerate([(400, 640), (1080, 1920), (480, 640), (400, 640)]):
        corners = random.uniform(-20, width, (5 * (number % 3), 2))
        boxes = np.concatenate([corners, corners + random.uniform(1, 300, corners.shape)], 1).astype(np.float32)
        rotated = random.uniform(0, width, (len(boxes), 5)).astype(np.float32) if number == 1 else None
        scores, class_ids = np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64)
        shown.append(Detections(boxes, scores, class_ids, rotated=rotated))
        frames.append(Frame(np.zeros((height, width, 3), np.uint8), 0, 0, "0"))
    together = locate(frames, shown)
    assert together == [locate([frame], [each])[0] for frame, each in zip(frames, shown, strict=True)]
    for spots, frame, each in zip(together, frames, shown, strict=True):
        height, width = frame.image.shape[:2]
        assert np.array_equal(np.clip(each.anchors, 0, (width, height)), np.array([spots.x, spots.y]).T)
        assert np.allclose(np.array([spots.share_x, spots.share_y]).T * (width, height), np.array([spots.x, spots.y]).T)

"""Objects of known identity on the demo scene's belt, tracked through noise: SORT and ByteTrack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loops import make_detector

from edgesparse.config import Camera, Run
from edgesparse.demo.scene import Scene
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.thresholds import LOW
from edgesparse.stream.cameras import Feed, track
from edgesparse.stream.frames import Frame
from edgesparse.stream.sources.memory import MemorySource
from edgesparse.stream.tracks import Seen, Tracks, follow

CONF = 0.5
FRAMES = 250
Identities = list[int]


def belt(count: int = FRAMES) -> list[tuple[Detections, Identities]]:
    """Simulated detections on the belt: slightly inaccurate boxes, confidences that drop for a few frames, false boxes;
    and the part that each box belongs to, -1 for none."""
    scene, rng = Scene(3, height=240, width=320), np.random.default_rng(3)
    number: dict[int, tuple[int, object]] = {}
    image, frames = np.empty((240, 320, 3), np.uint8), []
    for frame in range(count):
        boxes, classes, ids, confidence = [], [], [], []
        for part in scene._parts:
            box = part.box(scene._offset, scene._width)
            if box is not None:
                identity = number.setdefault(id(part), (len(number), part))[0]
                boxes.append(np.array(box) + rng.normal(0, 1.5, 4))
                classes.append(part.class_id)
                ids.append(identity)
                confidence.append(
                    rng.uniform(0.15, 0.4) if (frame + 7 * identity) % 40 < 12 else rng.uniform(0.55, 0.95)
                )
        for _ in range(rng.poisson(0.5)):
            x, y = rng.uniform(0, 280), rng.uniform(0, 200)
            boxes.append(np.array([x, y, x + 25, y + 25]))
            classes.append(0)
            ids.append(-1)
            confidence.append(rng.uniform(0.1, 0.4))
        scene.render(image)
        detected = (
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(confidence, np.float32),
            np.array(classes, np.int64),
        )
        frames.append((Detections(*detected), ids))
    return frames


def mota(frames: list[tuple[Detections, Identities]], tracker: str) -> tuple[float, int]:
    """1 - (misses + false boxes + switches) / objects, and the switches (Bernardin and Stiefelhagen, CLEAR MOT, 2008).

    Boxes keep track of their parts, so a numbered box is correct exactly if it belongs to a part.
    """
    tracks, last, objects, misses, false, switches = Tracks(), dict[int, int](), 0, 0, 0, 0
    for detections, ids in frames:
        tagged = Detections(detections.xyxy, detections.confidence, detections.class_id)
        weak = tagged.confidence < CONF
        if tracker == "sort":
            kept, result = np.flatnonzero(~weak), follow([Seen(tracks, tagged[~weak])])[0]
        else:
            result = follow([Seen(tracks, tagged, weak)])[0]
            kept = np.array([np.flatnonzero((tagged.xyxy == box).all(axis=1))[0] for box in result.xyxy], np.intp)
        assert result.track_id is not None
        objects += sum(identity >= 0 for identity in ids)
        seen = {
            ids[row]: track for row, track in zip(kept.tolist(), result.track_id.tolist(), strict=True) if track >= 0
        }
        false += sum(identity < 0 for identity in seen)
        misses += sum(identity >= 0 and identity not in seen for identity in ids)
        switches += sum(last.get(identity, track) != track for identity, track in seen.items() if identity >= 0)
        last |= seen
    return 1 - (misses + false + switches) / objects, switches


def test_bytetrack_keeps_objects_that_fade() -> None:
    frames = belt()
    sort, byte = mota(frames, "sort"), mota(frames, "bytetrack")
    print(f"MOTA on the belt: SORT {sort[0]:.3f} with {sort[1]} switches, ByteTrack {byte[0]:.3f} with {byte[1]}")
    assert byte[0] > 0.9 > sort[0] and byte[1] <= sort[1]


def counted(frames: list[tuple[Detections, Identities]], tracker: str) -> tuple[int, int]:
    """Crossings of a line in the middle of the belt, as counted and as they were. Parts move to the left."""
    camera = Camera(name="belt", source="demo", lines={"middle": ((0.5, 0), (0.5, 1))})
    run = Run(conf=CONF, tracking=tracker, cameras=(camera,))  # type: ignore[arg-type]
    image = np.zeros((240, 320, 3), np.uint8)
    feed = Feed(camera, MemorySource([image], "m"), run, ("part",) * 9)
    way: dict[int, list[float]] = {}
    for index, (detections, ids) in enumerate(frames):
        seen = detections if tracker == "bytetrack" else detections[detections.confidence >= CONF]
        feed.count(Frame(image, index * 33_000_000, index, "m"), track([feed], [seen])[0])
        for identity, x in zip(ids, detections.anchors[:, 0].tolist(), strict=True):
            way.setdefault(identity, []).append(x)
    assert feed.counter is not None
    crossed = feed.counter.counts.crossed
    assert all(direction == "in" for _, direction, _ in crossed)
    return sum(crossed.values()), sum(xs[0] > 160 > xs[-1] for identity, xs in way.items() if identity >= 0)


def test_parts_that_cross_a_line_are_counted_although_they_fade() -> None:
    frames = belt(800)
    sort, byte = counted(frames, "sort"), counted(frames, "bytetrack")
    print(f"crossings of the belt's middle: {byte[1]}; counted with ByteTrack {byte[0]}, with SORT {sort[0]}")
    assert byte[0] == byte[1] > 10


def boxes(*rows: tuple[float, float, float]) -> Detections:
    """Boxes of one class and size by their left edge, top and confidence."""
    table = np.array(rows, np.float32).reshape(-1, 3)
    xyxy = np.column_stack([table[:, :2], table[:, :2] + 20])
    return Detections(xyxy, table[:, 2], np.zeros(len(table), np.int64))


def test_a_weak_box_starts_nothing_and_takes_no_number_from_a_strong_one() -> None:
    tracks = Tracks()
    for _ in range(2):
        first = follow([Seen(tracks, boxes((0, 0, 0.9)), np.array([False]))])[0]
    assert first.track_id is not None and first.track_id.tolist() == [1]
    both = follow([Seen(tracks, boxes((2, 0, 0.2), (5, 0, 0.9), (80, 0, 0.3)), np.array([True, False, True]))])[0]
    assert (
        both.track_id is not None and both.confidence.tolist() == pytest.approx([0.9]) and both.track_id.tolist() == [1]
    )
    faded = follow([Seen(tracks, boxes((5, 0, 0.2), (80, 0, 0.3)), np.array([True, True]))])[0]
    assert faded.track_id is not None and faded.confidence.tolist() == pytest.approx([0.2])
    assert faded.track_id.tolist() == [1] and len(tracks) == 1
    assert not len(follow([Seen(tracks, boxes(), np.empty(0, np.bool_))])[0])


VALUES = {"output0": [[[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.2, 0], [40, 0, 50, 10, 0.05, 2], [0] * 6]]}


def detector(folder: Path, tracking: object) -> Detector:
    plain = make_detector(folder, values=VALUES)
    run = Run(conf=CONF, tracking=tracking)  # type: ignore[arg-type]
    return Detector(plain.runner, plain.spec, run)


def test_only_the_loop_sees_weak_boxes(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with detector(tmp_path, "bytetrack") as detect:
        assert detect(image).confidence.tolist() == pytest.approx([0.9])
        detect.submit([image])
        weak = detect.collect()[0]
        assert weak.confidence.tolist() == pytest.approx([0.9, 0.2]) and LOW == 0.1
        feed = Feed(Camera(name="a", source="0"), MemorySource([image], "m"), detect.run, detect.spec.classes)
        shown = [track([feed], [weak])[0] for _ in range(2)]
        assert [each.confidence.tolist() for each in shown] == [pytest.approx([0.9])] * 2
        fading = weak[[0]]
        fading.confidence[0] = 0.2
        (faded,) = track([feed], [fading])
        assert faded.track_id is not None and faded.track_id.tolist() == [1]
    with detector(tmp_path, True) as detect:
        detect.submit([image])
        assert detect.collect()[0].confidence.tolist() == pytest.approx([0.9])

"""The frame loop: how it ends, what it counts, that it allocates nothing of a frame's size."""

from __future__ import annotations

import json
import signal
import threading
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.backends import BuildOptions, backend
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.errors import BuildError, SinkError, SourceError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.pipeline import Summary, run
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.memory import MemorySource, scene_frames
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.summary import Latencies


def detector(folder: Path, size: int = 64, **plan: object) -> Detector:
    """Finds two people and a dog in every frame."""
    boxes = [[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 0], [40, 0, 50, 10, 0.7, 2], [0] * 6]
    said = {
        "inputs": [["images", [1, 3, size, size], "float32"]],
        "outputs": [["output0", [1, 4, 6], "float32"]],
        "values": {"output0": [boxes]},
        **plan,
    }
    (folder / "plan.json").write_text(json.dumps(said))
    spec = DetectorSpec(head="end2end", classes=("person", "cat", "dog"), input=InputSpec(size=(size, size)))
    return Detector(backend("null").load(folder / "plan.json"), spec)


def images(folder: Path, count: int) -> Path:
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((48, 64, 3), i, np.uint8))
    return folder


def frames(count: int = 1, height: int = 48, width: int = 64) -> MemorySource:
    return MemorySource([np.zeros((height, width, 3), np.uint8)] * count, "memory")


class Seen(Sink):
    """Keeps what it was given; wants no more after `stop` frames, fails at frame `fail`."""

    def __init__(self, stop: int = -1, fail: int = -1) -> None:
        self.indices: list[int] = []
        self.found: list[int] = []
        self._stop, self._fail = stop, fail

    def write(self, frame: Frame, detections: Detections) -> None:
        if frame.index == self._fail:
            raise SinkError("the disk is full")
        self.indices.append(frame.index)
        self.found.append(len(detections))
        self.wants_stop = len(self.indices) == self._stop

    def close(self) -> None:
        pass


def test_at_the_end_of_the_source_everything_is_counted(tmp_path: Path) -> None:
    seen = Seen()
    with open_source(images(tmp_path, 3)) as source:
        summary = run(source, detector(tmp_path), [seen])
    assert (summary.frames, summary.detections, summary.ended) == (3, 9, "end of source")
    assert summary.classes == {"person": 6, "dog": 3}
    assert seen.indices == [0, 1, 2] and seen.found == [3, 3, 3]
    assert summary.seconds > 0 and summary.fps > 0 and summary.peak_memory_mb > 1
    assert list(summary.latency) == ["capture", "preprocess", "engine", "decode", "nms", "sinks", "total"]
    parts = [p for name, p in summary.latency.items() if name != "total"]
    assert all(0 <= p.p50 <= p.p90 <= p.p99 for p in parts)
    assert sum(p.p50 for p in parts) <= 1.5 * summary.latency["total"].p99


def test_it_ends_at_the_limit(tmp_path: Path) -> None:
    seen = Seen()
    summary = run(frames(), detector(tmp_path), [seen], limit=5)
    assert (summary.frames, summary.ended, seen.indices) == (5, "limit", [0, 1, 2, 3, 4])


def test_it_ends_when_a_sink_wants_no_more(tmp_path: Path) -> None:
    first, second = Seen(stop=2), Seen()
    summary = run(frames(), detector(tmp_path), [first, second])
    assert (summary.frames, summary.ended) == (2, "closed")
    assert second.indices == [0, 1]


def test_ctrl_c_ends_it_with_a_summary_and_whole_outputs(tmp_path: Path) -> None:
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with JsonLines(tmp_path / "out.jsonl", ("person", "cat", "dog")) as sink:
        summary = run(frames(), detector(tmp_path, seconds=0.01), [sink])
    assert summary.ended == "interrupted" and summary.frames > 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == summary.frames
    assert all(len(json.loads(line)["detections"]) == 3 for line in lines)


def test_ctrl_c_inside_a_frame_waits_until_every_sink_has_it(tmp_path: Path) -> None:
    class Pressed(Seen):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 2:
                signal.raise_signal(signal.SIGINT)

    first, second = Pressed(), Seen()
    summary = run(frames(), detector(tmp_path), [first, second])
    assert summary.ended == "interrupted" and summary.frames == 3
    assert first.indices == second.indices == [0, 1, 2]


def test_a_source_without_a_frame_is_an_error(tmp_path: Path) -> None:
    class Empty(MemorySource):
        def read(self) -> Frame | None:  # type: ignore[override]
            return None

    with pytest.raises(SourceError, match="nothing delivered no frame: it is empty or damaged"):
        run(Empty([], "nothing"), detector(tmp_path))


def test_what_source_engine_and_sinks_raise_comes_through(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="the disk is full"):
        run(frames(), detector(tmp_path), [Seen(fail=1)])
    with pytest.raises(BuildError, match="inference 1 failed"):
        run(frames(), detector(tmp_path, fail_at=1))
    with pytest.raises(SourceError, match="needed H x W x 3"):
        run(MemorySource([np.zeros((48, 64), np.uint8)], "grey"), detector(tmp_path))


def test_only_a_live_sources_frames_have_an_age(tmp_path: Path) -> None:
    class Camera(MemorySource):
        live = True

        def read(self) -> Frame:
            frame = super().read()
            return Frame(frame.image, time.monotonic_ns() - 50_000_000, frame.index, frame.name)

    summary = run(Camera([np.zeros((48, 64, 3), np.uint8)], "camera"), detector(tmp_path), limit=5)
    assert 50 <= summary.latency["age"].p50 < 1000
    assert "age" not in run(frames(), detector(tmp_path), limit=5).latency


def test_the_summary_for_people(tmp_path: Path) -> None:
    text = str(run(frames(), detector(tmp_path), limit=2))
    assert "milliseconds" in text and "2 frames" in text and text.endswith("6 detections: 4 person, 2 dog")
    assert str(Summary()).endswith("0 detections")


def test_percentiles_are_of_the_newest_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.stream.summary._KEPT", 100)
    latencies = Latencies(("a", "b"))
    assert latencies.percentiles() == {}
    for i in range(1000):
        latencies.row()[:] = (i * 1_000_000, 7_000_000)
    found = latencies.percentiles()
    assert (found["a"].p50, found["a"].p99) == pytest.approx((949.5, 998.01))
    assert (found["b"].p50, found["b"].p99) == (7, 7)


class Memories(Sink):
    """Most bytes that were held at any time in a frame more than at its start, after `warm` frames."""

    def __init__(self, warm: int = 10) -> None:
        self.most, self._warm, self._before = 0, warm, 0
        tracemalloc.start()

    def write(self, frame: Frame, detections: Detections) -> None:
        now, peak = tracemalloc.get_traced_memory()
        if frame.index > self._warm:
            self.most = max(self.most, peak - self._before)
        tracemalloc.reset_peak()
        self._before = now

    def close(self) -> None:
        tracemalloc.stop()


def test_a_thousand_frames_allocate_nothing_of_a_frames_size(tmp_path: Path) -> None:
    """A frame is 691 kB here, the input 1.2 MB, one channel of it in bytes 102 kB."""
    images: list[Image] = [np.zeros((360, 640, 3), np.uint8)] * 2
    with JsonLines(tmp_path / "out.jsonl", ("person", "cat", "dog")) as sink, Memories() as memories:
        run(MemorySource(images, "memory"), detector(tmp_path, 320), [sink, memories], limit=1000)
    assert 0 < memories.most < 100_000


def test_a_video_is_decoded_into_the_same_buffer(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for i in range(40):
        writer.write(np.full((480, 640, 3), i, np.uint8))
    writer.release()
    with open_source(path) as source, Memories() as memories:
        assert run(source, detector(tmp_path), [memories]).frames == 40
    assert 0 < memories.most < 100_000


def yolox(real: Path, folder: Path, run: Run | None = None) -> Detector:
    result = backend("onnxruntime").build(real / "models/yolox_nano.onnx", folder / "model.onnx", BuildOptions())
    look = InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0)
    spec = DetectorSpec(head="yolox", classes=coco_names(), input=look)
    return Detector(backend("onnxruntime").load(result.path), spec, run)


@pytest.mark.parametrize(
    ("video", "name"), [("one-by-one-person-detection.mp4", "person"), ("bottle-detection.mp4", "bottle")]
)
def test_a_real_detector_finds_what_is_in_real_videos(real: Path, tmp_path: Path, video: str, name: str) -> None:
    with yolox(real, tmp_path) as detect, open_source(real / "video" / video) as source:
        with Memories() as memories:
            summary = run(source, detect, [memories], limit=200)
    assert summary.frames == 200 and summary.dropped == 0
    assert summary.classes[name] > 50
    assert 0 < memories.most < 100_000


def test_the_frames_in_memory_are_those_of_the_scene() -> None:
    source = scene_frames(3, 240, 320)
    first = [source.read() for _ in range(4)]
    assert all(frame.image.shape == (240, 320, 3) for frame in first)
    assert first[3].image is first[0].image and not np.array_equal(first[0].image, first[1].image)
    assert source.name == "the demo scene at 320x240" and [frame.index for frame in first] == [0, 1, 2, 3]
    source.reopen()
    assert source.read().index == 0
    source.close()

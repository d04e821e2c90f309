"""The frame loop: how it ends, what it counts, and that it makes no allocations of frame size."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from loops import Collect, MemoryPeaks, black_frames, make_detector, make_images, make_video

from edgesparse.backends import BuildOptions, backend
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.errors import BuildError, SinkError, SourceError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.cameras import Feed
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.pipeline import Summary, run
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.memory import MemorySource, scene_frames
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.summary import Latencies


def test_everything_is_counted_until_the_source_ends(tmp_path: Path) -> None:
    sink = Collect()
    with open_source(make_images(tmp_path, 3)) as source:
        summary = run(source, make_detector(tmp_path), [sink])
    assert (summary.frames, summary.detections, summary.ended) == (3, 9, "end of source")
    assert summary.classes == {"person": 6, "dog": 3}
    assert sink.indices == [0, 1, 2] and sink.counts == [3, 3, 3]
    assert summary.seconds > 0 and summary.fps > 0 and summary.peak_memory_mb > 1
    assert list(summary.latency) == ["capture", "preprocess", "engine", "decode", "nms", "track", "sinks", "total"]
    parts = [p for name, p in summary.latency.items() if name != "total"]
    assert all(0 <= p.p50 <= p.p90 <= p.p99 for p in parts)
    assert sum(p.p50 for p in parts) <= 1.5 * summary.latency["total"].p99


def test_tracking_is_a_stage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(feeds: Sequence[Feed], detections: Sequence[Detections]) -> Sequence[Detections]:
        time.sleep(0.05)
        return detections

    monkeypatch.setattr("edgesparse.stream.pipeline.track", slow)
    latency = run(black_frames(), make_detector(tmp_path), [Collect()], limit=5).latency
    assert latency["track"].p50 >= 50 > latency["sinks"].p50


def test_it_stops_at_the_limit(tmp_path: Path) -> None:
    sink = Collect()
    summary = run(black_frames(), make_detector(tmp_path), [sink], limit=5)
    assert (summary.frames, summary.ended, sink.indices) == (5, "limit", [0, 1, 2, 3, 4])


def test_it_stops_when_a_sink_wants_no_more(tmp_path: Path) -> None:
    first, second = Collect(stop=2), Collect()
    summary = run(black_frames(), make_detector(tmp_path), [first, second])
    assert (summary.frames, summary.ended) == (2, "closed")
    assert second.indices == [0, 1]


def test_ctrl_c_ends_it_with_a_summary_and_complete_outputs(tmp_path: Path) -> None:
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with JsonLines(tmp_path / "out.jsonl", ("person", "cat", "dog")) as sink:
        summary = run(black_frames(), make_detector(tmp_path, seconds=0.01), [sink])
    assert summary.ended == "interrupted" and summary.frames > 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == summary.frames
    assert all(len(json.loads(line)["detections"]) == 3 for line in lines)


def test_ctrl_c_within_a_frame_waits_until_every_sink_has_the_frame(tmp_path: Path) -> None:
    class Pressed(Collect):
        def write(self, frame: Frame, detections: Detections) -> None:
            super().write(frame, detections)
            if frame.index == 2:
                signal.raise_signal(signal.SIGINT)

    first, second = Pressed(), Collect()
    summary = run(black_frames(), make_detector(tmp_path), [first, second])
    assert summary.ended == "interrupted" and summary.frames == 3
    assert first.indices == second.indices == [0, 1, 2]


def test_a_source_without_a_frame_is_an_error(tmp_path: Path) -> None:
    class Empty(MemorySource):
        def read(self) -> Frame | None:  # type: ignore[override]
            return None

    with pytest.raises(SourceError, match="nothing delivered no frame: it is empty or damaged"):
        run(Empty([], "nothing"), make_detector(tmp_path))


def test_errors_of_source_engine_and_sinks_are_raised(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="the disk is full"):
        run(black_frames(), make_detector(tmp_path), [Collect(fail=1)])
    with pytest.raises(BuildError, match="inference 1 failed"):
        run(black_frames(), make_detector(tmp_path, fail_at=1))
    with pytest.raises(SourceError, match="needed H x W x 3"):
        run(MemorySource([np.zeros((48, 64), np.uint8)], "gray"), make_detector(tmp_path))


def test_only_frames_of_a_live_source_have_an_age(tmp_path: Path) -> None:
    class Camera(MemorySource):
        live = True

        def read(self) -> Frame:
            frame = super().read()
            return Frame(frame.image, time.monotonic_ns() - 50_000_000, frame.index, frame.name)

    summary = run(Camera([np.zeros((48, 64, 3), np.uint8)], "camera"), make_detector(tmp_path), limit=5)
    assert 50 <= summary.latency["age"].p50 < 1000
    assert "age" not in run(black_frames(), make_detector(tmp_path), limit=5).latency


def test_the_summary_as_text(tmp_path: Path) -> None:
    text = str(run(black_frames(), make_detector(tmp_path), limit=2))
    assert "milliseconds" in text and "2 frames" in text and text.endswith("6 detections: 4 person, 2 dog")
    assert str(Summary()).endswith("0 detections")


def test_the_summary_counts_outputs_that_are_no_boxes(tmp_path: Path) -> None:
    boxes = [[0, 0, 10, 10, 0.9, 0], [30, 0, 20, 10, 0.8, 0], [40, 0, 50, 10, 72.0, 2], [0] * 6]
    summary = run(black_frames(), make_detector(tmp_path, values={"output0": [boxes]}), limit=2)
    assert summary.detections == 2
    assert summary.invalid_boxes == {"no width or height": 2, "a confidence outside 0..1": 2}
    assert "2 outputs were dropped: no width or height" in str(summary)


def test_percentiles_cover_the_newest_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.stream.summary._KEPT", 100)
    latencies = Latencies(("a", "b"))
    assert latencies.percentiles() == {}
    for i in range(1000):
        latencies.row()[:] = (i * 1_000_000, 7_000_000)
    result = latencies.percentiles()
    assert (result["a"].p50, result["a"].p99) == pytest.approx((949.5, 998.01))
    assert (result["b"].p50, result["b"].p99) == (7, 7)


def test_a_thousand_frames_allocate_nothing_of_a_frames_size(tmp_path: Path) -> None:
    """Here a frame is 691 kB, the input is 1.2 MB, and one of its channels as uint8 is 102 kB."""
    images: list[Image] = [np.zeros((360, 640, 3), np.uint8)] * 2
    with JsonLines(tmp_path / "out.jsonl", ("person", "cat", "dog")) as sink, MemoryPeaks() as peaks:
        run(MemorySource(images, "memory"), make_detector(tmp_path, 320), [sink, peaks], limit=1000)
    assert 0 < peaks.most < 100_000


def test_a_video_is_decoded_into_the_same_image(tmp_path: Path) -> None:
    with open_source(make_video(tmp_path, 40, 480, 640)) as source, MemoryPeaks() as peaks:
        assert run(source, make_detector(tmp_path), [peaks]).frames == 40
    assert 0 < peaks.most < 100_000


def yolox(real: Path, folder: Path, run: Run | None = None) -> Detector:
    result = backend("onnxruntime").build(real / "models/yolox_nano.onnx", folder / "model.onnx", BuildOptions())
    layout = InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0)
    spec = DetectorSpec(head="yolox", classes=coco_names(), input=layout)
    return Detector(backend("onnxruntime").load(result.path), spec, run)


@pytest.mark.parametrize(
    ("video", "name"), [("one-by-one-person-detection.mp4", "person"), ("bottle-detection.mp4", "bottle")]
)
def test_a_real_detector_on_real_videos(real: Path, tmp_path: Path, video: str, name: str) -> None:
    with yolox(real, tmp_path) as detect, open_source(real / "video" / video) as source:
        with MemoryPeaks() as peaks:
            summary = run(source, detect, [peaks], limit=200)
    assert summary.frames == 200 and summary.dropped == 0
    assert summary.classes[name] > 50
    assert 0 < peaks.most < 100_000


def test_frames_in_memory_are_those_of_the_scene() -> None:
    source = scene_frames(3, 240, 320)
    first = [source.read() for _ in range(4)]
    assert all(frame.image.shape == (240, 320, 3) for frame in first)
    assert first[3].image is first[0].image and not np.array_equal(first[0].image, first[1].image)
    assert source.name == "the demo scene at 320x240" and [frame.index for frame in first] == [0, 1, 2, 3]
    source.reopen()
    assert source.read().index == 0
    source.close()

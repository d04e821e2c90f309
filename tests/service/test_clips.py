"""Clips: their contents, their limits, and the order in which they are removed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from samples import SECOND, output_context, sample_event, sample_frame, wait_until

from edgesparse.service.outputs.clips import Clips, ClipsSettings
from edgesparse.service.outputs.events import Event
from edgesparse.service.snapshots import Snapshot
from edgesparse.stream.recording.h264 import h264_here
from edgesparse.stream.sinks import recorder

JPEG = bytes(cv2.imencode(".jpg", sample_frame().image)[1])


def open_clips(folder: Path, **changes: Any) -> Clips:
    settings = ClipsSettings(**{"before": 1, "after": 1, "folder": folder, **changes})
    return Clips(settings, output_context(folder))


def feed(clips: Clips, begin: float, seconds: float, camera: str = "door") -> None:
    for step in range(int(seconds * 10)):
        clips.snapshot(camera, Snapshot(JPEG, int((begin + step / 10) * SECOND), step, 0))


def record_clips(clips: Clips, *starts: float) -> None:
    """Record one clip after another, each written before the next begins."""
    for start in starts:
        sent = clips.state.sent
        feed(clips, start, 1)
        clips.event(sample_event(start + 1))
        feed(clips, start + 1, 2)
        wait_until(lambda sent=sent: clips.state.sent == sent + 1)  # type: ignore[misc]


def names(folder: Path) -> list[str]:
    """Files except each clip's still image."""
    files = sorted(path.name for path in folder.iterdir())
    stills = [name for name in files if name.endswith(".jpg")]
    videos = [name for name in files if name not in stills]
    assert {name[:-4] for name in stills} <= {name.rpartition(".")[0] for name in videos}
    return videos


def test_a_clip_covers_the_time_before_and_after_its_event(tmp_path: Path) -> None:
    announced: list[Event] = []
    context = replace(output_context(tmp_path), announce=announced.append)
    clips = Clips(ClipsSettings(before=1, after=1, folder=tmp_path), context)
    feed(clips, 0, 5)
    clips.event(sample_event(5))
    feed(clips, 5, 3)
    wait_until(lambda: clips.state.sent == 1)
    (path,) = (tmp_path / name for name in names(tmp_path))
    (event,) = announced
    still = path.with_suffix(".jpg")
    assert (event.phase, event.record["clip"], event.record["snapshot"]) == ("clip", str(path), str(still))
    assert still.read_bytes() == JPEG
    suffix = ".mp4" if h264_here()[0] else ".webm"
    assert path.name.startswith("000001_") and path.name.endswith(f"Z_door_person{suffix}")
    assert (b"avc1" if suffix == ".mp4" else b"V_VP8") in path.read_bytes(), "browsers play it"
    video = cv2.VideoCapture(str(path))
    assert 18 <= video.get(cv2.CAP_PROP_FRAME_COUNT) <= 22 and video.get(cv2.CAP_PROP_FPS) == 10
    video.release()
    clips.close()


def test_a_clip_on_a_machine_without_h264_is_webm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "h264_here", lambda: ("", "no encoder"))
    clips = open_clips(tmp_path, most=2)
    record_clips(clips, 0, 10, 20)
    clips.close()
    assert [(name[:6], name[-5:]) for name in names(tmp_path)] == [("000002", ".webm"), ("000003", ".webm")]


def test_a_repeated_event_extends_the_clip_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.service.outputs.clips.MAX_SECONDS", 4.0)
    clips = open_clips(tmp_path)
    for second in range(12):
        clips.event(sample_event(second))
        feed(clips, second, 1)
    clips.close()
    assert clips.state.sent >= 3
    for path in tmp_path.iterdir():
        video = cv2.VideoCapture(str(path))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) <= 42
        video.release()


def test_the_oldest_clips_are_removed_and_other_files_stay(tmp_path: Path) -> None:
    clips = open_clips(tmp_path, most=3)
    (tmp_path / "mine.mp4").write_text("not a clip of ours")
    record_clips(clips, *range(0, 50, 10))
    clips.close()
    kept = names(tmp_path)
    assert [name[:6] for name in kept] == ["000003", "000004", "000005", "mine.m"]


def test_a_clock_that_starts_in_1970_removes_the_oldest_clips_not_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order follows a counter in the names, which the next process continues."""
    old = "20261128T101010000Z_door_person.mp4"
    (tmp_path / old).write_bytes(b"of a release without numbers")
    clips = open_clips(tmp_path, most=3)
    record_clips(clips, 0, 10)
    clips.close()
    assert old in names(tmp_path)
    monkeypatch.setattr("time.time_ns", time.monotonic_ns)  # as if booted in 1970
    clips = open_clips(tmp_path, most=3)
    record_clips(clips, 20, 30)
    clips.close()
    kept = names(tmp_path)
    assert [name[:6] for name in kept] == ["000002", "000003", "000004"]
    assert [name[7:11] == "1970" for name in kept] == [False, True, True]


def test_a_clip_in_progress_is_written_on_close(tmp_path: Path) -> None:
    clips = open_clips(tmp_path)
    feed(clips, 0, 2)
    clips.event(sample_event(2))
    clips.close()
    assert clips.state.sent == 1


def test_any_error_of_one_clip_leaves_a_state_and_the_next_clip_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = open_clips(tmp_path)
    encode = clips._encode

    def fail(*_: object) -> None:
        raise RuntimeError("no encoder")

    monkeypatch.setattr(clips, "_encode", fail)
    feed(clips, 0, 1)
    clips.event(sample_event(1))
    feed(clips, 1, 2)
    wait_until(lambda: clips.state.failed == 1)
    assert clips.state.state == "no encoder" and names(tmp_path) == []
    monkeypatch.setattr(clips, "_encode", encode)
    record_clips(clips, 10)
    assert clips.state.state == "" and len(names(tmp_path)) == 1
    clips.close()


@pytest.mark.root
def test_a_full_disk_is_reported_and_leaves_no_partial_file(small_disk: Path) -> None:
    clips = open_clips(small_disk)
    feed(clips, 0, 2)
    clips.event(sample_event(2))
    feed(clips, 2, 2)
    wait_until(lambda: clips.state.failed == 1)
    assert "less than 64 MB are free" in clips.state.state and list(small_disk.iterdir()) == []
    clips.close()


def test_closing_an_idle_output_is_immediate(tmp_path: Path) -> None:
    clips = open_clips(tmp_path)
    begin = time.monotonic()
    clips.close()
    assert time.monotonic() - begin < 1

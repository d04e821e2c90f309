"""Video files as sources."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sink_data import read_video

from edgesparse.errors import SourceError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.video import Video
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.sources.video_file import VideoFile

MakeVideo = Callable[..., Path]


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_video_gives_every_frame_in_order(make_video: MakeVideo, name: str) -> None:
    path = make_video(name, frames=20, fps=25)
    with open_source(path) as source:
        seen = [(frame.index, frame.name, float(frame.image.mean()), frame.time_ns) for frame in source]
        assert (source.live, source.fps, source.total, source.dropped) == (False, 25.0, 20, 0)
    assert [index for index, *_ in seen] == list(range(20))
    assert {name for _, name, *_ in seen} == {str(path)}
    assert [level for *_, level, _ in seen] == pytest.approx([5 * n for n in range(20)], abs=4)
    assert [stamp for *_, stamp in seen] == sorted(stamp for *_, stamp in seen)


def test_a_video_whose_name_is_not_utf8(make_video: MakeVideo) -> None:
    """OpenCV's bindings crash on such a name."""
    path = make_video("clip.mp4", frames=5, fps=25)
    named = path.rename(path.with_name("caf\udce9.mp4"))
    with open_source(named) as source:
        assert len(list(source)) == 5
    named.write_bytes(bytes(range(256)))
    with pytest.raises(SourceError, match=r"cannot read .*caf\\xe9.mp4: neither"):
        open_source(named)
    for address in ("rtsp://host/\udce9", "/dev/\udce9"):
        with pytest.raises(SourceError, match=r"\\xe9: an address or device is UTF-8 text"):
            open_source(address)


def test_a_real_video_delivers_all_of_its_frames(real: Path) -> None:
    with open_source(real / "video" / "bottle-detection.mp4") as source:
        assert sum(frame.image.shape == (360, 640, 3) for frame in source) == 1189 == source.total


def test_a_video_is_decoded_into_a_single_image(make_video: MakeVideo) -> None:
    with open_source(make_video(frames=30)) as source:
        frames = iter(source)
        first, size = next(frames).image, next(frames).image.nbytes
        tracemalloc.start()
        try:
            for frame in frames:
                assert frame.image is first
            assert tracemalloc.get_traced_memory()[1] < size
        finally:
            tracemalloc.stop()


def test_reopening_a_video_starts_it_again(make_video: MakeVideo) -> None:
    with open_source(make_video(frames=5)) as source:
        assert len(list(source)) == 5
        assert source.read() is None
        source.reopen()
        assert [frame.index for frame in source] == [0, 1, 2, 3, 4]


def test_a_closed_source_has_no_frames(make_video: MakeVideo) -> None:
    source = open_source(make_video())
    source.close()
    source.close()
    assert source.read() is None


def test_a_video_that_ends_early_is_reported(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video("cut.avi", frames=40, noise=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_source(path) as source:
        frames = len(list(source))
    assert 0 < frames < 40
    assert caplog.messages == [f"{path} ends early: found {frames} frames of 40"]


def test_a_complete_video_logs_nothing(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(make_video()) as source:
        list(source)
    assert caplog.messages == []


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def without_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [noise, without_end])
def test_a_file_that_is_not_a_video_is_reported_in_one_line(
    make_video: MakeVideo, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    path = make_video("bad.mp4", noise=True)
    damage(path)
    with pytest.raises(SourceError, match=r"^cannot read .*bad\.mp4: neither an image nor a video") as caught:
        open_source(path)
    assert caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty\.mp4: the file is empty"):
        open_source(tmp_path / "empty.mp4")


class Scripted:
    """A capture with these images; one without pixels is a broken frame, None a failing grab."""

    def __init__(self, images: Sequence[np.ndarray | None]) -> None:
        self._images, self._next = images, -1

    def get(self, propId: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self._next += 1
        return self._next < len(self._images) and self._images[self._next] is not None

    def retrieve(self, *args: object) -> tuple[bool, np.ndarray]:
        image = self._images[self._next]
        assert image is not None
        return True, image

    def release(self) -> None:
        pass


EMPTY, GOOD = np.empty((0, 0, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)


def test_frames_without_pixels_are_skipped_and_counted() -> None:
    source = VideoFile("clip", lambda: Scripted([EMPTY, GOOD, EMPTY, GOOD]))
    assert [frame.index for frame in source] == [1, 3]
    assert source.dropped == 2


@pytest.mark.parametrize("images", [[], [EMPTY, EMPTY]])
def test_a_video_without_a_good_frame_is_an_error(images: list[np.ndarray]) -> None:
    source = VideoFile("clip", lambda: Scripted(images))
    with pytest.raises(SourceError, match="clip: none of its frames can be decoded"):
        source.read()


def test_frames_after_damage_are_delivered_with_their_numbers(caplog: pytest.LogCaptureFixture) -> None:
    source = VideoFile("clip", lambda: Scripted([GOOD, *[None] * 3, GOOD, GOOD]))
    assert [frame.index for frame in source] == [0, 4, 5]
    assert source.dropped == 3
    assert caplog.messages == ["clip is damaged between 0.0 s and 0.0 s: frames 1 to 3 cannot be decoded"]


def test_a_video_that_is_damaged_in_the_middle(cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cases / "damaged_middle.mp4"
    with open_source(path) as source:
        frames = [(frame.index, frame.position_ns) for frame in source]
    assert len(frames) == 50 and source.dropped == 10
    assert frames[17:19] == [(17, 1_700_000_000), (28, 2_800_000_000)]
    assert caplog.messages == [f"{path} is damaged between 1.7 s and 2.8 s: frames 18 to 27 cannot be decoded"]


def test_frames_have_their_times_in_the_video(cases: Path) -> None:
    with open_source(cases / "irregular_times.mp4") as source:
        times = [frame.position_ns / 1e9 for frame in source if frame.position_ns is not None]
    assert len(times) == 60
    assert times[:3] == pytest.approx([0, 0.033, 0.067]) and times[-3:] == pytest.approx([28, 29, 30])


def test_a_recording_of_a_video_with_irregular_times_is_as_long(cases: Path, tmp_path: Path) -> None:
    for suffix in (".mp4", ".webm", ".avi"):
        path = tmp_path / f"out{suffix}"
        with open_source(cases / "irregular_times.mp4") as source, Video(path, [], source.fps) as sink:
            for frame in source:
                sink.write(frame, Detections.none())
        assert len(read_video(path)[0]) == 60
        assert read_video(path)[1][-1] == pytest.approx(30, abs=0.6)


def test_times_continue_at_the_nominal_rate_if_the_container_has_none() -> None:
    source = VideoFile("clip", lambda: Scripted([GOOD] * 3))
    source.fps = 10
    assert [frame.position_ns for frame in source] == [0, 100_000_000, 200_000_000]

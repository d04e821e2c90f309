"""Video files as sources."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import SourceError
from edgesparse.stream.sources.files import VideoFile
from edgesparse.stream.sources.open import open_source

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


def test_the_real_video_has_all_its_frames(real: Path) -> None:
    with open_source(real / "video" / "bottle-detection.mp4") as source:
        assert sum(frame.image.shape == (360, 640, 3) for frame in source) == 1189 == source.total


def test_a_video_is_decoded_into_one_buffer(make_video: MakeVideo) -> None:
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


def test_a_video_that_ends_early_says_so(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video("cut.avi", frames=40, noise=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_source(path) as source:
        found = len(list(source))
    assert 0 < found < 40
    assert caplog.messages == [f"{path} ends early: found {found} frames of 40 promised"]


def test_a_whole_video_says_nothing(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(make_video()) as source:
        list(source)
    assert caplog.messages == []


def no_video(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def headless_mp4(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [no_video, headless_mp4])
def test_what_is_no_video_is_one_line(
    make_video: MakeVideo, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    path = make_video("bad.mp4", noise=True)
    damage(path)
    with pytest.raises(SourceError, match=r"^cannot read .*bad\.mp4: neither an image nor a video") as caught:
        open_source(path)
    assert caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


def test_an_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty\.mp4: the file is empty"):
        open_source(tmp_path / "empty.mp4")


class Scripted:
    """An opened video whose frames are these; one without pixels stands for a broken frame."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self._images, self._next = images, -1

    def get(self, propId: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self._next += 1
        return self._next < len(self._images)

    def retrieve(self, *args: object) -> tuple[bool, np.ndarray]:
        return True, self._images[self._next]

    def release(self) -> None:
        pass


EMPTY, GOOD = np.empty((0, 0, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)


def test_frames_without_pixels_are_skipped_and_counted() -> None:
    source = VideoFile("clip", lambda: Scripted([EMPTY, GOOD, EMPTY, GOOD]))
    assert [frame.index for frame in source] == [1, 3]
    assert source.dropped == 2


@pytest.mark.parametrize("images", [[], [EMPTY, EMPTY]])
def test_a_video_without_one_good_frame_is_an_error(images: list[np.ndarray]) -> None:
    source = VideoFile("clip", lambda: Scripted(images))
    with pytest.raises(SourceError, match="clip: not one of its frames can be decoded"):
        source.read()

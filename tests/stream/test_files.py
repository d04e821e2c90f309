"""Videos and images as sources."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.errors import SourceError
from edgesparse.stream.sources.files import VideoFile, natural
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images whose level is their number, and a file that is none."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1.png", "2.PNG", "10.bmp"):
        level = int(name.partition(".")[0])
        cv2.imwrite(str(images / name), np.full((8, 8, 3), level, np.uint8))
    (images / "notes.txt").write_text("no image")
    return images


def test_a_folder_gives_its_images_in_natural_order(folder: Path) -> None:
    with open_source(folder) as source:
        assert source.total == 3
        assert [(frame.index, frame.name, int(frame.image.mean())) for frame in source] == [
            (0, "1.png", 1),
            (1, "2.PNG", 2),
            (2, "10.bmp", 10),
        ]
        assert source.read() is None
        source.reopen()
        assert len(list(source)) == 3


def test_one_image_is_a_source(folder: Path) -> None:
    with open_source(folder / "10.bmp") as source:
        assert [(frame.name, int(frame.image.mean())) for frame in source] == [("10.bmp", 10)]


def test_a_glob_gives_the_images_that_match(folder: Path) -> None:
    with open_source(f"{folder}/1*") as source:
        assert [frame.name for frame in source] == ["1.png", "10.bmp"]


def test_a_glob_over_folders_keeps_their_names_apart(folder: Path) -> None:
    for name in ("left", "right"):
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes((folder / "1.png").read_bytes())
    with open_source(f"{folder}/*/1.png") as source:
        assert [frame.name for frame in source] == ["left/1.png", "right/1.png"]


def test_a_glob_of_one_video_is_that_video(make_video: MakeVideo) -> None:
    path = make_video("only.avi", frames=3)
    with open_source(f"{path.parent}/on*.avi") as source:
        assert len(list(source)) == source.total == 3


def test_a_name_with_signs_of_a_glob_is_a_name_first(folder: Path) -> None:
    (folder / "1.png").rename(folder / "a[1].png")
    with open_source(folder / "a[1].png") as source:
        assert len(list(source)) == 1


def test_an_image_that_cannot_be_read_is_said_and_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "2.PNG").write_bytes(b"no image")
    with open_source(folder) as source:
        assert [frame.index for frame in source] == [0, 2]
        assert source.dropped == 1
    assert caplog.record_tuples == [
        ("edgesparse.stream", logging.WARNING, f"cannot read image {folder}/2.PNG: skipped")
    ]
    assert capfd.readouterr() == ("", "")


def test_only_images_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    with open_source(tmp_path) as source, pytest.raises(SourceError, match="not one of 2 images can be read"):
        source.read()


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_sort_as_numbers(numbers: list[int]) -> None:
    names = [Path(f"frame{number}.jpg") for number in numbers]
    assert sorted(names, key=natural) == [Path(f"frame{number}.jpg") for number in sorted(numbers)]


@given(st.lists(st.text("a1-2b", min_size=1), unique=True))
def test_natural_order_holds_for_any_names(names: list[str]) -> None:
    paths = [Path(name) for name in names]
    assert sorted(sorted(paths, key=natural)) == sorted(paths)

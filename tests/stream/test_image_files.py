"""Images, folders and globs as sources."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_data import encode, gradient, huge_png

from edgesparse.config import InputSpec
from edgesparse.errors import ImageError, SourceError
from edgesparse.runtime.images import ImageBatches
from edgesparse.stream.sources.open import image_batches, image_states, open_source

SPEC = InputSpec(size=(32, 32), letterbox="top-left", colour="bgr", scale=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images whose level is their number, and a text file."""
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


def test_a_single_image_is_a_source(folder: Path) -> None:
    with open_source(folder / "10.bmp") as source:
        assert [(frame.name, int(frame.image.mean())) for frame in source] == [("10.bmp", 10)]


def test_a_glob_gives_the_images_that_match(folder: Path) -> None:
    with open_source(f"{folder}/1*") as source:
        assert [frame.name for frame in source] == ["1.png", "10.bmp"]


def test_frames_of_a_glob_over_folders_are_named_with_their_folders(folder: Path) -> None:
    for name in ("left", "right"):
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes((folder / "1.png").read_bytes())
    with open_source(f"{folder}/*/1.png") as source:
        assert [frame.name for frame in source] == ["left/1.png", "right/1.png"]


def test_a_glob_that_matches_one_video_is_that_video(make_video: Callable[..., Path]) -> None:
    path = make_video("only.avi", frames=3)
    with open_source(f"{path.parent}/on*.avi") as source:
        assert len(list(source)) == source.total == 3


def test_an_existing_name_takes_precedence_over_a_glob(folder: Path) -> None:
    (folder / "1.png").rename(folder / "a[1].png")
    with open_source(folder / "a[1].png") as source:
        assert len(list(source)) == 1


def test_images_that_cannot_be_read_are_skipped_by_name_and_counted_at_the_end(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    jpeg = encode(".jpg", gradient())
    (folder / "2.PNG").write_bytes(b"no image")
    (folder / "3.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "4.png").write_bytes(huge_png(60000, 60000))
    (folder / "5.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "6.jpg").mkdir()
    with open_source(folder) as source:
        assert [frame.name for frame in source] == ["1.png", "10.bmp"]
        assert source.dropped == 5
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    reasons = [message.removeprefix(f"skipped: cannot read the image {folder}/") for message in caplog.messages]
    assert [reason.removesuffix("; replace or remove it") for reason in reasons] == [
        f"2.PNG: damaged, or not an image that OpenCV {cv2.__version__} can decode",
        "3.jpg: truncated: the JPEG has no end marker",
        "4.png: 60000x60000 pixels, more than the limit of 256 million",
        "5.heic: HEIC, which OpenCV cannot decode: convert it to JPEG",
        "6.jpg: Is a directory",
        f"{folder}: 5 of 7 images were skipped",
    ]
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    with open_source(tmp_path) as source, pytest.raises(SourceError, match="none of its 2 images can be read"):
        source.read()


def test_file_names_that_are_not_utf8_are_read_and_named_in_ascii(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    Path(path).write_bytes(encode(".jpg", gradient()))
    for spec in (tmp_path, path, f"{tmp_path}/caf*"):
        with open_source(spec) as source:
            (frame,) = list(source)
        assert frame.name == r"caf\xe9.jpg"
        source.name.encode()


# Calibration


def test_calibration_images_are_the_same_in_each_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (32, 16, 3), np.uint8))
    batches = image_batches(str(tmp_path), SPEC, 2)
    assert batches.sizes == []
    first, second = list(batches()), list(batches())
    assert batches.sizes == [(32, 16), (32, 16)], "each image once"
    assert [batch.shape for batch in first] == [(1, 3, 32, 32)] * 2
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    assert (first[1][..., 16:] == SPEC.pad).all()
    assert len(list(image_batches(str(tmp_path), SPEC, 9)())) == 3


def levels(batches: ImageBatches) -> list[int]:
    """The brightness of each image."""
    return [round(float(batch[0, :, 16, 16].mean())) for batch in batches()]


def test_calibration_images_are_evenly_spaced(tmp_path: Path) -> None:
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((32, 32, 3), 10 * number, np.uint8))
    assert levels(image_batches(str(tmp_path), SPEC, 4)) == [0, 30, 60, 90]
    assert [Path(name).name for name, _, _ in image_states(str(tmp_path), 4)] == ["0.png", "3.png", "6.png", "9.png"]
    assert levels(image_batches(f"{tmp_path}/*.png", SPEC, 5)) == [0, 20, 40, 70, 90]


@pytest.mark.parametrize(("count", "apart"), [(4, 10), (12, 5), (60, 1), (100, 1)])
def test_frames_of_a_video_are_some_apart(tmp_path: Path, count: int, apart: int) -> None:
    size, video = 60, tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (32, 32))
    for number in range(size):
        writer.write(np.full((32, 32, 3), 4 * number, np.uint8))
    writer.release()
    seen = levels(image_batches(str(video), SPEC, count))
    assert len(seen) == min(count, size)
    np.testing.assert_allclose(seen, [4 * apart * i for i in range(len(seen))], atol=2)


def test_calibration_refuses_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^no images in "):
        image_batches(str(tmp_path), SPEC, 1)


def test_calibration_refuses_a_camera() -> None:
    with pytest.raises(SourceError, match=r"^demo:0 is a camera: needed a folder, glob or video of images$"):
        image_batches("demo", SPEC, 1)


def test_calibration_refuses_a_truncated_image(folder: Path) -> None:
    jpeg = encode(".jpg", gradient())
    (folder / "3.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(ImageError, match=r"3\.jpg: truncated: the JPEG has no end marker"):
        list(image_batches(str(folder), SPEC, 9)())

"""The image file reader: every common kind, and the reason for each file that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_data import cmyk_jpeg, encode, gradient, huge_png, with_orientation

from edgesparse.config import InputSpec
from edgesparse.errors import ConfigError, ImageError
from edgesparse.runtime.images import (
    MAX_JPEG_SIDE,
    ImageBatches,
    decode_image,
    image_files,
    natural_order,
    read_image,
    store_image,
)

IMAGE = gradient()
JPEG = encode(".jpg", IMAGE)


def test_a_file_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:  # noqa: PTH123 - the name is bytes
        file.write(JPEG)
    (result,) = image_files(tmp_path)
    assert read_image(result).shape == IMAGE.shape


def test_a_file_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    path.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message == rf"cannot read the image {tmp_path}/caf\xe9.jpg: the file is empty; replace or remove it"
    message.encode()


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.transpose(1, 0, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda image: np.rot90(image)),
    ],
)
def test_exif_orientation_is_applied_or_ignored_on_request(orientation: int, turn: object) -> None:
    data = with_orientation(JPEG, orientation)
    np.testing.assert_array_equal(decode_image(data), turn(decode_image(JPEG)))  # type: ignore[operator]
    np.testing.assert_array_equal(decode_image(data, apply_orientation=False), decode_image(JPEG))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_16_bit_samples_are_scaled_to_8(suffix: str) -> None:
    data = encode(suffix, IMAGE.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(data), IMAGE)


def test_alpha_is_dropped_and_gray_becomes_bgr() -> None:
    alpha = np.dstack([IMAGE, np.zeros(IMAGE.shape[:2], np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(".png", alpha)), IMAGE)
    gray = decode_image(encode(".png", IMAGE[..., 0]))
    np.testing.assert_array_equal(gray, np.repeat(IMAGE[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("ink", "bgr"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (255, 255, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_becomes_bgr(ink: tuple[int, int, int, int], bgr: tuple[int, int, int]) -> None:
    image = decode_image(cmyk_jpeg(*ink))
    assert image.shape == (8, 8, 3)
    assert np.abs(image.reshape(-1, 3).astype(int) - bgr).max() <= 3


def test_an_animation_gives_its_first_image_or_is_refused() -> None:
    write = getattr(cv2, "imencodeanimation", None)
    if write is None:  # OpenCV before 5 writes none, and before 4.11 reads no GIF
        with pytest.raises(ImageError, match=r"^damaged, or not an image that OpenCV"):
            decode_image(b"GIF89a" + bytes(100))
        return
    animation = cv2.Animation()
    animation.frames = [np.full((16, 16, 4), level, np.uint8) for level in (200, 40)]
    animation.durations = np.array([100, 100])  # type: ignore[assignment]
    for suffix in (".gif", ".webp", ".png"):
        encoded, data = write(suffix, animation)
        assert encoded
        image = decode_image(data.tobytes())
        assert image.shape == (16, 16, 3) and image.mean() == pytest.approx(200, abs=8), suffix


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".jp2", ".ppm"])
def test_a_truncated_image_is_refused(suffix: str, share: float) -> None:
    data = encode(suffix, IMAGE)
    with pytest.raises(ImageError, match=r"^(truncated|damaged)"):
        decode_image(data[: int(len(data) * share)])


def test_a_jpeg_whose_second_half_is_zeros_is_truncated() -> None:
    half = len(JPEG) // 2
    with pytest.raises(ImageError, match=r"^truncated: the JPEG has no end marker$"):
        decode_image(JPEG[:half] + bytes(len(JPEG) - half))


def test_the_end_marker_of_a_thumbnail_is_not_the_image_s() -> None:
    thumbnail = encode(".jpg", gradient(8, 8))
    comment = b"\xff\xe2" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    data = JPEG[:2] + comment + JPEG[2:]
    np.testing.assert_array_equal(decode_image(data), decode_image(JPEG))
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[: 2 + len(comment) + len(JPEG) // 2])


def test_bytes_after_the_end_marker_are_ignored() -> None:
    np.testing.assert_array_equal(decode_image(JPEG + b"trailing bytes" * 10), decode_image(JPEG))


def test_a_progressive_jpeg_is_read() -> None:
    encoded, data = cv2.imencode(".jpg", IMAGE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert encoded and decode_image(data.tobytes()).shape == IMAGE.shape


def test_a_flipped_bit_in_a_png_is_found() -> None:
    data = bytearray(encode(".png", IMAGE))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match=r"^damaged: wrong checksum in the PNG's IDAT chunk$"):
        decode_image(bytes(data))


@pytest.mark.parametrize("size", [(20000, 20000), (2**31 - 1, 2**31 - 1), (60000, 60000)])
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"^{size[0]}x{size[1]} pixels, more than the limit of 256 million$"):
        decode_image(huge_png(*size))


def test_an_image_beyond_opencv_s_own_limits_is_refused() -> None:
    with pytest.raises(ImageError):
        decode_image(huge_png(1 << 21, 16))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC, which OpenCV cannot decode: convert it to JPEG"),
        (b"<html>404</html>", "damaged, or not an image that OpenCV"),
    ],
)
def test_what_is_not_an_image_is_named(data: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode_image(data)
    assert capfd.readouterr() == ("", "")


def test_a_pipe_among_the_images_of_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg: not a regular file; replace or remove it"):
        read_image(tmp_path / "pipe.jpg")


def test_a_link_to_an_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(JPEG)
    (tmp_path / "link.jpg").symlink_to("image.jpg")
    assert read_image(tmp_path / "link.jpg").shape == IMAGE.shape


def test_a_png_without_pixels_is_refused_before_libpng_writes_to_standard_error() -> None:
    with pytest.raises(ImageError, match="a PNG without pixels"):
        decode_image(huge_png(0, 10))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (("none.jpg", "No such file or directory"), ("folder.jpg", "Is a directory")):
        with pytest.raises(ImageError, match=f"^cannot read the image {tmp_path}/{name}: {reason}"):
            read_image(tmp_path / name)


@settings(max_examples=200)
@given(st.binary(max_size=80), st.sampled_from([".jpg", ".png"]), st.integers(0, 400))
def test_no_data_ends_in_any_other_error(noise: bytes, suffix: str, position: int) -> None:
    data = bytearray(encode(suffix, gradient(16, 16)))
    position = min(position, len(data))
    data[position : position + len(noise)] = noise
    try:
        assert decode_image(bytes(data)).ndim == 3
    except ImageError as error:
        assert str(error)


def test_a_folder_gives_its_images_in_natural_order_and_some_evenly_spaced(tmp_path: Path) -> None:
    for name in ("10.JPG", "9.png", "1.jpg", "notes.txt", "2.heic"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["1.jpg", "2.heic", "9.png", "10.JPG"]
    assert [path.name for path in image_files(tmp_path, 2)] == ["1.jpg", "9.png"]
    assert len(image_files(tmp_path, 9)) == 4


def test_an_image_that_no_jpeg_can_hold_is_refused(tmp_path: Path) -> None:
    wide = np.zeros((1, MAX_JPEG_SIDE + 1, 3), np.uint8)
    with pytest.raises(ImageError, match=r"wide\.jpg: found 65501x1 pixels, needed at most 65500 per side"):
        store_image(tmp_path / "wide.jpg", wide, 95)
    assert not list(tmp_path.iterdir())
    assert store_image(tmp_path / "wide.jpg", wide[:, :-1], 95).shape == (1, MAX_JPEG_SIDE, 3)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=f"^no images in {tmp_path}: needed files that end in .avif .bmp"):
        image_files(tmp_path)
    with pytest.raises(ConfigError, match=r"^cannot list .*none: No such file or directory$"):
        image_files(tmp_path / "none")


@given(st.lists(st.integers(0, 999), unique=True))
def test_numbers_in_names_sort_as_numbers(numbers: list[int]) -> None:
    names = [Path(f"frame{number}.jpg") for number in numbers]
    assert sorted(names, key=natural_order) == [Path(f"frame{number}.jpg") for number in sorted(numbers)]


@given(st.lists(st.text("a1-2b", min_size=1), unique=True))
def test_natural_order_is_defined_for_all_names(names: list[str]) -> None:
    paths = [Path(name) for name in names]
    assert sorted(sorted(paths, key=natural_order)) == sorted(paths)


# Batches

SPEC = InputSpec(size=(32, 32), letterbox="top-left", colour="bgr", scale=1.0)


def test_batches_are_equal_in_each_pass_and_the_last_one_is_filled_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(".png", rng.integers(0, 256, (32, 16, 3), np.uint8)))
    batches = ImageBatches.from_files(image_files(tmp_path), SPEC, 2)
    assert batches.sizes == []
    first, second = list(batches()), list(batches())
    assert batches.sizes == [(32, 16)] * 3
    assert [batch.shape for batch in first] == [(2, 3, 32, 32)] * 2
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    np.testing.assert_array_equal(first[1][0], first[1][1])
    assert (first[1][..., 16:] == SPEC.pad).all()


def test_batches_refuse_a_truncated_image(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg: truncated: the JPEG has no end marker"):
        list(ImageBatches.from_files(image_files(tmp_path), SPEC)())

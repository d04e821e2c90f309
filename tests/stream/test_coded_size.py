"""Videos whose images change size halfway: OpenCV would stretch them to the first size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_data import encode, gradient

from edgesparse.stream.sources.coded_size import SCALES, SIZE_OF, h264_size, jpeg_size, mpeg2_size
from edgesparse.stream.sources.open import open_source

SIZES = [(320, 240), (640, 160)]


def write_part(path: Path, fourcc: str, size: tuple[int, int]) -> bytes:
    """20 frames with a white circle on gray."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), 25, size)
    image = np.full((size[1], size[0], 3), 80, np.uint8)
    cv2.circle(image, (size[0] // 2, size[1] // 2), 50, (255, 255, 255), -1)
    for _ in range(20):
        writer.write(image)
    writer.release()
    return path.read_bytes()


def circle_width_and_height(image: np.ndarray) -> tuple[int, int]:
    white = image[..., 1] > 170
    return int(white.any(0).sum()), int(white.any(1).sum())


@pytest.mark.parametrize(("suffix", "fourcc", "most_lost"), [(".mjpg", "MJPG", 0), (".ts", "mpg2", 1)])
def test_each_image_has_the_size_in_which_it_is_encoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, fourcc: str, most_lost: int
) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"".join(write_part(tmp_path / f"part{suffix}", fourcc, size) for size in SIZES))
    with open_source(path) as source:
        frames = [(frame.image.shape[1::-1], circle_width_and_height(frame.image)) for frame in source]
    if fourcc != "MJPG" and not SCALES:
        assert [size for size, _ in frames[1:]] == [SIZES[0]] * (len(frames) - 1) and len(frames) <= 21
        assert any("cannot decode the change to 640x160: dropped" in message for message in caplog.messages)
        return
    assert len(frames) >= 40 - most_lost
    assert [size for size, _ in frames[:18]] == [SIZES[0]] * 18
    assert [size for size, _ in frames[-18:]] == [SIZES[1]] * 18
    for _, circle in (*frames[:18], *frames[-18:]):
        assert circle == pytest.approx((101, 101), abs=6), "the circle is round"
    changes = [message for message in caplog.messages if "images are 640x160 from" in message]
    assert len(changes) == 1


def test_frames_of_an_unchanged_video_are_decoded_in_place(tmp_path: Path) -> None:
    write_part(tmp_path / "clip.avi", "MJPG", SIZES[0])
    with open_source(tmp_path / "clip.avi") as source:
        images = {id(frame.image) for frame in source}
    assert len(images) == 1


def test_the_size_of_h264(cases: Path) -> None:
    capture = cv2.VideoCapture(str(cases / "damaged_middle.mp4"), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    assert capture.grab()
    assert h264_size(capture.retrieve()[1].tobytes()) == (320, 240)


def test_the_size_of_jpeg_and_mpeg2() -> None:
    assert jpeg_size(encode(".jpg", gradient(40, 60))) == (60, 40)
    assert mpeg2_size(b"\0\0\1\xb3\x78\x04\x38" + bytes(8)) == (1920, 1080)


@pytest.mark.parametrize("packet", [b"", b"\0\0\1\x09\x10", b"\0\0\1"])
def test_a_packet_without_a_header_has_no_size(packet: bytes) -> None:
    assert [size_of(packet) for size_of in SIZE_OF.values()] == [None] * len(SIZE_OF)


@given(st.binary(max_size=60))
def test_no_packet_is_an_error(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\0\0\1\xb3", b"\0\0\1\x67", b"\0\0\1\x09\0\0\1\x67"):
        for size_of in SIZE_OF.values():
            size = size_of(start + data)
            assert size is None or len(size) == 2

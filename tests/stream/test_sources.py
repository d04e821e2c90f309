"""How source names are interpreted, and the messages for those that cannot be opened."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.sources import open as opening
from edgesparse.stream.sources import v4l2
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.memory import MemorySource
from edgesparse.stream.sources.open import SourceOptions, open_source, source_kind
from edgesparse.stream.sources.v4l2 import found_cameras, open_camera


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (-1, r"no camera -1: cameras are numbered from 0"),
        ("", r"no source: name a camera"),
        ("clip\0.mp4", r"no source: its name contains a NUL byte"),
        ("missing.mp4", r"no source missing\.mp4: no such file, folder or camera"),
        ("missing/*.jpg", r"no images match missing/\*\.jpg: found 0 files"),
        ("foo://x", r"cannot open foo://x: an address starts with one of rtsp, "),
        ("csi://a", r"csi://a names no camera"),
    ],
)
def test_a_wrong_name_is_reported_in_one_line_as_wrong_use(spec: str | int, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{message}") as caught:
        open_source(spec)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [0, 2])
def test_a_folder_without_images_is_refused(tmp_path: Path, files: int) -> None:
    for number in range(files):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(SourceError, match=r"^no images in .*: needed files that end in \.avif \.bmp") as caught:
        open_source(tmp_path)
    assert caught.value.exit_code == 2


def test_files_in_shared_memory_are_no_cameras() -> None:
    assert source_kind("/dev/shm/frames") == "file" and source_kind("/dev/video77") == "device"


@pytest.mark.parametrize("spec", ["77", 77, "/dev/video77"])
def test_a_missing_camera_is_named(spec: str | int) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        open_source(spec)
    assert str(caught.value) == f"no camera 77: /dev/video77 does not exist; {found_cameras()}"
    assert caught.value.exit_code == 3


def test_a_device_that_is_not_a_camera_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraUnavailable, match="cannot open /dev/null: it is not a camera; found: "):
        open_source("/dev/null")
    assert capfd.readouterr() == ("", "")


def test_a_camera_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(v4l2.os, "access", lambda path, mode: False)
    with pytest.raises(CameraUnavailable, match=r"no permission to open .*video0: .* sudo usermod -aG \w+ \$USER"):
        open_camera(device, None, None)


def test_the_demo_is_a_live_camera_with_a_seed() -> None:
    with open_source("demo:7") as source, open_source("demo:7", size=(320, 240)) as small:
        assert (source.name, source.live, source.fps, source.total) == ("demo:7", True, 30.0, None)
        first, second = source.read(), source.read()
        assert first is not None and second is not None
        assert first.image.shape == (480, 640, 3) and first.live
        assert second.time_ns - first.time_ns > 0
        frame = small.read()
        assert frame is not None and frame.image.shape == (240, 320, 3)


def test_a_new_kind_of_source_is_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_gray(match: re.Match[str], options: SourceOptions) -> Source:
        return MemorySource([np.full((8, 8, 3), int(match[1]), np.uint8)], options.name or match[0])

    monkeypatch.setattr(opening, "KINDS", [(r"gray:(\d+)", open_gray), *opening.KINDS])
    with open_source("gray:7", name="belt") as source:
        frame = source.read()
    assert frame is not None and (frame.name, int(frame.image[0, 0, 0])) == ("belt", 7)

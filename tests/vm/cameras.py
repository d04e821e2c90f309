"""In the machine: a source reads the kernel's virtual camera `vivid` while its driver misbehaves.

writer.py calls these functions; each returns what test_vm_sources.py checks.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from edgesparse.stream.sources import v4l2
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.open import open_source

CAMERA = Path("/dev/video0")
SIZE, FPS = (320, 180), 5.0


def control(*options: str, device: Path = CAMERA) -> str:
    """Run v4l2-ctl, and return its output and errors."""
    done = subprocess.run(["v4l2-ctl", "-d", str(device), *options], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@contextmanager
def camera(name: str = str(CAMERA)) -> Iterator[Source]:
    """Open the camera, whose driver is loaded first, and wait until it is live."""
    subprocess.run(["modprobe", "vivid"], check=True)
    while not CAMERA.exists():
        time.sleep(0.1)
    source = open_source(name, size=SIZE, fps=FPS, patient=True)
    try:
        until(source, "live")
        yield source
    finally:
        source.close()


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What sources warn of meanwhile."""
    texts = list[str]()
    handler, log = logging.Handler(logging.WARNING), logging.getLogger("edgesparse.stream")
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield texts
    finally:
        log.removeHandler(handler)


def until(source: Source, state: str, seconds: float = 60.0) -> str:
    """Read frames until the source is in a state; returns why it is."""
    end = time.monotonic() + seconds
    while source.state != state:
        source.watch()
        source.poll()
        assert time.monotonic() < end, (source.state, source.why)
        time.sleep(0.05)
    return str(source.why)


def frames(source: Source, count: int = 5) -> list[tuple[int, ...]]:
    """Return the shapes of the next frames."""
    shapes = []
    for _ in range(count):
        frame = source.read()
        assert frame is not None
        shapes.append(frame.image.shape)
    return shapes


TWO = "n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0x00,0x03"
"""A webcam, which has some sizes and rates, and an HDMI input, which scales to any size at the rate of its signal."""


SEVERAL = [
    [[360, 640, 3], [180, 324, 3], 15.0],
    [[360, 640, 3], [186, 332, 3], 10.0],
    [[180, 320, 3], [34, 64, 3], 5.0],
]
"""What `several` returns: a size that the webcam lacks becomes the next larger one, and an odd height of the input the
next even one."""


def several() -> list[list[Any]]:
    """Read two devices beside each other, in several sizes and rates. Returns the shape of the last frame of each, and
    what the webcam's driver says of its rate.
    """
    subprocess.run(["modprobe", "vivid", *TWO.split()], check=True)
    webcam, hdmi = CAMERA, Path("/dev/video1")
    while not hdmi.exists():
        time.sleep(0.1)
    results = []
    for size, fps, other in (
        ((640, 360), 15.0, (324, 180)),
        ((500, 300), 10.0, (332, 187)),
        ((320, 180), 5.0, (64, 35)),
    ):
        first = open_source(str(webcam), size=size, fps=fps, patient=True)
        second = open_source(str(hdmi), size=other, patient=True)
        try:
            for source in (first, second):
                until(source, "live")
            rate = control("--get-parm", device=webcam).partition("Frames per second: ")[2].split()[0]
            results.append([frames(first)[-1], frames(second)[-1], float(rate)])
        finally:
            first.close()
            second.close()
    return results


def fault(name: str) -> dict[str, Any]:
    """A button of the driver makes one error; frames go on, if need be after reopening."""
    with camera() as source:
        frames(source)
        control(f"--set-ctrl={name}=1")
        time.sleep(2)
        until(source, "live")
        return {"shapes": frames(source, 10), "reopened": source.reopened}


def silence() -> dict[str, Any]:
    """The driver drops every buffer, without an error, and later none. Returns the reason of the warning: `why` may
    already be that of an attempt to open it again.
    """
    with camera() as source, warnings() as texts:
        control("--set-ctrl=percentage_of_dropped_buffers=100")
        until(source, "away")
        control("--set-ctrl=percentage_of_dropped_buffers=0")
        until(source, "live")
        return {"why": texts[0].partition("(")[2], "shapes": frames(source), "reopened": source.reopened}


def another_format() -> dict[str, Any]:
    """Another program sets a format: the driver refuses while frames flow; afterwards it is set back at opening."""
    other = "--set-fmt-video=width=640,height=360,pixelformat=NV12"
    with camera() as source:
        refused = control(other)
        during = frames(source)
    control(other)
    with camera() as source:
        return {"refused": refused, "during": during, "after": frames(source)}


def time_stamps() -> dict[str, float]:
    """Return milliseconds from the driver's time stamp of a frame to the time at which it is taken, the median of 20,
    and the age of the newest frame after a second in which none was read.
    """
    with camera() as source:
        time.sleep(1)
        frame = source.poll()
        assert frame is not None
        age = time.monotonic_ns() - frame.time_ns
    capture = v4l2.open_camera(CAMERA, SIZE, FPS)
    delays = []
    for _ in range(20):
        assert capture.grab()
        delays.append(time.monotonic() * 1e3 - capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    return {"delay": median(delays), "least": min(delays), "age": age / 1e6}


def controls() -> str:
    """What a user has set with v4l2-ctl is still so after a source was opened and closed."""
    with camera():
        pass
    control("--set-ctrl=brightness=77,contrast=99")
    with camera() as source:
        frames(source)
    return control("--get-ctrl=brightness,contrast")


def stable_name() -> list[tuple[int, ...]]:
    """A link like those that udev makes in /dev/v4l/by-id."""
    link = Path("/dev/v4l/by-id/usb-Camera_0001-video-index0")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("../../video0")
    with camera(str(link)) as source:
        return frames(source)

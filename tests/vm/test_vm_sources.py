"""A source on V4L2 in the kernel, while its driver misbehaves: errors, silence, formats, time stamps. Marker `vm`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cameras
import pytest
from power import Writer
from qemu import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SHAPE = [180, 320, 3]
Answer = Callable[..., Any]
"""Runs a function of cameras.py in the machine, and returns what it returns."""


@pytest.fixture
def machine(writer: Writer, tmp_path: Path) -> Iterator[Machine]:
    machine = writer.machine(tmp_path)
    machine.start(writer.state)
    yield machine
    machine.close()


@pytest.fixture
def camera(machine: Machine) -> Answer:
    def run(function: Callable[..., Any], *arguments: str) -> Any:
        command = " ".join(("camera", function.__name__, *arguments))
        return json.loads(machine.check(command, 600))

    return run


def test_several_devices_sizes_and_rates(camera: Answer) -> None:
    assert camera(cameras.several) == cameras.SEVERAL


@pytest.mark.parametrize(
    "fault",
    ["inject_v4l2_buf_flag_error", "inject_fatal_streaming_error", "inject_vidioc_qbuf_or_vidioc_pre"],
)
def test_errors_of_the_driver_are_survived(camera: Answer, fault: str) -> None:
    """A buffer with an error, an error after which only reopening helps, and a request that fails."""
    result = camera(cameras.fault, fault)
    assert result["shapes"] == [SHAPE] * 10 and result["reopened"] <= 1


def test_a_camera_that_stops_sending_is_reopened(camera: Answer) -> None:
    """The driver drops all buffers: it waits, and no error comes."""
    result = camera(cameras.silence)
    assert "no frame" in result["why"] and result["shapes"] == [SHAPE] * 5 and result["reopened"] == 1


def test_a_format_that_another_program_sets_does_not_stay(camera: Answer) -> None:
    result = camera(cameras.another_format)
    assert "busy" in result["refused"] and result["during"] == result["after"] == [SHAPE] * 5


def test_frames_are_as_old_as_their_driver_says(machine: Machine, camera: Answer) -> None:
    """A frame's time is that of its arrival, which follows the driver's within a fraction of a frame's 200 ms.

    `vivid` stamps the start of a frame's exposure if told to, and otherwise an end that is still to come.
    """
    machine.check("sh modprobe vivid && sleep 1 && v4l2-ctl --set-ctrl=timestamp_source=1")
    result = camera(cameras.time_stamps)
    assert 0 <= result["least"] <= result["delay"] < 100 and result["age"] < 600, result


def test_controls_that_were_set_stay(camera: Answer) -> None:
    assert camera(cameras.controls).split("\n")[:2] == ["brightness: 77", "contrast: 99"]


def test_a_stable_name_is_followed(camera: Answer) -> None:
    assert camera(cameras.stable_name) == [SHAPE] * 5

"""The spool of MQTT messages: ordered, bounded, and usable after damage and on a full disk."""

from __future__ import annotations

import json
import os
import weakref
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as some
from samples import sample_detections, sample_frame

from edgesparse.errors import SinkError
from edgesparse.service.outputs.backlog import Backlog
from edgesparse.service.outputs.base import FrameResult
from edgesparse.service.outputs.spool import Message, Spool
from edgesparse.stream.sinks.json_lines import frame_text

TIMES = {"time": ""}
"""What is computed from the wall clock."""


def test_a_message_is_put_together_where_it_is_sent(tmp_path: Path) -> None:
    """Not in the frame loop's thread, and of nothing that the next frame overwrites."""
    frame, shown = sample_frame(), sample_detections(0, 1)
    expected, image = json.loads(frame_text(frame, shown, ("red", "green"))), weakref.ref(frame.image)
    write = Mock(side_effect=FrameResult(frame, shown, ("red", "green")).writer())
    del frame
    assert image() is None, "a backlog of messages keeps no images"
    backlog = Backlog(tmp_path / "mqtt.sqlite", 1_000_000, "plant")
    backlog.put("door/detections", write)
    assert not write.called
    [message] = backlog.take(9)
    assert message.topic == "plant/door/detections" and json.loads(message.payload) | TIMES == expected | TIMES
    backlog.spool.close()


def test_a_damaged_spool_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sqlite"
    path.write_bytes(os.urandom(20_000))
    spool = Spool(path, 1_000_000)
    spool.append([Message(1, "t", b"{}")])
    assert spool.count == 1 and len(list(tmp_path.glob("mqtt.sqlite.damaged-*"))) == 1
    spool.close()


@pytest.mark.root
def test_a_spool_on_a_full_disk_counts_what_is_lost_and_logs_it_once(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(small_disk / "x.sqlite", 64_000_000)
    for number in range(1, 100):
        spool.append([Message(number, "t", bytes(100_000))])
    assert spool.dropped > 50 and spool.count == 99 - spool.dropped
    assert 1 <= len([line for line in caplog.records if "messages are lost" in line.message]) <= 3
    kept = spool.after(0, 1000)
    assert [message.number for message in kept] == list(range(1, len(kept) + 1)), "those that fitted, in order"
    spool.remove(kept)
    assert spool.after(0, 1) == [] or spool.count > 0
    spool.close()


@pytest.mark.root
def test_a_spool_that_is_opened_on_a_full_disk_is_in_memory(small_disk: Path) -> None:
    """Otherwise a service that restarts on a full disk ends, and detects nothing until somebody makes room."""
    with suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(10_000))
    spool = Spool(small_disk / "x.sqlite", 64_000_000)
    spool.append([Message(1, "t", b"1")])
    assert [message.payload for message in spool.after(0, 9)] == [b"1"]
    assert "the disk is full: messages are only in memory until the next start" in spool.error
    spool.close()
    (small_disk / "fill").unlink()
    assert Spool(small_disk / "x.sqlite", 64_000_000).error == ""


def test_a_spool_that_cannot_be_opened_with_free_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(SinkError, match="cannot write"):
        Spool(tmp_path / "folder" / "x.sqlite", 1)


@hypothesis.settings(max_examples=25)
@given(sizes=some.lists(some.integers(0, 3000), max_size=60), most=some.integers(2000, 20_000))
def test_a_spool_keeps_the_newest_messages_in_order_within_its_bound(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "x.sqlite", most)
    messages = [Message(number, "t", b"x" * size) for number, size in enumerate(sizes, 1)]
    for message in messages:
        spool.append([message])
    kept = spool.after(0, 1000)
    assert [m.number for m in kept] == [m.number for m in messages[len(messages) - len(kept) :]]
    assert sum(m.size for m in kept) <= most
    assert spool.dropped == len(messages) - len(kept) and spool.count == len(kept)
    spool.remove(kept[:3])
    assert spool.count == max(0, len(kept) - 3)
    spool.close()

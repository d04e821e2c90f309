"""All outputs together: opened, changed by a reload, closed; and a user's own output."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import NAMES, SCENE, sample_detections, sample_frame, secret_file, service_settings, wait_until

from edgesparse.errors import ConfigError, SinkError
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputSettings, OutputState
from edgesparse.service.outputs.clips import ClipsSettings
from edgesparse.service.outputs.events import Event, EventRule
from edgesparse.service.outputs.json_lines import JsonLinesSettings
from edgesparse.service.outputs.table import OUTPUTS
from edgesparse.service.outputs.webhook import WebhookSettings
from edgesparse.service.settings import load_settings
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings


@pytest.fixture
def snapshots() -> Iterator[SnapshotEncoder]:
    snapshots = SnapshotEncoder(SnapshotSettings(fps=10), NAMES)
    yield snapshots
    snapshots.close()


def test_json_lines_are_rotated_and_continued_after_a_restart(tmp_path: Path, snapshots: SnapshotEncoder) -> None:
    file = tmp_path / "frames.jsonl"
    settings = service_settings(jsonl=JsonLinesSettings(file=file, most=1_000_000))
    for run in range(2):
        outputs = Outputs(settings, SCENE, snapshots)
        for step in range(3):
            outputs.write(sample_frame(run * 3 + step), sample_detections(0))
        outputs.close()
    assert [json.loads(line)["frame"] for line in file.read_text().splitlines()] == [0, 10, 20, 30, 40, 50]
    outputs = Outputs(settings, SCENE, snapshots)
    outputs._open["jsonl"]._handler.maxBytes = 1000  # type: ignore[attr-defined]
    for step in range(10):
        outputs.write(sample_frame(step), sample_detections(0))
    outputs.close()
    assert (tmp_path / "frames.jsonl.1").stat().st_size <= 2000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lines_that_cannot_be_written_are_counted_and_leave_a_state(
    snapshots: SnapshotEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = Outputs(service_settings(jsonl=JsonLinesSettings(file=Path("/dev/full"))), SCENE, snapshots)
    for _ in range(20):
        outputs.write(sample_frame(), sample_detections(0))
    (state,) = outputs.states()
    assert (state.sent, state.failed, state.state) == (0, 20, "No space left on device")
    assert caplog.text.count("cannot write /dev/full") == 1
    outputs.close()


def test_outputs_that_cannot_be_opened_are_one_line_and_leave_nothing_open(
    tmp_path: Path, snapshots: SnapshotEncoder
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    settings = service_settings(
        events=(EventRule(name="e"),),
        clips=ClipsSettings(folder=blocked / "x"),
        webhook=WebhookSettings(url="http://x"),
    )
    before = threading.active_count()
    with pytest.raises(SinkError, match="cannot write"):
        Outputs(settings, SCENE, snapshots)
    wait_until(lambda: threading.active_count() <= before)


def test_a_refused_change_leaves_the_previous_outputs_open(tmp_path: Path, snapshots: SnapshotEncoder) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    before = service_settings(jsonl=JsonLinesSettings(file=tmp_path / "a.jsonl"))
    outputs = Outputs(before, SCENE, snapshots)
    with pytest.raises(SinkError):
        outputs.change(service_settings(jsonl=JsonLinesSettings(file=blocked / "b.jsonl")), SCENE)
    outputs.write(sample_frame(), sample_detections(0))
    assert [state.sent for state in outputs.states()] == [1]
    outputs.close()


def test_a_rotated_token_reopens_its_output_and_no_other(tmp_path: Path, snapshots: SnapshotEncoder) -> None:
    token = secret_file(tmp_path / "token", "first")
    settings = service_settings(
        events=(EventRule(name="e"),),
        webhook=WebhookSettings(url="http://127.0.0.1:1/", token_file=token),
        clips=ClipsSettings(folder=tmp_path / "clips"),
    )
    outputs = Outputs(settings, SCENE, snapshots)
    first, clips = outputs._open["webhook"], outputs._open["clips"]
    outputs.change(settings, SCENE)
    assert outputs._open["webhook"] is first
    token.write_text("second")
    outputs.change(settings, SCENE)
    assert outputs._open["webhook"]._token == "second"  # type: ignore[attr-defined]
    assert outputs._open["clips"] is clips
    outputs.change(settings.model_copy(update={"snapshots": SnapshotSettings(fps=5)}), SCENE)
    assert outputs._open["clips"] is not clips, "its videos have the rate of snapshots"
    outputs.close()


class BoardSettings(OutputSettings):
    broker: str
    key_file: Path | None = None

    def check(self, key: str) -> None:
        if self.broker == "nowhere":
            raise ConfigError(f"{key}.broker: found nowhere, needed a host")


class BulletinBoard(Output):
    """An output as a user would write one."""

    settings_type = BoardSettings

    def __init__(self, settings: BoardSettings, context: OutputContext) -> None:
        self.state = OutputState("board", state=f"to {settings.broker} from {context.device != ''}")
        self.frames: list[FrameResult] = []
        self.events: list[Event] = []
        self.closed, self.key = False, settings.key_file

    def detections(self, result: FrameResult) -> None:
        self.frames.append(result)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


def test_an_output_of_ones_own_is_one_class_and_one_line_in_the_table(
    tmp_path: Path, snapshots: SnapshotEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OUTPUTS, "board", BulletinBoard)
    file = tmp_path / "device.yaml"
    file.write_text("service: {events: [{name: e}], board: {broker: host, key_file: key}}")
    settings = load_settings(file).service
    assert settings.outputs == {"board": BoardSettings(broker="host", key_file=tmp_path / "key")}
    outputs = Outputs(settings, SCENE, snapshots)
    outputs.write(sample_frame(), sample_detections(1))
    board = outputs._open["board"]
    assert isinstance(board, BulletinBoard)
    assert (
        json.loads(board.frames[0].text)["detections"] and board.events[0].name == "e" and board.key == tmp_path / "key"
    )
    outputs.close()
    assert board.closed
    for text, message in (
        ("{brokr: host}", "unknown key 'service.board.brokr': did you mean 'broker'?"),
        ("{broker: nowhere}", "service.board.broker: found nowhere, needed a host"),
    ):
        file.write_text(f"service: {{board: {text}}}")
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            load_settings(file)


def test_an_output_that_raises_does_not_reach_the_others(
    tmp_path: Path, snapshots: SnapshotEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raising(BulletinBoard):
        def detections(self, result: FrameResult) -> None:
            raise RuntimeError("always")

    monkeypatch.setitem(OUTPUTS, "board", Raising)
    file = tmp_path / "lines.jsonl"
    settings = service_settings(board=BoardSettings(broker="x"), jsonl=JsonLinesSettings(file=file))
    outputs = Outputs(settings, SCENE, snapshots)
    for _ in range(3):
        outputs.write(sample_frame(), sample_detections(0))
    assert {state.name: (state.sent, state.failed) for state in outputs.states()} == {"jsonl": (3, 0), "board": (0, 3)}
    outputs.close()

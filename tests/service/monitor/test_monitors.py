"""What watches cameras, as the service opens, changes and reports it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from samples import NAMES, SCENE, sample_detections, sample_frame, service_settings, wait_until

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.errors import SinkError
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.health import Health
from edgesparse.service.limits import Governor
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.events import Event
from edgesparse.service.report import Report
from edgesparse.service.settings import LimitSettings, ServiceSettings
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings
from edgesparse.service.tally import COLUMNS, Tally
from edgesparse.service.web.metrics import exposition

DRIFT: Any = {"interval": 1.0}
ROW = np.zeros(len(COLUMNS), np.int64)


@pytest.fixture
def engine() -> LoadedEngine:
    identity = SimpleNamespace(**dict.fromkeys(("sha256", "package", "model", "backend", "version"), "x"))
    vars(identity).update(precision="int8", candidate="int8", fallback=False, notice="", classes=NAMES, why=())
    vars(identity).update(sparse_layers=0, layers=0)
    run, detector = Run(cameras=(Camera(name="door", source="0"),)), SimpleNamespace(faults={}, dropped=0)
    return cast(LoadedEngine, SimpleNamespace(identity=identity, run=run, detector=detector))


@pytest.fixture
def report(engine: LoadedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Report]:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path))
    settings, tally, snapshots = (
        service_settings(drift=DRIFT),
        Tally(len(NAMES)),
        SnapshotEncoder(SnapshotSettings(), NAMES),
    )
    outputs = Outputs(settings, SCENE, snapshots)
    report = Report(engine, Health(), tally, Governor(LimitSettings()), snapshots, outputs)
    report.monitors = Monitors(settings, engine, tally, outputs.announce)
    yield report
    report.monitors.close()
    outputs.close()
    snapshots.close()


def sampled(report: Report) -> Any:
    """Offer frames until one was sampled. Returns the state of the camera."""
    monitors = report.monitors
    assert monitors is not None
    frame = sample_frame()

    def offered() -> bool:
        frame.time_ns += 400_000_000
        report.tally.add("door", ROW, sample_detections(0))
        monitors.offer(frame, sample_detections(0))
        return "door" in monitors.states()

    wait_until(offered)
    return monitors.states()["door"]


def test_a_sampled_camera_is_in_the_state_the_metrics_and_the_page(report: Report) -> None:
    state = sampled(report)
    assert (state["state"], state["of_hours"]) == ("learning", 168)
    assert report.status()["drift"]["door"]["quantities"].keys() == {"scores", "detections", "brightness", "sharpness"}
    text = exposition(report).decode()
    values = {
        (s.name, s.labels.get("camera")): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }
    assert values["edgesparse_drifted", "door"] == 0 and values["edgesparse_drift_baseline_hours", "door"] == 0


def test_a_drifted_camera_is_named_in_the_words_and_metrics(report: Report) -> None:
    sampled(report)
    assert report.monitors is not None and report.monitors.drift is not None
    watched = report.monitors.drift._watched["door"]
    watched.baseline.alarm, watched.baseline.alarm_time = "id", "2026-01-01T00:00:00Z"
    assert (
        "door has drifted" in report.words() and 'edgesparse_drifted{camera="door"} 1.0' in exposition(report).decode()
    )


def test_an_alarm_goes_to_all_outputs_and_starts_no_clip(report: Report) -> None:
    alarm = Event("drift", "door", 0, {}, "id").follow("alarm", 0, drifted=["scores"])
    report.outputs.announce(alarm)
    report.outputs.tick(0, ["door"])
    assert report.outputs.reports["door", "drift", "alarm"] == 1 and not alarm.detected
    assert report.outputs.recent[0]["event"] == "drift"


def test_a_reload_opens_closes_and_keeps(report: Report, engine: LoadedEngine, tmp_path: Path) -> None:
    monitors = report.monitors
    assert monitors is not None
    first = monitors.drift
    monitors.change(service_settings(drift=DRIFT))
    assert monitors.drift is first, "nothing has changed"
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError):
        monitors.change(service_settings(drift={"folder": tmp_path / "file"}))
    assert monitors.drift is not None, "the old one is open again"
    monitors.change(ServiceSettings())
    assert monitors.drift is None and monitors.states() == {} and monitors.words() == []
    monitors.engine(engine)
    monitors.offer(sample_frame(), sample_detections())


def test_hard_frames_are_in_the_state_and_the_metrics_and_a_disk_that_refuses_in_the_words(
    report: Report, tmp_path: Path
) -> None:
    monitors = report.monitors
    assert monitors is not None and report.status()["hard_frames"] is None
    monitors.change(service_settings(drift=DRIFT, hard_frames={"per_day": 7}))
    assert monitors.hard is not None and (tmp_path / "hard").is_dir()
    state = report.status()["hard_frames"]
    assert (state["stored"], state["today"], state["per_day"]) == (0, 0, 7)
    monitors.hard.stored["door", "near"] += 2
    text = exposition(report).decode()
    assert 'edgesparse_hard_frames_total{camera="door",reason="near"} 2.0' in text
    assert "edgesparse_hard_frames_kept 0.0" in text and "edgesparse_hard_frames_bytes 0.0" in text
    monitors.hard.trouble = "full"
    assert "hard frames: cannot write: full" in report.words()


def test_nothing_is_copied_while_memory_is_short(report: Report) -> None:
    monitors = report.monitors
    assert monitors is not None and monitors.drift is not None
    monitors.paused = True
    for step in range(5):
        monitors.offer(sample_frame(step), sample_detections())
    assert monitors.drift._copies._places == {}

"""The contents of the metrics, and that Prometheus' own checker finds no fault in them."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from samples import HALF, NAMES, counting, sample_detections, sample_frame, service_settings

from edgesparse.camera import Camera
from edgesparse.service.engine import Identity
from edgesparse.service.health import Health
from edgesparse.service.journal import Priorities
from edgesparse.service.limits import Governor
from edgesparse.service.machine import Reading
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.base import Scene
from edgesparse.service.outputs.events import EventRule
from edgesparse.service.report import Report
from edgesparse.service.settings import LimitSettings
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings
from edgesparse.service.tally import COLUMNS, Tally
from edgesparse.service.web.metrics import exposition
from edgesparse.stream.cameras import CameraStatus

PROMTOOL = shutil.which("promtool")
IDENTITY = Identity(
    "build", "model", "null", "1", "int8", "int8", False, "", "", "", 3, 9, NAMES, (), "Orin"
)  # fmt: skip


@pytest.fixture
def report() -> Any:
    """A service with two cameras, one of which sees two persons in a zone, on a board that draws 8 watts."""
    snapshots = SnapshotEncoder(SnapshotSettings(), NAMES)
    scene = Scene(NAMES, (Camera(name="door", source="demo", zones={"gate": HALF}), Camera(name="yard", source="0")))
    outputs = Outputs(service_settings(events=(EventRule(name="person", classes=("person",)),)), scene, snapshots)
    engine: Any = SimpleNamespace(identity=IDENTITY, detector=SimpleNamespace(faults={}, dropped=0))
    health, tally = Health(), Tally(len(NAMES))
    health.update([CameraStatus("door", "demo", "live", frames=10), CameraStatus("yard", "0", "paused")])
    report = Report(engine, health, tally, Governor(LimitSettings()), snapshots, outputs)
    for camera, zones in (("door", (("gate",), ("gate",))), ("yard", None)):
        detections = sample_detections(0, 0, zones=zones)
        tally.add(camera, np.full(len(COLUMNS), 1_000_000, np.int64), detections)
        tally.in_view.add(camera, detections)
        outputs.write(sample_frame(camera=camera), detections)
    sensors: Any = SimpleNamespace(read=lambda: Reading(watts=8.0, temperatures=(("gpu", 51.0),)))
    report.update(sensors)
    health.update([CameraStatus("door", "demo", "live", frames=50), CameraStatus("yard", "0", "paused")])
    report.update(sensors)
    yield report
    outputs.close()
    snapshots.close()


def samples(report: Report, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by their label values, in the order of the label names."""
    families = text_string_to_metric_families(exposition(report).decode())
    selected = [sample for family in families for sample in family.samples if sample.name == f"edgesparse_{name}"]
    return {tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value for sample in selected}


def test_metrics_of_a_camera_name_it(report: Report) -> None:
    assert samples(report, "detections_total") == {("door", "person"): 2, ("yard", "person"): 2}
    in_view = samples(report, "objects_in_view")
    assert in_view == {("door", "person", ""): 2, ("door", "person", "gate"): 2, ("yard", "person", ""): 0}
    assert samples(report, "events_total") == {("door", "person", "start"): 1, ("yard", "person", "start"): 1}
    stages = samples(report, "stage_seconds_count")
    assert stages["door", "engine"] == stages["yard", "engine"] == 1 and len(stages) == 2 * (len(COLUMNS) - 1)
    assert samples(report, "frame_age_seconds_count") == {("door",): 1, ("yard",): 1}
    assert samples(report, "camera_up") == {("door",): 1, ("yard",): 0}
    assert samples(report, "camera_paused") == {("door",): 0, ("yard",): 1}


def test_crossings_and_stays_are_counters_per_camera_line_class_and_direction(report: Report) -> None:
    assert samples(report, "line_crossings_total") == {}, "no camera has counted"
    report.tally.add("door", np.zeros(len(COLUMNS), np.int64), counting(crossed=("out", "out"), left=12.5))
    where = ("door", "person")
    assert samples(report, "line_crossings_total") == {(*where, "in", "way"): 0, (*where, "out", "way"): 2}
    assert samples(report, "zone_entries_total") == {(*where, "gate"): 1}
    assert samples(report, "zone_dwell_seconds_count") == {(*where, "gate"): 1}
    assert samples(report, "zone_dwell_seconds_sum") == {(*where, "gate"): 12.5}
    counted = report.live()["counted"]
    assert list(counted) == ["door"] and counted["door"]["lines"]["way"]["out"]["classes"] == {"person": 2}
    report.tally.keep(["yard"])
    assert samples(report, "line_crossings_total") == {} and report.live()["counted"] == {}


def test_energy_follows_from_power_and_rate(report: Report) -> None:
    rate = sum(report.rates().values())
    assert samples(report, "joules_per_frame") == {(): pytest.approx(8.0 / rate)}
    assert 0 < samples(report, "energy_joules_total")[()] < 8
    report.reading = Reading()
    assert samples(report, "joules_per_frame") == {} and samples(report, "power_watts") == {}


@pytest.mark.promtool
@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt install prometheus")
def test_the_clock_may_be_set_while_the_service_runs(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board without a battery starts in 1970, until NTP answers: no service has then run for decades."""
    life, now = report.status()["started"], time.time() + 50 * 365 * 86_400
    monkeypatch.setattr(time, "time", lambda: now)
    state = report.live()
    assert state["started"] == life, "which identifies the process"
    assert 0 <= state["uptime_s"] < 60 and abs(samples(report, "start_time_seconds")[()] - now) < 60
    assert len(state["history"]) == 2 and all(abs(now - point["t"]) < 60 for point in state["history"])


def test_prometheus_finds_no_fault_in_the_metrics(report: Report) -> None:
    command = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(command, input=exposition(report), capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_each_line_of_the_log_has_a_priority_of_the_journal() -> None:
    formatter = Priorities(logging.Formatter("edgesparse: %(message)s"))

    def line(level: int) -> str:
        return formatter.format(logging.LogRecord("", level, "", 0, "one\ntwo", None, None))

    assert line(logging.INFO) == "<6>edgesparse: one\n<6>two"
    assert [line(level)[:3] for level in (10, 30, 40, 50)] == ["<7>", "<4>", "<3>", "<2>"]

"""The service as a process: reload, fallback, limits, draining; its engine follows a plan."""

from __future__ import annotations

import json
import signal
import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import squares
from running import Planned, Running, Start


def door(**service: Any) -> dict[str, Any]:
    return {"run": {"cameras": [{"name": "door", "source": "demo", "size": "160x120"}]}, "service": service}


def ready(service: Running) -> dict[str, Any]:
    return service.until(lambda status: status["detecting"])


@pytest.mark.parametrize("slots", [0, 2])
def test_the_fallback_takes_over_after_consecutive_failures(planned_package: Planned, start: Start, slots: int) -> None:
    """It is shown in the state, the metrics, systemd's status and the log, and persists across a restart."""
    package = planned_package({"fail_at": 20, "slots": slots})
    service = start(package, door(limits={"failures": 3}))
    status = service.until(lambda status: status["fallback"] and status["detecting"])
    assert (status["precision"], status["errors"]) == ("fp32", 3)
    metrics = service.get("/metrics")[1].decode()
    assert "edgesparse_fallback 1.0" in metrics and "edgesparse_inference_errors_total 3.0" in metrics
    assert "3 inferences in a row failed" in json.loads(service.get("/live.json")[1])["engine"]["notice"]
    service.notify.listen(1.5)
    assert any("fallback fp32 runs" in line for line in service.notify.lines())
    service.stop()
    status = service.status()
    assert (status["healthy"], status["why"]) == (False, "stopped")
    assert "inference failed (3 in a row): BuildError: inference 20 failed" in service.ended()
    again = start(package, door())
    assert ready(again)["fallback"]


def test_failures_below_the_limit_keep_the_engine(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({"fail_at": 20}, name="a"), door(limits={"failures": 1000}))
    status = service.until(lambda status: status["errors"] > 2)
    assert not status["fallback"] and not status["healthy"] and "inference failed" in status["why"]


def test_a_service_without_a_working_fallback_ends(planned_package: Planned, start: Start) -> None:
    """systemd restarts it; the last log line says what failed."""
    service = start(planned_package({"fail_at": 20}, {"fail_at": 1}), door(limits={"failures": 2}))
    service.process.wait(60)
    assert service.process.returncode == 1
    last = service.ended().splitlines()[-1]
    assert last.startswith("edgesparse: 2 inferences in a row failed") and last.endswith("could take its place")


def test_the_fallback_replaces_an_engine_that_cannot_be_loaded(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({"inputs": "damaged"}), door())
    status = ready(service)
    assert status["fallback"] and status["precision"] == "fp32" and "fallback fp32 runs" in status["words"]


def test_sighup_takes_changed_settings_and_keeps_cameras_open(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), door())
    before = ready(service)
    settings = door()
    settings["run"]["cameras"].append({"name": "yard", "source": "demo:1", "size": "160x120"})
    settings["run"]["conf"] = 0.5
    service.write(settings)
    service.notify.forget()
    service.signal(signal.SIGHUP)
    service.notify.until("RELOADING=1")
    service.notify.until("MONOTONIC_USEC=")
    service.notify.until("READY=1")
    after = service.until(lambda status: len(status["cameras"]) == 2 and status["cameras"][1]["state"] == "live")
    assert after["cameras"][0]["frames"] > before["cameras"][0]["frames"], "a reopened camera would count from 0"
    assert 'edgesparse_reloads_total{outcome="done"} 1.0' in service.get("/metrics")[1].decode()
    service.stop()


@pytest.mark.parametrize("slots", [0, 2])
def test_sighup_takes_another_engine_without_losing_a_frame_of_the_camera(
    tmp_path: Path, planned_package: Planned, start: Start, slots: int
) -> None:
    """`current` points to another package with different classes: their names are never mixed up."""
    package = planned_package({"slots": slots}, name="one")
    two = planned_package({}, name="two", classes=("blue", "white"), build_id="0123456789ab", model="other")
    link = tmp_path / "current"
    link.symlink_to(package)
    lines = tmp_path / "records.jsonl"
    service = start(link, door(jsonl={"file": str(lines)}))
    before = ready(service)
    link.unlink()
    link.symlink_to(two)
    service.signal(signal.SIGHUP)
    after = service.until(lambda status: status["package"] == "0123456789ab" and status["detecting"])
    assert after["model"] == "other" and after["cameras"][0]["frames"] > before["cameras"][0]["frames"]
    time.sleep(0.5)
    service.stop()
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    classes = [record["detections"][0]["class"] for record in records]
    assert len(records) > 10 and list(dict.fromkeys(classes)) in (["red", "blue"], ["red", "0", "blue"])
    gaps = [(b["monotonic_ns"] - a["monotonic_ns"]) / 1e9 for a, b in pairwise(records)]
    assert max(gaps) < 5


def test_an_invalid_reload_changes_nothing(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), door())
    ready(service)
    service.settings.write_text("run: {cameras: [{name: door, surce: demo}]}\n")
    service.notify.forget()
    service.signal(signal.SIGHUP)
    service.notify.until("READY=1")
    status = service.until(lambda status: "reload refused" in status["words"])
    assert "did you mean 'source'?" in status["words"] and status["detecting"]
    assert 'edgesparse_reloads_total{outcome="refused"} 1.0' in service.get("/metrics")[1].decode()
    service.stop()


def test_invalid_settings_exit_with_2(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), {"run": {}})
    service.process.wait(60)
    assert service.process.returncode == 2
    assert "no camera: needed run.source or run.cameras" in service.ended().splitlines()[-1]


def test_a_port_in_use_is_refused(planned_package: Planned, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = start(planned_package({}), door(web={"port": port}))
        service.process.wait(60)
    last = service.ended().splitlines()[-1]
    assert service.process.returncode == 2 and "choose another service.web.port" in last and str(port) in last


def test_beyond_a_limit_the_frame_rate_goes_down(planned_package: Planned, start: Start) -> None:
    """The limit is more free memory than any machine has; once it is removed the rate recovers."""
    service = start(planned_package({}), door())
    ready(service)
    service.write(door(limits={"memory": "900000 GB"}))
    service.signal(signal.SIGHUP)
    status = service.until(lambda status: status["rate_share"] < 0.1 and status["cameras"][0]["fps"] < 3)
    assert status["healthy"] and "slowed to 3 %" in status["words"]
    answer = service.get("/camera/door.jpg")
    assert answer == (503, b'{"why": "memory is short: no images are encoded"}')
    service.write(door())
    service.signal(signal.SIGHUP)
    service.until(lambda status: status["rate_share"] > 0.03125)
    service.stop()


def test_outputs_that_are_not_finite_are_counted_and_health_reports_them(
    planned_package: Planned, start: Start
) -> None:
    """Like the outputs of a network with NaN weights: no box leaves the service, and it is not ready."""
    row = [float("nan")] * squares.CELLS
    package = planned_package(
        {"values": {"output0": [[row, row, row, row, [0.9] * squares.CELLS, [0.0] * squares.CELLS]]}}
    )
    service = start(package, door())
    status = service.until(lambda status: status["invalid_boxes"] > 100 and "not valid boxes" in status["why"])
    assert status["healthy"] and not status["detecting"] and "not finite" in status["why"]
    assert service.get("/readyz")[0] == 503
    metrics = service.get("/metrics")[1].decode()
    assert 'edgesparse_invalid_boxes_total{fault="values that are not finite numbers"}' in metrics
    service.stop()

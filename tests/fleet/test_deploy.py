"""What a device does with a bundle: deploy it, refuse it or roll it back, with the reason in the history."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundles
import pytest

from edgesparse.errors import BackendUnavailable, DeployError, RolledBack, SignatureError
from edgesparse.fleet import history, restart
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slot_build import SlotBuild
from edgesparse.fleet.slots import DeploySlot, Root
from edgesparse.fleet.status import status

YEAR = 365 * 86400


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return bundles.key(tmp_path)


@pytest.fixture
def deploy(tmp_path: Path, key: Path) -> Callable[..., Any]:
    """Deploy a version on the device in `tmp_path`/device."""

    def go(version: str, service: ServiceControl | None = None, downgrade: bool = False, **fields: Any) -> Any:
        path = tmp_path / f"{version}.esb"
        if not path.exists():
            bundles.signed(path, key, version)
        with bundles.opened(path) as source:
            return bundles.device(tmp_path / "device", service, **fields).deploy(source, downgrade=downgrade)

    return go


SERVICE = """
import json, os, sys, time
status, package, sick = sys.argv[1:]
manifest = json.load(open(package + "/manifest.json"))
version = json.load(open(package + "/model.json"))
for frame in range(2000):
    state = {"package": manifest["build_id"], "pid": os.getpid(), "started": 0, "ready": True,
             "healthy": version != sick,
             "why": "it detects nothing" if version == sick else "", "frames": frame, "errors": 0, "fallback": False,
             "cameras": [{"name": "camera", "state": "live", "age_ms": 10}]}
    with open(status + ".part", "w") as file:
        json.dump(state, file)
    os.replace(status + ".part", status)
    time.sleep(0.02)
"""


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """A process in place of the service, which exits by itself; with version 2.0 it is unhealthy."""
    (tmp_path / "service.py").write_text(SERVICE)
    status, pid = tmp_path / "status.json", tmp_path / "pid"
    script = tmp_path / "restart.sh"
    script.write_text(
        textwrap.dedent(f"""\
        [ -e {pid} ] && kill $(cat {pid}) 2>/dev/null
        rm -f {status}
        {sys.executable} {tmp_path}/service.py {status} {tmp_path}/device/current/package 2.0 >/dev/null 2>&1 &
        echo $! > {pid}
        for i in $(seq 600); do [ -e {status} ] && exit 0; sleep 0.1; done
        exit 1
        """)
    )
    yield ServiceControl(("sh", str(script)), status, 2.0, 0.05)
    if pid.exists():
        os.kill(int(pid.read_text()), 9)


def test_an_unhealthy_service_is_rolled_back_within_the_window(
    deploy: Callable[..., Any], service: ServiceControl, tmp_path: Path
) -> None:
    assert deploy("1.0", service).result == "deployed"
    begin = time.monotonic()
    with pytest.raises(
        RolledBack, match=r"^model 2.0 was rolled back: the service is not healthy: it detects nothing$"
    ):
        deploy("2.0", service)
    assert time.monotonic() - begin < 20
    assert bundles.serving(tmp_path / "device") == "1.0"
    state = status(Root(tmp_path / "device"), service)
    assert state["running"]["version"] == "1.0" and state["healthy"] is True
    assert state["service"]["package"] == "build-1.0"
    assert state["last"]["result"] == "rolled back" and state["last"]["why"].endswith("it detects nothing")
    assert state["other"]["bad"].endswith("it detects nothing") and state["under_way"] is None
    assert deploy("3.0", service).result == "deployed"


def test_a_bundle_that_fails_its_self_test_never_runs(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")

    def fails(slot: DeploySlot, progress: Any) -> SlotBuild:
        bundles.quick_build(slot, progress)
        raise DeployError("the self-test found 3 % of 40 expected boxes")

    with pytest.raises(DeployError, match=r"^model 2.0 is refused: the self-test found 3 % of 40 expected boxes$"):
        deploy("2.0", build=fails)
    state = status(Root(tmp_path / "device"), ServiceControl())
    assert state["running"]["version"] == "1.0" and state["other"] is None and state["under_way"] is None
    assert state["last"]["result"] == "refused" and "3 %" in state["last"]["why"]
    assert [*(tmp_path / "device" / "slots" / "b").iterdir()] == []


def test_an_unhealthy_first_bundle_stays_since_there_is_no_other(
    deploy: Callable[..., Any], service: ServiceControl, tmp_path: Path
) -> None:
    with pytest.raises(DeployError, match=r"model 2\.0 is not healthy, and there is nothing to go back to"):
        deploy("2.0", service)
    assert bundles.serving(tmp_path / "device") == "2.0"
    assert deploy("2.0").result == "deployed"  # an unhealthy slot does not count as 'nothing to do'


def test_a_failed_restart_is_rolled_back(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    with pytest.raises(RolledBack, match=r"'false' failed with code 1; the old one is not healthy either"):
        deploy("2.0", ServiceControl(("false",)))
    assert bundles.serving(tmp_path / "device") == "1.0"


def test_rollbacks_by_hand(deploy: Callable[..., Any], service: ServiceControl, tmp_path: Path) -> None:
    alone, device = bundles.device(tmp_path / "device"), bundles.device(tmp_path / "device", service)
    with pytest.raises(DeployError, match="nothing to go back to"):
        alone.rollback()
    deploy("1.0")
    with pytest.raises(DeployError, match="nothing to go back to"):
        alone.rollback()
    deploy("3.0")
    assert device.rollback().version == "1.0"
    assert bundles.serving(tmp_path / "device") == "1.0"
    assert json.loads(service.status.read_text())["package"] == "build-1.0"
    assert alone.rollback().version == "3.0"
    assert Root(tmp_path / "device").history()[-1]["result"] == "rolled back"


def test_a_bad_slot_is_no_target_of_a_rollback(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    with pytest.raises(RolledBack):
        deploy("2.0", ServiceControl(("false",)))
    with pytest.raises(DeployError, match=r"nothing to go back to \(slot b was bad: 'false' failed"):
        bundles.device(tmp_path / "device").rollback()


def test_a_changed_engine_is_no_target_of_a_rollback(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    deploy("2.0")
    (tmp_path / "device" / "slots" / "a" / "package" / "model.json").write_text('"evil"')
    with pytest.raises(Exception, match="changed"):
        bundles.device(tmp_path / "device").rollback()
    assert bundles.serving(tmp_path / "device") == "2.0"


def test_concurrent_deploys_are_refused(deploy: Callable[..., Any], tmp_path: Path) -> None:
    messages: list[str] = []

    def second(slot: DeploySlot, progress: Any) -> SlotBuild:
        for version in ("2.0", "3.0"):
            with pytest.raises(DeployError) as error:
                deploy(version)
            messages.append(str(error.value))
        assert bundles.device(tmp_path / "device").recover().result == "nothing to do"
        assert status(Root(tmp_path / "device"), ServiceControl())["under_way"]["step"] == "building"
        return bundles.quick_build(slot, progress)

    assert deploy("2.0", build=second).result == "deployed"
    assert (
        messages
        == [f"deploy in process {os.getpid()} is under way in {tmp_path}/device: wait for it, then run this again"] * 2
    )


@pytest.mark.parametrize("wrong", [-YEAR, -50 * YEAR])
def test_a_clock_that_is_behind_extends_no_key_and_is_reported(
    deploy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    now = bundles.TIME
    monkeypatch.setattr(time, "time", lambda: float(now + wrong))
    outcome = deploy("1.0")
    assert outcome.result == "deployed" and "the clock here says" in outcome.note
    text = (tmp_path / "trusted" / "factory.pub").read_text()
    (tmp_path / "trusted" / "factory.pub").write_text(text.replace("expires: never", "expires: 2026-01-01"))
    with pytest.raises(SignatureError, match=r"expired on 2026-01-01 \(the clock here says"):
        deploy("2.0")


def test_a_clock_that_is_ahead_refuses_a_key_with_the_reason(
    deploy: Callable[..., Any], tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (tmp_path / "trusted" / "factory.pub").read_text()
    (tmp_path / "trusted" / "factory.pub").write_text(text.replace("expires: never", "expires: 2027-03-01"))
    deploy("1.0")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(bundles.TIME + YEAR))
        with pytest.raises(SignatureError, match=r"expired on 2027-03-01 \(the clock here says 2027-.*set the clock"):
            deploy("2.0")
    assert deploy("2.0").result == "deployed"  # the wrong clock has left no trace


def test_a_clock_that_jumps_during_the_window_does_not_matter(
    deploy: Callable[..., Any], service: ServiceControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: bundles.TIME + (next(clock) % 2) * YEAR)
    assert deploy("1.0", service).result == "deployed"


def test_a_dead_service_is_not_healthy(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    path, root = tmp_path / "status.json", Root(tmp_path / "device")
    state = status(root, ServiceControl(status=path))
    assert state["healthy"] is None and state["no_service"].startswith(f"{path}: No such file or directory; a running")
    good = {"package": "build-1.0", "healthy": True, "pid": 1, "started": 1.0, "ready": True, "frames": 1, "errors": 0}
    path.write_text(json.dumps(good))
    state = status(root, ServiceControl(status=path))
    assert state["healthy"] is True and state["no_service"] is None
    os.utime(path, (time.time() - 60, time.time() - 60))
    state = status(root, ServiceControl(status=path))
    assert state["healthy"] is False and state["service"] is None and "60 s old" in state["no_service"]
    path.write_text(json.dumps({**good, "package": "another"}))
    assert status(root, ServiceControl(status=path))["healthy"] is False
    for other in ("[]", '{"healthy": true}', "no JSON"):
        path.write_text(other)
        state = status(root, ServiceControl(status=path))
        assert (state["service"], state["healthy"]) == (None, None)
        assert state["no_service"].startswith(f"{path} is not a status of a service: name the status.json")


def test_only_two_builds_are_kept(deploy: Callable[..., Any], tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0", "4.0"):
        deploy(version)
    builds = [path.name for path in (tmp_path / "device").rglob("build-*")]
    assert sorted(builds) == ["build-3.0", "build-4.0"]


def test_check_reports_and_changes_nothing(deploy: Callable[..., Any], tmp_path: Path, key: Path) -> None:
    path = bundles.signed(tmp_path / "1.0.esb", key, "1.0")
    with bundles.opened(path) as source:
        assert bundles.device(tmp_path / "device").check(source).result == "would deploy"
    assert not (tmp_path / "device").exists()
    deploy("1.0")
    with bundles.opened(path) as source:
        assert bundles.device(tmp_path / "device").check(source).changed is False


def test_the_history_is_bounded_and_survives_a_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 20)
    root = Root(tmp_path)
    for number in range(history.KEPT):
        root.note(number=number)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"number": ')
    for number in range(history.KEPT, 3 * history.KEPT):
        root.note(number=number)
        assert root.history()[-1] == {"number": number}
    assert len(root.history()) == history.KEPT
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) <= 1.25 * history.KEPT + 1


def test_ctrl_c_during_the_build_and_during_the_window(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")

    def interrupted(*_: Any) -> SlotBuild:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy("2.0", build=interrupted)

    watched = iter([True])

    def stop(step: str, *_: int) -> None:
        if step == "watching the service" and next(watched, False):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy("2.0", ServiceControl(("true",), tmp_path / "none", 0.2, 0.05), progress=stop)
    assert bundles.serving(tmp_path / "device") == "1.0" and Root(tmp_path / "device").journal() is None
    assert [line["result"] for line in Root(tmp_path / "device").history()] == ["deployed", "refused", "rolled back"]


def test_status_shows_how_far_a_deploy_is_with_the_time_left(deploy: Callable[..., Any], tmp_path: Path) -> None:
    """Next to the service's status, until the deploy ends; nothing reads it if its process is gone."""
    service, seen = ServiceControl(("true",), tmp_path / "status.json", 20, 0.01), list[dict[str, Any]]()
    root = Root(tmp_path / "device")

    def look(step: str, done: int, total: int) -> None:
        if going := status(root, service)["under_way"]:
            seen.append(going)
            if step == "watching the service" and going["progress"].endswith(" s left"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy("1.0", service, progress=look)
    assert {"deploy"} == {going["verb"] for going in seen} and seen[-1]["step"] == "switching"
    assert re.fullmatch(r"watching the service \d+/20, \d+ s left", seen[-1]["progress"])
    assert status(root, service)["under_way"] is None and not (tmp_path / "progress.json").exists()
    for stale in ('{"pid": 4194305, "verb": "deploy", "progress": "x"}', "[]", '{"pid": "x"}'):
        (tmp_path / "progress.json").write_text(stale)
        assert status(root, service)["under_way"] is None


def test_an_unknown_restart_command_is_refused_first() -> None:
    with pytest.raises(BackendUnavailable, match="no command 'systemctlx' here: pass --restart COMMAND"):
        restart.service_control("systemctlx restart edgesparse", Path("x"), 1)


@pytest.mark.root
def test_root_works_as_the_folders_owner(key: Path, tmp_path: Path) -> None:
    """Skip unless this process is root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    base = Path(shutil.copytree(tmp_path / "trusted", Path("/tmp") / f"esb-{os.getpid()}" / "trusted")).parent
    try:
        base.chmod(0o755)
        path, root = bundles.signed(base / "1.0.esb", key, "1.0"), base / "device"
        root.mkdir()
        os.chown(root, 65534, 65534)
        users: list[int] = []

        def build(slot: DeploySlot, progress: Any) -> SlotBuild:
            users.append(os.geteuid())
            os.environ["EDGESPARSE_STATE"], before = str(root), os.environ["EDGESPARSE_STATE"]
            try:
                return bundles.quick_build(slot, progress)
            finally:
                os.environ["EDGESPARSE_STATE"] = before

        control = ServiceControl(("sh", "-c", f"id -u > {base}/who; chmod 644 {base}/who"), base / "none", 0.02, 0.01)
        with bundles.opened(path) as source, pytest.raises(DeployError, match="nothing to go back to"):
            Device(Root(root), control, build).deploy(source)
        assert users == [65534] and os.geteuid() == 0 and (base / "who").read_text().strip() == "0"
        assert {path.lstat().st_uid for path in root.rglob("*")} == {65534}
    finally:
        shutil.rmtree(base)


def test_recent_starts_do_not_prevent_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd refuses to start a unit too often unless its counter is reset; a rollback would then be impossible."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert restart.service_control(restart.RESTART, tmp_path / "none", 1).start() is None
    assert (tmp_path / "calls").read_text().splitlines() == ["reset-failed edgesparse", "restart edgesparse"]

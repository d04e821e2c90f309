"""What a device does with a bundle: into service, or refused, or back again, with the reason in the history."""

from __future__ import annotations

import json
import os
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
from edgesparse.fleet import restart, slots
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.making import Made
from edgesparse.fleet.restart import Service
from edgesparse.fleet.slots import Root, Slot
from edgesparse.fleet.status import status

YEAR = 365 * 86400


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return bundles.key(tmp_path)


@pytest.fixture
def deploy(tmp_path: Path, key: Path) -> Callable[..., Any]:
    """Deploy a version on the device in `tmp_path`/device."""

    def go(version: str, service: Service | None = None, downgrade: bool = False, **said: Any) -> Any:
        path = tmp_path / f"{version}.esb"
        if not path.exists():
            bundles.signed(path, key, version)
        with bundles.opened(path) as source:
            return bundles.device(tmp_path / "device", service, **said).deploy(source, downgrade=downgrade)

    return go


SERVICE = """
import json, os, sys, time
status, package, sick = sys.argv[1:]
said = json.load(open(package + "/manifest.json"))
word = json.load(open(package + "/model.json"))
for frame in range(2000):
    state = {"package": said["build_id"], "pid": os.getpid(), "started": 0, "ready": True, "healthy": word != sick,
             "why": "it detects nothing" if word == sick else "", "frames": frame, "errors": 0, "fallback": False,
             "cameras": [{"name": "camera", "state": "live", "age_ms": 10}]}
    with open(status + ".part", "w") as file:
        json.dump(state, file)
    os.replace(status + ".part", status)
    time.sleep(0.02)
"""


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """A stand-in for the service, a process that ends by itself: it turns sick with version 2.0. Yields its Service."""
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
    yield Service(("sh", str(script)), status, 2.0, 0.05)
    if pid.exists():
        os.kill(int(pid.read_text()), 9)


def test_a_service_that_turns_sick_goes_back_within_the_window(
    deploy: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    assert deploy("1.0", service).result == "deployed"
    begun = time.monotonic()
    with pytest.raises(
        RolledBack, match=r"^model 2.0 was rolled back: the service is not healthy: it detects nothing$"
    ):
        deploy("2.0", service)
    assert time.monotonic() - begun < 20
    assert bundles.serving(tmp_path / "device") == "1.0"
    said = status(Root(tmp_path / "device"), service)
    assert said["running"]["version"] == "1.0" and said["healthy"] is True
    assert said["service"]["package"] == "build-1.0"
    assert said["last"]["result"] == "rolled back" and said["last"]["why"].endswith("it detects nothing")
    assert said["other"]["bad"].endswith("it detects nothing") and said["under_way"] is None
    assert deploy("3.0", service).result == "deployed"


def test_a_bundle_that_fails_its_self_test_never_runs(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")

    def fails(slot: Slot, progress: Any) -> Made:
        bundles.quick_make(slot, progress)
        raise DeployError("the self-test found 3 % of 40 expected boxes")

    with pytest.raises(DeployError, match=r"^model 2.0 is refused: the self-test found 3 % of 40 expected boxes$"):
        deploy("2.0", make=fails)
    said = status(Root(tmp_path / "device"), Service())
    assert said["running"]["version"] == "1.0" and said["other"] is None and said["under_way"] is None
    assert said["last"]["result"] == "refused" and "3 %" in said["last"]["why"]
    assert [*(tmp_path / "device" / "slots" / "b").iterdir()] == []


def test_the_first_one_that_is_sick_stays_for_there_is_nothing_else(
    deploy: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    with pytest.raises(DeployError, match=r"model 2\.0 is sick, and there is nothing to go back to"):
        deploy("2.0", service)
    assert bundles.serving(tmp_path / "device") == "2.0"
    assert deploy("2.0").result == "deployed"  # what was not found healthy is not 'nothing to do'


def test_a_restart_that_fails_goes_back(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    with pytest.raises(RolledBack, match=r"'false' failed with code 1; the old one is not well either"):
        deploy("2.0", Service(("false",)))
    assert bundles.serving(tmp_path / "device") == "1.0"


def test_back_and_forth_by_hand(deploy: Callable[..., Any], service: Service, tmp_path: Path) -> None:
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


def test_what_was_bad_is_nothing_to_go_back_to(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    with pytest.raises(RolledBack):
        deploy("2.0", Service(("false",)))
    with pytest.raises(DeployError, match=r"nothing to go back to \(slot b was bad: 'false' failed"):
        bundles.device(tmp_path / "device").rollback()


def test_an_engine_that_was_changed_is_nothing_to_go_back_to(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    deploy("2.0")
    (tmp_path / "device" / "slots" / "a" / "package" / "model.json").write_text('"evil"')
    with pytest.raises(Exception, match="changed"):
        bundles.device(tmp_path / "device").rollback()
    assert bundles.serving(tmp_path / "device") == "2.0"


def test_two_at_once(deploy: Callable[..., Any], tmp_path: Path) -> None:
    said: list[str] = []

    def second(slot: Slot, progress: Any) -> Made:
        for version in ("2.0", "3.0"):
            with pytest.raises(DeployError) as error:
                deploy(version)
            said.append(str(error.value))
        assert bundles.device(tmp_path / "device").recover().result == "nothing to do"
        assert status(Root(tmp_path / "device"), Service())["under_way"]["step"] == "building"
        return bundles.quick_make(slot, progress)

    assert deploy("2.0", make=second).result == "deployed"
    assert (
        said
        == [f"deploy in process {os.getpid()} is under way in {tmp_path}/device: wait for it, then run this again"] * 2
    )


@pytest.mark.parametrize("wrong", [-YEAR, -50 * YEAR])
def test_a_clock_that_is_behind_ends_no_key_too_late_and_is_told(
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


def test_a_clock_that_is_ahead_refuses_a_key_and_says_why(
    deploy: Callable[..., Any], tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (tmp_path / "trusted" / "factory.pub").read_text()
    (tmp_path / "trusted" / "factory.pub").write_text(text.replace("expires: never", "expires: 2027-03-01"))
    deploy("1.0")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(bundles.TIME + YEAR))
        with pytest.raises(SignatureError, match=r"expired on 2027-03-01 \(the clock here says 2027-.*set the clock"):
            deploy("2.0")
    assert deploy("2.0").result == "deployed"  # the wrong clock has left nothing behind


def test_a_clock_that_jumps_in_the_window_changes_nothing(
    deploy: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: bundles.TIME + (next(clock) % 2) * YEAR)
    assert deploy("1.0", service).result == "deployed"


@pytest.mark.root
def test_a_disk_that_is_too_full_is_found_first(key: Path, tmp_path: Path, small_disk: Path) -> None:
    """Last run as root on Debian 12, as are the other tests that need root here."""
    path = bundles.signed(tmp_path / "big.esb", key, "1.0")
    with (
        bundles.opened(path) as source,
        pytest.raises(DeployError, match=r"no space in .*: needed 20 MB, found [23] MB"),
    ):
        bundles.device(small_disk / "device").deploy(source)
    assert bundles.tree(small_disk / "device") == {}


@pytest.mark.root
def test_a_disk_that_fills_up_on_the_way_leaves_the_old_one(
    key: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when something else fills it after it was checked."""
    monkeypatch.setattr("edgesparse.fleet.admit.SPARE", 0)
    monkeypatch.setattr("edgesparse.fleet.admit.BUILD", 0)
    root = small_disk / "device"

    def fills(slot: Slot, progress: Any) -> Made:
        (slot.folder / "filler").write_bytes(bytes(10_000_000))
        return bundles.quick_make(slot, progress)

    for version in ("1.0", "2.0", "3.0"):
        bundles.signed(tmp_path / f"{version}.esb", key, version)
    with bundles.opened(tmp_path / "1.0.esb") as source:
        bundles.device(root).deploy(source)
    with bundles.opened(tmp_path / "2.0.esb") as source, pytest.raises(DeployError, match="No space left on device"):
        bundles.device(root, make=fills).deploy(source)
    assert bundles.serving(root) == "1.0" and Root(root).history()[-1]["result"] == "refused"
    with bundles.opened(tmp_path / "3.0.esb") as source:
        assert bundles.device(root).deploy(source).result == "deployed"


def test_a_service_that_has_died_is_not_healthy(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")
    path, root = tmp_path / "status.json", Root(tmp_path / "device")
    assert status(root, Service(status=path))["healthy"] is None
    path.write_text(json.dumps({"package": "build-1.0", "healthy": True}))
    assert status(root, Service(status=path))["healthy"] is True
    os.utime(path, (time.time() - 60, time.time() - 60))
    said = status(root, Service(status=path))
    assert said["healthy"] is False and said["service"] is None
    path.write_text(json.dumps({"package": "another", "healthy": True}))
    assert status(root, Service(status=path))["healthy"] is False


def test_old_slots_are_cleaned(deploy: Callable[..., Any], tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0", "4.0"):
        deploy(version)
    held = [path.name for path in (tmp_path / "device").rglob("build-*")]
    assert sorted(held) == ["build-3.0", "build-4.0"]


def test_check_says_what_would_be_done_and_does_nothing(deploy: Callable[..., Any], tmp_path: Path, key: Path) -> None:
    path = bundles.signed(tmp_path / "1.0.esb", key, "1.0")
    with bundles.opened(path) as source:
        assert bundles.device(tmp_path / "device").check(source).result == "would deploy"
    assert not (tmp_path / "device").exists()
    deploy("1.0")
    with bundles.opened(path) as source:
        assert bundles.device(tmp_path / "device").check(source).changed is False


def test_the_history_is_bounded_and_outlives_a_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "KEPT", 20)
    root = Root(tmp_path)
    for number in range(slots.KEPT):
        root.note(number=number)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"number": ')
    for number in range(slots.KEPT, 3 * slots.KEPT):
        root.note(number=number)
        assert root.history()[-1] == {"number": number}
    assert len(root.history()) == slots.KEPT
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) <= 1.25 * slots.KEPT + 1


def test_ctrl_c_while_it_builds_and_while_it_is_watched(deploy: Callable[..., Any], tmp_path: Path) -> None:
    deploy("1.0")

    def interrupted(*_: Any) -> Made:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy("2.0", make=interrupted)

    watched = iter([True])

    def stop(step: str, *_: int) -> None:
        if step == "watching the service" and next(watched, False):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy("2.0", Service(("true",), tmp_path / "none", 0.2, 0.05), progress=stop)
    assert bundles.serving(tmp_path / "device") == "1.0" and Root(tmp_path / "device").journal() is None
    assert [line["result"] for line in Root(tmp_path / "device").history()] == ["deployed", "refused", "rolled back"]


def test_a_restart_command_that_is_not_there_is_refused_first() -> None:
    with pytest.raises(BackendUnavailable, match="no command 'systemctlx' here: pass --restart COMMAND"):
        restart.service("systemctlx restart edgesparse", Path("x"), 1)


@pytest.mark.root
def test_root_works_as_the_folders_owner(key: Path, tmp_path: Path) -> None:
    """Skips where this process is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    base = Path(shutil.copytree(tmp_path / "trusted", Path("/tmp") / f"esb-{os.getpid()}" / "trusted")).parent
    try:
        base.chmod(0o755)
        path, root = bundles.signed(base / "1.0.esb", key, "1.0"), base / "device"
        root.mkdir()
        os.chown(root, 65534, 65534)
        who: list[int] = []

        def make(slot: Slot, progress: Any) -> Made:
            who.append(os.geteuid())
            os.environ["EDGESPARSE_STATE"], before = str(root), os.environ["EDGESPARSE_STATE"]
            try:
                return bundles.quick_make(slot, progress)
            finally:
                os.environ["EDGESPARSE_STATE"] = before

        says = Service(("sh", "-c", f"id -u > {base}/who; chmod 644 {base}/who"), base / "none", 0.02, 0.01)
        with bundles.opened(path) as source, pytest.raises(DeployError, match="nothing to go back to"):
            Device(Root(root), says, make).deploy(source)
        assert who == [65534] and os.geteuid() == 0 and (base / "who").read_text().strip() == "0"
        assert {found.lstat().st_uid for found in root.rglob("*")} == {65534}
    finally:
        shutil.rmtree(base)


def test_starts_of_the_last_minutes_do_not_count_against_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd refuses to start what was started too often, unless it is told to forget that: no way back then."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert restart.service(restart.RESTART, tmp_path / "none", 1).start() is None
    assert (tmp_path / "asked").read_text().splitlines() == ["reset-failed edgesparse", "restart edgesparse"]

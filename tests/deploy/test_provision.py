"""Provisioning as a whole: what a check reports, what a run changes, and that a second run changes nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_jetson import MODES, ROOT, UNIT, FakeJetson, failure, provision

from deploy.provision import steps
from deploy.provision.__main__ import main


def test_a_check_changes_nothing_and_lists_the_changes_of_a_run(
    jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = jetson.tree()
    check = provision(jetson, capsys, "--check", "--key", key)
    assert jetson.tree() == before and not jetson.ran
    assert check["ok"] and check["changed"] and check["check"]
    run = provision(jetson, capsys, "--key", key)
    assert [step["changes"] for step in check["steps"]] == [step["changes"] for step in run["steps"]]


def test_a_second_run_changes_nothing(jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision(jetson, capsys, "--key", key)["changed"]
    ran, tree = list(jetson.ran), jetson.tree()
    again = provision(jetson, capsys, "--key", key)
    assert again["ok"] and not again["changed"] and jetson.tree() == tree
    assert {step["state"] for step in again["steps"]} == {"ok"}
    assert [command for command in jetson.ran[len(ran) :] if "doctor" not in command] == []


def test_every_step_has_nothing_left_to_change_after_a_run(jetson: FakeJetson, key: Path) -> None:
    options = steps.Options(keys=[key])
    for step in steps.STEPS:
        for change in step.plan(jetson, options):
            change.make()
        assert list(step.plan(jetson, options)) == [], step.name


def test_the_report(jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = provision(jetson, capsys, "--key", key)
    assert set(report) == {"ok", "check", "changed", "code", "time", "machine", "steps"}
    assert [step["step"] for step in report["steps"]] == [step.name for step in steps.STEPS]
    machine = report["machine"]
    assert machine["l4t"] == "36.4.3" and machine["jetpack"] == "6.1 or 6.2" and machine["tensorrt"] == "10.3.0"
    assert machine["board"] == "NVIDIA Jetson Orin Nano Developer Kit" and machine["power_mode"] == "MAXN"
    assert json.loads(jetson.read("/etc/edgesparse/provision.json")) == report


def test_the_installed_files(jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provision(jetson, capsys, "--key", key)
    assert jetson.read("/etc/edgesparse/trusted/fleet.pub") == key.read_text()
    assert "csi://0" in jetson.read("/etc/edgesparse/device.yaml")
    assert jetson.read("/etc/systemd/system/edgesparse.service") == UNIT
    assert jetson.members == {"video", "render"}
    (installed,) = [command for command in jetson.ran if "opencv" in command]
    assert "--require-hashes --only-binary=:all: -r " in installed and installed.endswith("locks/pip-opencv.txt")


def test_another_machine_works_without_jetpack(jetson: FakeJetson, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/etc/nv_tegra_release", "")
    jetson.outputs["dpkg-query"] = None
    jetson.outputs["import"] = None
    report = provision(jetson, capsys, "--any-machine", "--check")
    assert report["ok"] and "tensorrt" not in report["machine"]


def test_a_running_service_is_restarted_after_a_change(
    jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(jetson, capsys, "--key", key)
    jetson.path("/run/systemd/system").mkdir(parents=True)
    jetson.outputs.update({"is-active": "active", "ActiveEnterTimestamp": f"@{time.time() + 60:.0f}"})
    assert not provision(jetson, capsys)["changed"]
    jetson.outputs["ActiveEnterTimestamp"] = f"@{time.time() - 60:.0f}"
    assert provision(jetson, capsys)["changed"] and jetson.ran.count("systemctl restart edgesparse") == 1
    assert not provision(jetson, capsys)["changed"]


def test_a_change_without_effect_is_a_failure(jetson: FakeJetson, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/etc/nvpmodel.conf", MODES)
    jetson.outputs["nvpmodel"] = "NV Power Mode: 15W"
    report = provision(jetson, capsys, "--power-mode", "MAXN")
    assert failure(report)[:2] == ("power mode", "the change had no effect: power mode MAXN, now 15W")
    assert report["code"] == 3 and report["steps"][-1]["state"] == "not reached"


def test_a_bundle_is_deployed_once(jetson: FakeJetson, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.outputs["--check --json"] = '{"changed": false}'
    report = provision(jetson, capsys, "--key", key, "--bundle", "parts.esb")
    assert report["ok"] and not any(" deploy " in command for command in jetson.ran)
    jetson.outputs["--check --json"] = '{"changed": true}'
    provision(jetson, capsys, "--key", key, "--bundle", "parts.esb")
    (command,) = [command for command in jetson.ran if " deploy " in command]
    assert command.startswith("/opt/edgesparse/bin/edgesparse deploy /") and command.endswith("parts.esb --restart ")


def test_a_failure_before_the_folders_exist_is_reported_too(
    jetson: FakeJetson, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.write("/opt/edgesparse/pyvenv.cfg", "version = 3.9.2\n")
    assert not provision(jetson, capsys)["ok"]
    assert not json.loads(jetson.read("/etc/edgesparse/provision.json"))["ok"]
    jetson.path("/opt/edgesparse/pyvenv.cfg").unlink()
    assert provision(jetson, capsys)["ok"]
    assert jetson.path("/var/lib/edgesparse").stat().st_mode & 0o777 == 0o750


def test_without_root_only_a_check_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main([]) == 2 and "--check" in capsys.readouterr().err
    assert main(["--check", "--no-pull", "--anchor", "x"]) == 2 and "needed one of them" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["provision", "wheelhouse"])
def test_wrong_use_is_one_line_and_exits_with_2(script: str) -> None:
    done = subprocess.run([ROOT / "scripts" / script, "--no-such-option"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error:" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_the_program_runs_with_the_systems_python_and_nothing_installed() -> None:
    """It is valid Python 3.8, so that JetPack 5 is refused with a message, and imports the standard library only."""
    for file in (ROOT / "deploy" / "provision").glob("*.py"):
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0]
        assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names), file
    system_python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = [system_python, "-B", str(ROOT / "scripts" / "provision"), "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["steps"][0]["step"] == "board"

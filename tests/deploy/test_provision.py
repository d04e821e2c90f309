"""Provisioning on a temporary root: what each step changes, that it changes it once, and how it fails.

The programs it would run are stood in for by `Board`; tests/deploy/test_debootstrap.py runs the real ones.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from deploy.provision import board, software, steps, system
from deploy.provision.__main__ import main
from edgesparse import device

ROOT = Path(__file__).parents[2]
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 0, BOARD: generic\n"
UNIT = "[Service]\nExecStart=/opt/edgesparse/bin/edgesparse run --service\n[Install]\nWantedBy=multi-user.target\n"
Version = namedtuple("Version", "major minor")


class Board(system.System):
    """A Jetson in a folder: files are real, programs are not. `says`: what a program prints, by its first words."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ran: list[str] = []
        self.members: set[str] = set()
        self.there = False
        self.says: dict[str, str | None] = {
            "dpkg-query --show --showformat=${db:Status-Status}": "installed",
            "dpkg-query": "36.4.3-20250107174145",
            "nvpmodel": "NV Power Mode: MAXN\n0\n",
            "import tensorrt; print": "10.3.0",
            "import pycuda": "2026.1",
            "import cv2": "GStreamer: NO",
        }

    def ask(self, *command: str) -> str | None:
        said = " ".join(command)
        return next((text for key, text in self.says.items() if key in said), None)

    def run(self, *command: str, remedy: str, **environment: str) -> str:
        said = " ".join(command)
        self.ran.append(said)
        if " -m venv " in said:
            self.write("/opt/edgesparse/bin/python", "")
            version = "{}.{}".format(*sys.version_info[:2])
            self.write("/opt/edgesparse/pyvenv.cfg", f"include-system-site-packages = true\nversion = {version}.1\n")
        elif " -m pip wheel " in said:
            make_wheel(self.path("/opt/edgesparse/wheel"))
        elif " -m pip install " in said and "edgesparse-" in said:
            self.write("/opt/edgesparse/bin/edgesparse", "")
        elif command[0] == "useradd":
            self.there = True
        elif command[0] == "usermod":
            self.members |= set(command[2].split(","))
        elif command[:2] == ("systemctl", "enable"):
            link = self.path("/etc/systemd/system/multi-user.target.wants/edgesparse.service")
            link.parent.mkdir(parents=True)
            link.symlink_to("../edgesparse.service")
        elif command[:2] == ("systemctl", "restart"):
            self.says["ActiveEnterTimestamp"] = f"@{time.time():.0f}"
        elif "doctor" in command:
            return json.dumps({"findings": [{"what": "GPU", "state": "ok", "found": "Orin", "remedy": ""}]})
        return ""

    def owner(self, path: Path) -> str:
        return "edgesparse"

    def give(self, path: Path, owner: str) -> None:
        pass

    def user(self, name: str) -> Any:
        return self.there or None

    def groups(self, user: str) -> set[str]:
        return self.members

    def has_group(self, name: str) -> bool:
        return True

    def tree(self) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("provision")]
        return {str(path.relative_to(self.root)): path.read_text(errors="replace") for path in files}


def make_wheel(folder: Path) -> Path:
    """A wheel of edgesparse with metadata alone."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "edgesparse-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "edgesparse-0.1.0.dist-info/METADATA",
            "Name: edgesparse\nRequires-Dist: numpy>=1.24\nRequires-Dist: opencv-python>=4.8\n"
            "Requires-Dist: pycuda; extra == 'jetson'\nRequires-Dist: cryptography>=42; extra == 'fleet'\n",
        )
    return wheel


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """An Orin with JetPack 6.2, its Python this one, where nothing of edgesparse is yet."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(board.sys, "version_info", Version(3, 10))
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "edgesparse" / "demo", checkout / "edgesparse" / "demo")
    shutil.copy(ROOT / "edgesparse" / "version.py", checkout / "edgesparse")
    shutil.copy(ROOT / "setup.cfg", checkout)
    (checkout / "deploy").mkdir()
    (checkout / "deploy" / "edgesparse.service").write_text(UNIT)
    monkeypatch.setattr(software, "HERE", checkout)
    monkeypatch.setattr("deploy.provision.account.HERE", checkout)
    found = Board(tmp_path / "root")
    found.write("/etc/nv_tegra_release", RELEASE)
    found.write("/proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    found.write("/usr/local/cuda/bin/nvcc", "")
    found.write("/usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "")
    return found


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.pub"
    file.write_text("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n")
    return file


def provision(machine: Board, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """The report of one run, as its JSON says."""
    code = main([*map(str, arguments), "--json"], machine)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["code"] == code
    return report


def failure(report: dict[str, Any]) -> tuple[str, str, str]:
    (step,) = [step for step in report["steps"] if step["state"] == "failed"]
    return step["step"], step["why"], step["remedy"]


def test_a_check_changes_nothing_and_names_what_a_run_changes(
    jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = jetson.tree()
    would = provision(jetson, capsys, "--check", "--key", key)
    assert jetson.tree() == before and not jetson.ran
    assert would["ok"] and would["changed"] and would["check"]
    did = provision(jetson, capsys, "--key", key)
    assert [step["changes"] for step in would["steps"]] == [step["changes"] for step in did["steps"]]


def test_a_second_run_changes_nothing(jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision(jetson, capsys, "--key", key)["changed"]
    ran, tree = list(jetson.ran), jetson.tree()
    again = provision(jetson, capsys, "--key", key)
    assert again["ok"] and not again["changed"] and jetson.tree() == tree
    assert {step["state"] for step in again["steps"]} == {"ok"}
    assert [command for command in jetson.ran[len(ran) :] if "doctor" not in command] == []


def test_every_step_done_twice_is_done_once(jetson: Board, key: Path) -> None:
    wanted = steps.Wanted(keys=[key])
    for step in steps.STEPS:
        for change in step.plan(jetson, wanted):
            change.make()
        assert list(step.plan(jetson, wanted)) == [], step.name


def test_the_report(jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = provision(jetson, capsys, "--key", key)
    assert set(report) == {"ok", "check", "changed", "code", "time", "machine", "steps"}
    assert [step["step"] for step in report["steps"]] == [step.name for step in steps.STEPS]
    machine = report["machine"]
    assert machine["l4t"] == "36.4.3" and machine["jetpack"] == "6.1 or 6.2" and machine["tensorrt"] == "10.3.0"
    assert machine["board"] == "NVIDIA Jetson Orin Nano Developer Kit" and machine["power_mode"] == "MAXN"
    assert json.loads(jetson.read("/var/lib/edgesparse/provision.json")) == report


def test_what_was_made(jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provision(jetson, capsys, "--key", key)
    assert jetson.read("/etc/edgesparse/trusted/fleet.pub") == key.read_text()
    assert "csi://0" in jetson.read("/etc/edgesparse/device.yaml")
    assert jetson.read("/etc/systemd/system/edgesparse.service") == UNIT
    assert jetson.members == {"video", "render"}
    (installed,) = [command for command in jetson.ran if "opencv" in command]
    assert "opencv-python-headless>=4.8" in installed and "cryptography>=42" in installed and "pycuda" not in installed


@pytest.mark.parametrize(
    ("text", "package", "python", "why"),
    [
        (RELEASE, "36.4.3-2025", (3, 10), None),
        ("", "36.4.3-2025", (3, 10), None),
        ("# R39 (release), REVISION: 2.0\n", "39.2.0-1", (3, 12), None),
        ("# R35 (release), REVISION: 4.1\n", "", (3, 8), "JetPack 5.1 has Python 3.8"),
        (RELEASE, "", (3, 11), "JetPack 6.1 or 6.2 has Python 3.10, and this runs on 3.11"),
        ("# R38 (release), REVISION: 2.0\n", "", (3, 12), "not made for Orin"),
        ("# R99 (release), REVISION: 1.0\n", "", (3, 12), "no JetPack that edgesparse knows"),
        ("", "", (3, 11), "no Jetson"),
    ],
)
def test_the_board(
    jetson: Board, monkeypatch: pytest.MonkeyPatch, text: str, package: str, python: Any, why: str | None
) -> None:
    jetson.write("/etc/nv_tegra_release", text)
    jetson.says["dpkg-query"] = package or None
    monkeypatch.setattr(board.sys, "version_info", Version(*python))
    if why is None:
        assert list(board.recognise(jetson, any_machine=False)) == []
        return
    with pytest.raises(system.Failed, match=why) as error:
        list(board.recognise(jetson, any_machine=False))
    assert error.value.remedy


def test_the_jetpacks_are_those_that_doctor_names() -> None:
    for l4t in ("35.4.1", "36.3.0", "36.4.3", "36.4.4", "36.5.0", "38.2.0", "39.2.0"):
        named = next(device.JETPACKS[key] for key in sorted(device.JETPACKS, reverse=True) if l4t.startswith(key))
        found = board.jetpack(l4t)
        assert found is not None and found.name == named


def test_another_machine_works_without_jetpack(jetson: Board, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/etc/nv_tegra_release", "")
    jetson.says["dpkg-query"] = None
    jetson.says["import"] = None
    report = provision(jetson, capsys, "--any-machine", "--check")
    assert report["ok"] and "tensorrt" not in report["machine"]


def test_a_running_service_is_started_anew_after_a_change(
    jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provision(jetson, capsys, "--key", key)
    jetson.path("/run/systemd/system").mkdir(parents=True)
    jetson.says.update({"is-active": "active", "ActiveEnterTimestamp": f"@{time.time() + 60:.0f}"})
    assert not provision(jetson, capsys)["changed"]
    jetson.says["ActiveEnterTimestamp"] = f"@{time.time() - 60:.0f}"
    assert provision(jetson, capsys)["changed"] and jetson.ran.count("systemctl restart edgesparse") == 1
    assert not provision(jetson, capsys)["changed"]


def test_a_check_of_a_thin_image_says_what_would_come(jetson: Board, capsys: pytest.CaptureFixture[str]) -> None:
    """Without TensorRT and nvcc: both are JetPack's packages, which a run installs before it looks for them."""
    jetson.path("/usr/local/cuda/bin/nvcc").unlink()
    jetson.path("/usr/lib/python3.10/dist-packages/tensorrt/__init__.py").unlink()
    jetson.says.update({"import pycuda": None, "import tensorrt": None})
    jetson.says["dpkg-query --show --showformat=${db:Status-Status}"] = "not-installed"
    report = provision(jetson, capsys, "--check")
    assert report["ok"], report
    changes = {step["step"]: step["changes"] for step in report["steps"]}
    assert "python3-libnvinfer, nvidia-cuda-dev" in changes["apt packages"][0]
    assert changes["pycuda"] == ["compile pycuda (some minutes)"]


MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n"


def test_a_power_mode_is_reported_and_set(jetson: Board) -> None:
    jetson.write("/etc/nvpmodel.conf", MODES)
    jetson.says["nvpmodel"] = "NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n2\n"
    assert list(board.power(jetson, "")) == [] and "not the fastest" in jetson.found["note"]
    (change,) = board.power(jetson, "MAXN")
    change.make()
    assert jetson.ran == ["nvpmodel -m 0"]
    assert list(board.power(jetson, "2")) == []
    with pytest.raises(system.Failed, match="no power mode 40W; there are MAXN, 15W"):
        list(board.power(jetson, "40W"))


def test_a_change_that_does_not_hold_is_a_failure(jetson: Board, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/etc/nvpmodel.conf", MODES)
    jetson.says["nvpmodel"] = "NV Power Mode: 15W"
    report = provision(jetson, capsys, "--power-mode", "MAXN")
    assert failure(report)[:2] == ("power mode", "done, and yet to do: power mode MAXN, now 15W")
    assert report["code"] == 3 and report["steps"][-1]["state"] == "not reached"


def test_nodes_that_the_groups_cannot_open_get_a_rule(jetson: Board) -> None:
    for name, mode in {"nvmap": 0o600, "video0": 0o666, "nvgpu/igpu0/as": 0o660}.items():
        jetson.write(f"/dev/{name}", "", mode)
    plan = steps.STEPS[8].plan
    (change,) = plan(jetson, steps.Wanted())
    change.make()
    rules = jetson.read("/etc/udev/rules.d/99-edgesparse.rules")
    assert 'ENV{DEVNAME}=="/dev/nvmap", GROUP="video", MODE="0660"' in rules
    assert "igpu0/as" in rules and "video0" not in rules
    assert list(plan(jetson, steps.Wanted())) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n", "is a private key"),
        ("ssh-ed25519 AAAA me", "is no public key"),
    ],
)
def test_what_is_no_public_key_is_not_trusted(
    jetson: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    (tmp_path / "a.pub").write_text(text)
    report = provision(jetson, capsys, "--key", tmp_path / "a.pub")
    assert failure(report)[0] == "keys" and why in failure(report)[1] and report["code"] == 2
    assert not jetson.path("/etc/edgesparse/trusted/a.pub").exists()


def test_files_of_users_are_overwritten_by_force_alone(
    jetson: Board, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("run:\n  source: rtsp://camera/1\n")
    jetson.write("/etc/edgesparse/device.yaml", "run:\n  source: 0\n")
    report = provision(jetson, capsys, "--key", key, "--settings", tmp_path / "mine.yaml")
    assert failure(report) == (
        "settings",
        "/etc/edgesparse/device.yaml is another than the one given",
        "--force overwrites it",
    )
    assert report["code"] == 1 and "source: 0" in jetson.read("/etc/edgesparse/device.yaml")
    assert provision(jetson, capsys, "--key", key, "--settings", tmp_path / "mine.yaml", "--force")["ok"]
    assert "rtsp" in jetson.read("/etc/edgesparse/device.yaml")
    assert provision(jetson, capsys)["ok"]  # and none given keeps it
    assert "rtsp" in jetson.read("/etc/edgesparse/device.yaml")


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    wheel = make_wheel(folder / "wheels")
    listed = {"edgesparse": wheel.name, "python": ["3.10"], "sha256": {wheel.name: system.sha256(wheel)}}
    (folder / "wheelhouse.json").write_text(json.dumps(listed))
    return folder


def test_offline_asks_no_index(jetson: Board, wheelhouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.says["import pycuda"] = None
    assert failure(provision(jetson, capsys, "--offline", wheelhouse))[0] == "pycuda"  # the stand-in compiles nothing
    pips = [command for command in jetson.ran if " -m pip " in command]
    assert len(pips) == 3 and all("--no-index --find-links" in command for command in pips)
    assert pips[2].endswith("pycuda")


@pytest.mark.parametrize("harm", ["damage", "remove", "another Python", "no list"])
def test_a_folder_that_is_not_whole_is_refused(
    jetson: Board, wheelhouse: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    (wheel,) = (wheelhouse / "wheels").iterdir()
    if harm == "damage":
        wheel.write_bytes(wheel.read_bytes()[:-1])
    elif harm == "remove":
        wheel.unlink()
    elif harm == "another Python":
        text = (wheelhouse / "wheelhouse.json").read_text()
        (wheelhouse / "wheelhouse.json").write_text(text.replace("3.10", "3.12"))
    else:
        (wheelhouse / "wheelhouse.json").unlink()
    report = provision(jetson, capsys, "--offline", wheelhouse)
    assert failure(report)[0] == "edgesparse" and "scripts/wheelhouse" in failure(report)[2]
    assert not jetson.path("/opt/edgesparse/provisioned.json").exists()


def test_packages_that_are_missing_offline_are_named(
    jetson: Board, wheelhouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.says["import pycuda"] = None
    jetson.says["dpkg-query --show --showformat=${db:Status-Status}"] = "not-installed"
    step, why, remedy = failure(provision(jetson, capsys, "--offline", wheelhouse))
    assert step == "apt packages" and "python3-venv, python3-dev, g++" in why and "download-only" in remedy
    (wheelhouse / "debs").mkdir()
    (wheelhouse / "debs" / "g++_12_arm64.deb").touch()
    provision(jetson, capsys, "--offline", wheelhouse)
    assert any(command.startswith("apt-get install") and "--no-download" in command for command in jetson.ran)


def test_jetpacks_own_opencv_is_kept_where_it_opens_csi_cameras(
    jetson: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.says["import cv2"] = "  GStreamer:                   YES (1.20.3)"
    assert "with GStreamer" in provision(jetson, capsys)["machine"]["opencv"]
    (installed,) = [command for command in jetson.ran if "cryptography" in command]
    assert "opencv-python" not in installed and "numpy<2" in installed
    assert any(" -m pip uninstall " in command for command in jetson.ran)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("libnvdla_compiler.so: cannot open shared object file", "nvidia-l4t-dla-compiler"),
        ("No module named 'tensorrt'", "python3-libnvinfer"),
    ],
)
def test_a_tensorrt_that_does_not_load(
    jetson: Board, capsys: pytest.CaptureFixture[str], said: str, remedy: str
) -> None:
    jetson.says["import tensorrt; print"] = None
    jetson.says["import tensorrt\n"] = said
    step, why, mend = failure(provision(jetson, capsys))
    assert step == "tensorrt" and said in why and remedy in mend


def test_an_environment_of_another_python_is_not_used(jetson: Board, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/opt/edgesparse/pyvenv.cfg", "include-system-site-packages = true\nversion = 3.9.2\n")
    step, why, remedy = failure(provision(jetson, capsys))
    assert step == "environment" and "is of Python 3.9, the system's is 3.10" in why and "rm -r" in remedy
    jetson.write("/opt/edgesparse/pyvenv.cfg", "include-system-site-packages = false\nversion = 3.10.2\n")
    assert "does not see the system's packages" in failure(provision(jetson, capsys))[1]


def test_a_bundle_is_deployed_once(jetson: Board, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.says["--check --json"] = '{"changed": false}'
    report = provision(jetson, capsys, "--key", key, "--bundle", "parts.esb")
    assert report["ok"] and not any(" deploy " in command for command in jetson.ran)
    jetson.says["--check --json"] = '{"changed": true}'
    provision(jetson, capsys, "--key", key, "--bundle", "parts.esb")
    (command,) = [command for command in jetson.ran if " deploy " in command]
    assert command.startswith("/opt/edgesparse/bin/edgesparse deploy /") and command.endswith("parts.esb --restart ")


def test_the_report_of_a_failure_leaves_no_open_folder(jetson: Board, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure before the folders are made writes its report all the same, into a folder that is not right yet."""
    jetson.write("/opt/edgesparse/pyvenv.cfg", "version = 3.9.2\n")
    assert not provision(jetson, capsys)["ok"]
    assert not json.loads(jetson.read("/var/lib/edgesparse/provision.json"))["ok"]
    jetson.path("/opt/edgesparse/pyvenv.cfg").unlink()
    assert provision(jetson, capsys)["ok"]
    assert jetson.path("/var/lib/edgesparse").stat().st_mode & 0o777 == 0o750


def test_a_program_that_fails_gives_its_last_words() -> None:
    with pytest.raises(system.Failed, match="ended with 3: E: error: no such package") as error:
        system.System().run("sh", "-c", "echo hello; echo 'E: error: no such package'; echo bye; exit 3", remedy="mend")
    assert error.value.remedy == "mend"
    with pytest.raises(system.Failed, match="no-such-program: No such file"):
        system.System().run("no-such-program", remedy="install it")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = system.System(tmp_path)
    machine.write("/a", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        machine.write("/a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and machine.read("/a") == "old"


def test_without_root_only_a_check_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main([]) == 2 and "--check" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["provision", "wheelhouse"])
def test_wrong_use_is_one_line_and_2(script: str) -> None:
    done = subprocess.run([ROOT / "scripts" / script, "--no-such-option"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error:" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_the_program_runs_by_the_systems_python_with_nothing_installed() -> None:
    """Python 3.8 reads it, so that JetPack 5 is refused in words; and it imports the standard library alone."""
    for file in (ROOT / "deploy" / "provision").glob("*.py"):
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0]
        assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names), file
    system_python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = [system_python, "-B", str(ROOT / "scripts" / "provision"), "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["steps"][0]["step"] == "board"

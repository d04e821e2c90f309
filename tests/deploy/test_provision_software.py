"""Provisioning, the software: packages online and offline, OpenCV, TensorRT, the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_jetson import FakeJetson, failure, provision, sign_wheelhouse

from deploy.provision.__main__ import main
from edgesparse.fleet import keys


def test_a_check_of_a_minimal_image_lists_what_would_be_installed(
    jetson: FakeJetson, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorRT and nvcc are in JetPack packages, which a run installs before it needs them."""
    jetson.path("/usr/local/cuda/bin/nvcc").unlink()
    jetson.path("/usr/lib/python3.10/dist-packages/tensorrt/__init__.py").unlink()
    jetson.outputs.update({"import pycuda": None, "import tensorrt": None})
    jetson.outputs["dpkg-query --show --showformat=${db:Status-Status}"] = "not-installed"
    report = provision(jetson, capsys, "--check")
    assert report["ok"], report
    changes = {step["step"]: step["changes"] for step in report["steps"]}
    assert "python3-libnvinfer, nvidia-cuda-dev" in changes["apt packages"][0]
    assert changes["pycuda"] == ["compile pycuda (takes a few minutes)"]


def test_offline_uses_no_index(jetson: FakeJetson, wheelhouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.outputs["import pycuda"] = None
    assert failure(provision(jetson, capsys, "--offline", wheelhouse))[0] == "pycuda"  # nothing is compiled here
    pips = [command for command in jetson.ran if " -m pip " in command]
    assert len(pips) == 4 and all("--no-index --find-links" in command for command in pips)
    locks = [command.rpartition("/")[2] for command in pips if "--require-hashes --only-binary=:all:" in command]
    assert locks == ["build.txt", "pip-opencv.txt", "pycuda.txt"]


@pytest.mark.parametrize("harm", ["damage", "remove", "another Python", "no list"])
def test_an_incomplete_wheelhouse_is_refused(
    jetson: FakeJetson, wheelhouse: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    (wheel,) = (wheelhouse / "wheels").iterdir()
    if harm == "damage":
        wheel.write_bytes(wheel.read_bytes()[:-1])
    elif harm == "remove":
        wheel.unlink()
    elif harm == "another Python":
        text = (wheelhouse / "wheelhouse.json").read_text()
        (wheelhouse / "wheelhouse.json").write_text(text.replace("3.10", "3.12"))
        sign_wheelhouse(wheelhouse)
    else:
        (wheelhouse / "SHA256SUMS").unlink()
    report = provision(jetson, capsys, "--offline", wheelhouse)
    step = "edgesparse" if harm == "another Python" else "wheelhouse"
    assert failure(report)[0] == step and "scripts/wheelhouse" in failure(report)[2]
    assert not jetson.path("/opt/edgesparse/provisioned.json").exists()


@pytest.mark.parametrize("harm", ["no signature", "another key", "an expired key", "a changed list", "an added wheel"])
def test_a_wheelhouse_that_no_trusted_key_signed_is_refused(
    jetson: FakeJetson, wheelhouse: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    if harm == "no signature":
        (wheelhouse / "SHA256SUMS.sig").unlink()
    elif harm == "another key":
        keys.new(wheelhouse.parent / "stranger", None)
        sign_wheelhouse(wheelhouse, wheelhouse.parent / "stranger.key")
    elif harm == "an expired key":
        trusted = "/etc/edgesparse/trusted/factory.pub"
        jetson.write(trusted, jetson.read(trusted).replace("never", "2026-01-01"))
    elif harm == "a changed list":
        sums = wheelhouse / "SHA256SUMS"
        sums.write_text(sums.read_text().replace("a", "b", 1))
    else:
        (wheelhouse / "wheels" / "numpy-9-py3-none-any.whl").touch()
    step, why, _ = failure(provision(jetson, capsys, "--offline", wheelhouse))
    expected = {"no signature": "is not signed", "an added wheel": "is not in the signed list"}
    assert step == "wheelhouse" and expected.get(harm, "is not signed by a trusted and valid key") in why
    assert not any(" -m pip " in command for command in jetson.ran)


def test_the_signers_key_may_be_passed(
    jetson: FakeJetson, wheelhouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.path("/etc/edgesparse/trusted/factory.pub").unlink()
    assert failure(provision(jetson, capsys, "--offline", wheelhouse))[0] == "wheelhouse"
    report = provision(jetson, capsys, "--offline", wheelhouse, "--key", wheelhouse.parent / "factory.pub")
    assert report["ok"] and report["machine"]["wheelhouse_key"] == "factory"


def test_missing_packages_are_listed_offline(
    jetson: FakeJetson, wheelhouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.outputs["import pycuda"] = None
    jetson.outputs["dpkg-query --show --showformat=${db:Status-Status}"] = "not-installed"
    step, why, remedy = failure(provision(jetson, capsys, "--offline", wheelhouse))
    assert step == "apt packages" and "python3-venv, python3-dev, g++" in why and "download-only" in remedy
    (wheelhouse / "debs").mkdir()
    (wheelhouse / "debs" / "g++_12_arm64.deb").touch()
    sign_wheelhouse(wheelhouse)
    provision(jetson, capsys, "--offline", wheelhouse)
    assert any(command.startswith("apt-get install") and "--no-download" in command for command in jetson.ran)


def test_jetpacks_opencv_is_kept_where_it_opens_csi_cameras(
    jetson: FakeJetson, capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.outputs["import cv2"] = "  GStreamer:                   YES (1.20.3)"
    assert "with GStreamer" in provision(jetson, capsys)["machine"]["opencv"]
    assert any(command.endswith("deploy/locks/system-opencv.txt") for command in jetson.ran)
    assert not any("locks/pip-opencv" in command for command in jetson.ran)
    assert any(" -m pip uninstall " in command for command in jetson.ran)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("libnvdla_compiler.so: cannot open shared object file", "nvidia-l4t-dla-compiler"),
        ("No module named 'tensorrt'", "python3-libnvinfer"),
    ],
)
def test_a_tensorrt_that_does_not_load_is_refused(
    jetson: FakeJetson, capsys: pytest.CaptureFixture[str], message: str, remedy: str
) -> None:
    jetson.outputs["import tensorrt; print"] = None
    jetson.outputs["import tensorrt\n"] = message
    step, why, fix = failure(provision(jetson, capsys))
    assert step == "tensorrt" and message in why and remedy in fix


def test_an_environment_of_another_python_is_not_used(jetson: FakeJetson, capsys: pytest.CaptureFixture[str]) -> None:
    jetson.write("/opt/edgesparse/pyvenv.cfg", "include-system-site-packages = true\nversion = 3.9.2\n")
    step, why, remedy = failure(provision(jetson, capsys))
    assert step == "environment" and "has Python 3.9, the system's is 3.10" in why and "rm -r" in remedy
    jetson.write("/opt/edgesparse/pyvenv.cfg", "include-system-site-packages = false\nversion = 3.10.2\n")
    assert "does not see the system's packages" in failure(provision(jetson, capsys))[1]


def pips(jetson: FakeJetson) -> list[str]:
    return [command for command in jetson.ran if " -m pip install " in command]


def test_what_an_interrupted_installation_left_is_installed_again(
    jetson: FakeJetson, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip syncs nothing: after a power cut it believed that packages with empty files were installed."""
    run = jetson.run

    def cut(*command: str, **options: str) -> str:
        if "--no-deps" in command:
            raise KeyboardInterrupt
        return run(*command, **options)

    monkeypatch.setattr(jetson, "run", cut)
    assert main([], jetson) == 130
    assert not any("--force-reinstall" in command for command in pips(jetson)[:2])
    monkeypatch.setattr(jetson, "run", run)
    jetson.ran.clear()
    assert provision(jetson, capsys)["ok"]
    assert all("--force-reinstall" in command for command in pips(jetson)) and len(pips(jetson)) == 3
    assert jetson.ran[jetson.ran.index(pips(jetson)[-1]) + 1] == "sync {}", "on disk before it counts as installed"
    jetson.ran.clear()
    assert provision(jetson, capsys)["ok"] and not pips(jetson)


def test_an_environment_without_pip_is_created_again(jetson: FakeJetson, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m venv` that was interrupted leaves its settings, and no pip."""
    jetson.run("python3", "-m", "venv", "folder", remedy="")
    jetson.outputs["import pip"] = None
    step, why, _ = failure(provision(jetson, capsys))
    (command,) = [command for command in jetson.ran if "--clear" in command]
    assert step == "environment" and "had no effect" in why and command.startswith("/usr/bin/python3 -m venv")
    jetson.outputs["import pip"] = ""
    assert provision(jetson, capsys)["ok"]

"""Devices to provision, and tests that take many minutes, which run only if their marker is requested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_jetson import RELEASE, ROOT, UNIT, FakeJetson, Version, make_wheel, sign_wheelhouse

from deploy.provision import board, software
from edgesparse.fleet import keys

REQUESTED = ("buildah", "debootstrap", "fleet")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    markers = str(config.getoption("-m"))
    for item in items:
        for name in REQUESTED:
            if item.get_closest_marker(name) and name not in markers:
                item.add_marker(pytest.mark.skip(f"takes minutes: pytest -m {name}"))


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJetson:
    """An Orin with JetPack 6.2 and this Python, without edgesparse."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(board.sys, "version_info", Version(3, 10))
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "edgesparse" / "demo", checkout / "edgesparse" / "demo")
    shutil.copy(ROOT / "edgesparse" / "version.py", checkout / "edgesparse")
    shutil.copy(ROOT / "setup.cfg", checkout)
    shutil.copytree(ROOT / "deploy" / "locks", checkout / "deploy" / "locks")
    (checkout / "deploy" / "edgesparse.service").write_text(UNIT)
    for unit in (ROOT / "deploy").glob("edgesparse-pull.*"):
        shutil.copy(unit, checkout / "deploy")
    monkeypatch.setattr(software, "HERE", checkout)
    for module in ("account", "pulling"):
        monkeypatch.setattr(f"deploy.provision.{module}.HERE", checkout)
    machine = FakeJetson(tmp_path / "root")
    machine.write("/etc/nv_tegra_release", RELEASE)
    machine.write("/proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    machine.write("/usr/local/cuda/bin/nvcc", "")
    machine.write("/usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "")
    return machine


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.pub"
    file.write_text("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n")
    return file


@pytest.fixture
def wheelhouse(tmp_path: Path, jetson: FakeJetson) -> Path:
    """A wheelhouse as filled by scripts/wheelhouse, signed with a key that the device already trusts."""
    folder = tmp_path / "wheelhouse"
    wheel = make_wheel(folder / "wheels")
    (folder / "wheelhouse.json").write_text(json.dumps({"edgesparse": wheel.name, "python": ["3.10"]}))
    shutil.copytree(ROOT / "deploy" / "locks", folder / "deploy" / "locks")
    keys.new(tmp_path / "factory", None)
    jetson.write("/etc/edgesparse/trusted/factory.pub", (tmp_path / "factory.pub").read_text())
    sign_wheelhouse(folder)
    return folder

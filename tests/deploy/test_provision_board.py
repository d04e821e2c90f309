"""Provisioning, the board: supported JetPacks, other machines, power modes."""

from __future__ import annotations

from typing import Any

import pytest
from fake_jetson import MODES, RELEASE, FakeJetson, Version

from deploy.provision import board, system
from edgesparse import device


@pytest.mark.parametrize(
    ("text", "package", "python", "why"),
    [
        (RELEASE, "36.4.3-2025", (3, 10), None),
        ("", "36.4.3-2025", (3, 10), None),
        ("# R39 (release), REVISION: 2.0\n", "39.2.0-1", (3, 12), None),
        ("# R35 (release), REVISION: 4.1\n", "", (3, 8), "JetPack 5.1 has Python 3.8"),
        (RELEASE, "", (3, 11), "JetPack 6.1 or 6.2 has Python 3.10, and this is 3.11"),
        ("# R38 (release), REVISION: 2.0\n", "", (3, 12), "does not support Orin"),
        ("# R99 (release), REVISION: 1.0\n", "", (3, 12), "does not belong to a JetPack that edgesparse supports"),
        ("", "", (3, 11), "not a Jetson"),
    ],
)
def test_which_boards_are_supported(
    jetson: FakeJetson, monkeypatch: pytest.MonkeyPatch, text: str, package: str, python: Any, why: str | None
) -> None:
    jetson.write("/etc/nv_tegra_release", text)
    jetson.outputs["dpkg-query"] = package or None
    monkeypatch.setattr(board.sys, "version_info", Version(*python))
    if why is None:
        assert list(board.recognize(jetson, any_machine=False)) == []
        return
    with pytest.raises(system.StepFailed, match=why) as error:
        list(board.recognize(jetson, any_machine=False))
    assert error.value.remedy


def test_the_jetpacks_are_those_of_doctor() -> None:
    for l4t in ("35.4.1", "36.3.0", "36.4.3", "36.4.4", "36.5.0", "38.2.0", "39.2.0"):
        name = next(device.JETPACKS[key] for key in sorted(device.JETPACKS, reverse=True) if l4t.startswith(key))
        release = board.jetpack(l4t)
        assert release is not None and release.name == name


def test_a_power_mode_is_reported_and_set(jetson: FakeJetson) -> None:
    jetson.write("/etc/nvpmodel.conf", MODES)
    jetson.outputs["nvpmodel"] = "NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n2\n"
    assert list(board.power(jetson, "")) == [] and "not the fastest" in jetson.facts["note"]
    (change,) = board.power(jetson, "MAXN")
    change.make()
    assert jetson.ran == ["nvpmodel -m 0"]
    assert list(board.power(jetson, "2")) == []
    with pytest.raises(system.StepFailed, match="no power mode 40W; known here are MAXN, 15W"):
        list(board.power(jetson, "40W"))

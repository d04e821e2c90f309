"""A disk that is full or fills up during a deploy: refused in one line, and what ran goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import bundles
import pytest

from edgesparse.errors import DeployError
from edgesparse.fleet.slot_build import SlotBuild
from edgesparse.fleet.slots import DeploySlot, Root


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return bundles.key(tmp_path)


def test_what_ran_goes_on_if_the_journal_cannot_be_written(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "deploy.json")

    def deploy(version: str) -> str:
        with bundles.opened(tmp_path / f"{version}.esb") as source:
            return bundles.device(tmp_path / "device").deploy(source).result

    for version in ("1.0", "2.0"):
        bundles.signed(tmp_path / f"{version}.esb", key, version)
    deploy("1.0")
    before = Root(tmp_path / "device").current()
    with monkeypatch.context() as patch:
        patch.setattr(Root, "write_journal", full)
        with pytest.raises(DeployError, match=r"the deploy ended early \(deploy.json: No space left on device\): free"):
            deploy("2.0")
    after = Root(tmp_path / "device").current()
    assert before is not None and after is not None and before.name == after.name
    assert deploy("2.0") == "deployed"


@pytest.mark.root
def test_a_full_disk_is_refused_before_anything_is_written(key: Path, tmp_path: Path, small_disk: Path) -> None:
    """Last run as root on Debian 12, as were the other tests here that need root."""
    path = bundles.signed(tmp_path / "big.esb", key, "1.0")
    with (
        bundles.opened(path) as source,
        pytest.raises(DeployError, match=r"no space in .*: needed 20 MB, found [23] MB"),
    ):
        bundles.device(small_disk / "device").deploy(source)
    assert bundles.tree(small_disk / "device") == {}


@pytest.mark.root
def test_a_disk_that_fills_up_during_a_deploy_leaves_the_old_slot(
    key: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another process fills the disk after the check."""
    monkeypatch.setattr("edgesparse.fleet.admit.SPARE", 0)
    monkeypatch.setattr("edgesparse.fleet.admit.BUILD", 0)
    root = small_disk / "device"

    def fills(slot: DeploySlot, progress: Any) -> SlotBuild:
        (slot.folder / "filler").write_bytes(bytes(10_000_000))
        return bundles.quick_build(slot, progress)

    for version in ("1.0", "2.0", "3.0"):
        bundles.signed(tmp_path / f"{version}.esb", key, version)
    with bundles.opened(tmp_path / "1.0.esb") as source:
        bundles.device(root).deploy(source)
    with bundles.opened(tmp_path / "2.0.esb") as source, pytest.raises(DeployError, match="No space left on device"):
        bundles.device(root, build=fills).deploy(source)
    assert bundles.serving(root) == "1.0" and Root(root).history()[-1]["result"] == "refused"
    with bundles.opened(tmp_path / "3.0.esb") as source:
        assert bundles.device(root).deploy(source).result == "deployed"

"""A deploy killed at any point leaves the old or the new engine in service, and the next deploy succeeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bundles
import pytest

HERE = Path(__file__).parent


@pytest.mark.long
@pytest.mark.parametrize(
    ("scenario", "least"), [("update", 30), ("first", 8), ("sick", 12), ("rollback", 8), ("recover", 5)]
)
def test_killed_before_each_operation_on_the_disk(scenario: str, least: int) -> None:
    memory = Path("/dev/shm")  # hundreds of deploys, each synced: this takes minutes on a disk
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "killed.py"), folder, scenario],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])},
            capture_output=True,
            text=True,
            timeout=250,
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == [] and result["kills"] >= least, result


def test_a_slot_is_on_the_disk_before_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a kill, a power cut loses what the kernel has not written: everything is synced before it is relied on."""
    synced: dict[int, int] = {}
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        synced[os.fstat(descriptor).st_ino] = time.time_ns()

    def rename(old: Path, new: Path) -> Path:
        if new.parent == tmp_path / "device":
            seen.append(new.name)
            for path in [old.resolve(), *old.resolve().rglob("*"), *[tmp_path / "device" / "slots"] * old.is_symlink()]:
                status = path.lstat()
                assert path.is_symlink() or synced.get(status.st_ino, 0) >= status.st_mtime_ns, f"{path} is not synced"
        return replace(old, new)

    bundles.device(tmp_path / "device").deploy(
        bundles.opened(bundles.signed(tmp_path / "1.esb", bundles.key(tmp_path)))
    )
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    new = bundles.signed(tmp_path / "2.esb", tmp_path / "factory.key", "2.0")
    with bundles.opened(new) as source:
        bundles.device(tmp_path / "device").deploy(source)
    assert seen == ["deploy.json", "deploy.json", "current"]
    folder = (tmp_path / "device").stat()
    assert synced[folder.st_ino] >= folder.st_mtime_ns

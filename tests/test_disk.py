"""What a disk refuses is one line, on a real disk that is full, with the folder and the fix."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import squares

import edgesparse
from edgesparse.disk import check_folder, refuse_file, scratch, storing, writing
from edgesparse.errors import ConfigError, SinkError
from edgesparse.sparsity.rebuild import State


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse_file(tmp_path)
    refuse_file(tmp_path / "new")
    with pytest.raises(SinkError, match="file is a file: name a folder"):
        refuse_file(tmp_path / "file", SinkError)
    with pytest.raises(ConfigError, match="file is a file: name a folder"):
        check_folder(tmp_path / "file")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new/file"
    with writing(path) as file:
        file.write(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*new/file: No space left on device"), writing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_names_its_folder_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write to .*: No space left on device; free some space, or name"):
        with storing(tmp_path):
            full()
    with pytest.raises(ConfigError, match=f"cannot write to {tempfile.gettempdir()}: .*, or set TMPDIR to another"):
        with scratch():
            full()
    with pytest.raises(FileNotFoundError), storing(tmp_path):
        (tmp_path / "none").read_bytes()


def test_what_is_stored_stays_whole_where_the_next_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path)
    state.put("layer", {"weight": np.ones(3)})
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ConfigError, match="No space left on device; free some space, or name another folder"):
        state.put("layer", {})
    stored = state.get("layer")
    assert stored is not None and list(stored) == ["weight"]


@pytest.mark.root
def test_a_disk_that_fills_up_during_the_work_is_one_line_in_python_too(
    tmp_path: Path, images: Path, small_disk: Path
) -> None:
    detector = squares.chained(tmp_path / "side.onnx", 6)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(3_120_000))
    with pytest.raises(ConfigError, match=f"cannot write to {small_disk}/.*: No space left on device; free some space"):
        edgesparse.prune(detector, tmp_path / "out.onnx", method="reconstruct", images=images, state=small_disk)
    filler.unlink()
    edgesparse.prune(detector, tmp_path / "out.onnx", method="reconstruct", images=images, state=small_disk)

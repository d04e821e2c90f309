"""Atomic writes: the old content or the new content, with the requested permissions and no leftovers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgesparse.files import replace_text, replacing


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_is_replaced_with_its_permissions(tmp_path: Path, synced: bool) -> None:
    file = tmp_path / "state.json"
    for content in ("old", "größer"):
        replace_text(file, content, 0o600, synced)
        assert file.read_text("utf-8") == content and file.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["state.json"]


def test_readers_see_the_old_content_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text("old")
    with replacing(file) as part:
        part.write(b"new")
        part.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text("old")
    with pytest.raises(OSError, match="No space"), replacing(file, synced=True) as part:
        part.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert file.read_text() == "old" and names(tmp_path) == ["state.json"]


def test_a_leftover_of_a_killed_process_with_the_same_id_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".state.json.{os.getpid()}.part").write_text("half")
    replace_text(tmp_path / "state.json", "new")
    assert names(tmp_path) == ["state.json"] and (tmp_path / "state.json").read_text() == "new"

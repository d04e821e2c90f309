"""After a power cut at any moment an engine serves, nothing promised is lost, and the next attempt succeeds.

This is a sample; `explore.py` checks as many states as one has time for.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import disk
import explore
import pytest
import trace_program
from disk import Entries, Resize, Sync, Tree, Write
from scenarios import SCENARIOS

HEAVY = ("download", "delta", "clips")
PROCESSES = get_context("forkserver")  # which loads once what each of its processes needs
PROCESSES.set_forkserver_preload(["explore"])


@pytest.mark.long
@pytest.mark.strace
@pytest.mark.skipif(not trace_program.AVAILABLE, reason="needs strace, and the permission to trace")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_breaks_no_promise(name: str) -> None:
    # Another process: the states take gigabytes, which this one would keep and copy for each child of a later test.
    with ProcessPoolExecutor(1, PROCESSES) as pool:
        result = pool.submit(explore.explore, name, 2 if name in HEAVY else 10).result()
    for model in explore.MODELS:
        assert result[model]["examples"] == []
        assert result["operations"] >= 5 and result[model]["checked"] >= 3


TWO_FILES: list[disk.Operation] = [
    Entries(((disk.ROOT, "new", 2),)),
    Write(2, 0, b"abcd"),
    Entries(((disk.ROOT, "new", None), (disk.ROOT, "old", 2))),
]
START = Tree({1: b"1234"}, {disk.ROOT: {"old": 1}})


def contents(model: str, *operations: disk.Operation) -> set[bytes]:
    """Return what `old` may hold after a power cut at any moment; it never disappears."""
    trees = [tree for _, tree in disk.states(START, operations, model, 20, 0)]
    return {tree.files.get(tree.folders[disk.ROOT]["old"], b"") for tree in trees}


@pytest.mark.parametrize("model", explore.MODELS)
def test_a_rename_without_a_sync_may_leave_an_empty_file(model: str) -> None:
    assert b"" in contents(model, *TWO_FILES)


@pytest.mark.parametrize("model", explore.MODELS)
def test_a_synced_file_replaces_the_old_one_whole(model: str) -> None:
    created, written, renamed = TWO_FILES
    assert contents(model, created, written, Sync(2), renamed) == {b"1234", b"abcd"}


def test_a_synced_folder_keeps_its_names_and_a_write_may_be_torn() -> None:
    created, written, renamed = TWO_FILES
    operations = [created, written, Sync(2), renamed, Sync(disk.ROOT)]
    assert [tree.folders[disk.ROOT] for tree in disk.finished(START, operations, "worst", 20, 0)] == [{"old": 2}] * 2
    assert contents("worst", Write(1, 0, b"abcd")) == {b"1234", b"abcd", b"ab34", b"ab\0\0", b"\0\0\0\0"}
    assert contents("worst", Resize(1, 0)) == {b"1234", b""}


def test_on_ext4_names_change_in_order_and_any_sync_writes_them() -> None:
    first, second = Entries(((disk.ROOT, "a", 1),)), Entries(((disk.ROOT, "b", 1),))
    names = {tuple(tree.folders[disk.ROOT]) for _, tree in disk.states(START, [first, second], "ext4", 20, 0)}
    assert names == {("old",), ("old", "a"), ("old", "a", "b")}
    names = {tuple(tree.folders[disk.ROOT]) for _, tree in disk.states(START, [first, second], "worst", 20, 0)}
    assert ("old", "b") in names
    assert all("a" in tree.folders[disk.ROOT] for tree in disk.finished(START, [first, Sync(1), second], "ext4", 20, 0))

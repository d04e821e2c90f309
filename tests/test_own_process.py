"""A test that hangs or ends its process does not affect others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_process import OwnProcess


def hangs_once(folder: Path) -> None:
    if not (folder / "again").exists():
        (folder / "again").touch()
        time.sleep(1000)


def hangs() -> None:
    time.sleep(1000)


def dies() -> None:
    os.abort()


def skips() -> None:
    pytest.skip("not today")


def fails() -> None:
    raise ValueError("found 1, needed 2")


def passes() -> None:
    pass


@pytest.fixture
def quick() -> Iterator[OwnProcess]:
    process = OwnProcess(seconds=8.0)
    yield process
    process.close()


def test_a_hang_is_tried_again_in_a_new_process(quick: OwnProcess, tmp_path: Path) -> None:
    quick.run(hangs_once, {"folder": tmp_path})
    quick.run(passes, {})
    assert (tmp_path / "again").exists()


def test_two_hangs_fail(quick: OwnProcess) -> None:
    quick.seconds = 4.0
    with pytest.raises(pytest.fail.Exception, match="hung twice, 4 s each"):
        quick.run(hangs, {})
    quick.run(passes, {})


def test_a_test_that_ends_its_process_fails_alone(quick: OwnProcess) -> None:
    with pytest.raises(pytest.fail.Exception, match="its process ended with -6"):
        quick.run(dies, {})
    with pytest.raises(pytest.fail.Exception, match="ValueError: found 1, needed 2"):
        quick.run(fails, {})
    with pytest.raises(pytest.skip.Exception, match="not today"):
        quick.run(skips, {})

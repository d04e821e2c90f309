"""A deploy that is killed at any moment leaves the old or the new engine in service, and the next deploy succeeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("scenario", "least"), [("update", 30), ("first", 30), ("sick", 40), ("rollback", 8), ("recover", 5)]
)
def test_killed_before_each_operation_on_the_disk(scenario: str, least: int) -> None:
    memory = Path("/dev/shm")  # hundreds of deploys, each synced: a disk takes minutes
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "killed.py"), folder, scenario],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])},
            capture_output=True,
            text=True,
            timeout=250,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["wrong"] == [] and said["kills"] >= least, said

"""A plain `pytest` collects every test file, and only a marker that states what a test needs may skip it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
INI = """
[pytest]
markers =
    device: needs a device
    slow: takes a while
"""


def plain_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment.pop("EDGESPARSE_RECORD", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_test_file_is_collected_by_a_plain_run() -> None:
    """For files that are skipped as a whole, skips.py ensures that a marker says why."""
    root = TESTS.parent
    listing = plain_pytest(root, "--collect-only", "-rs", "-W", "ignore")
    assert listing.returncode == 0, listing.stdout[-3000:] + listing.stderr[-3000:]
    collected = set(re.findall(r"^(tests/\S+\.py)::", listing.stdout, re.MULTILINE))
    collected |= set(re.findall(r"^SKIPPED \[\d+\] (tests/\S+\.py):\d+: \w+: ", listing.stdout, re.MULTILINE))
    on_disk = {path.relative_to(root).as_posix() for path in TESTS.rglob("test_*.py")}
    assert on_disk - collected == set()


@pytest.mark.parametrize(
    ("body", "outcomes", "message"),
    [
        ("@pytest.mark.device\ndef test_a(): pytest.skip('no device')", "1 skipped", "no run of 'device' is on record"),
        ("def test_a(): pytest.skip('not today')", "1 failed", "without a marker that says what it needs"),
        (
            "@pytest.mark.slow\ndef test_a(): pytest.skip('slow')",
            "1 failed",
            "without a marker that says what it needs",
        ),
        ("@pytest.mark.skip(reason='later')\ndef test_a(): ...", "1 error", "without a marker"),
        ("@pytest.mark.skipif(True, reason='x')\ndef test_a(): ...", "1 error", "without a marker"),
        ("@pytest.fixture\ndef f(): pytest.skip('x')\ndef test_a(f): ...", "1 error", "without a marker"),
        ("pytest.importorskip('no_such_module')", "1 error", "skipped as a whole without the name of a marker"),
        ("pytest.importorskip('no_such_module', reason='device: none')", "1 skipped", "device: none"),
    ],
)
def test_a_skip_needs_a_marker_that_states_what_is_needed(
    tmp_path: Path, body: str, outcomes: str, message: str
) -> None:
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "test_sample.py").write_text(f"import pytest\n{body}\n")
    done = plain_pytest(tmp_path, "-p", "skips", "-rs")
    assert outcomes in done.stdout and message in done.stdout, done.stdout

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


SAMPLES = [
    ("@pytest.mark.device\ndef test_a(): pytest.skip('no device')", "SKIPPED", "no run of 'device' is on record"),
    ("def test_a(): pytest.skip('not today')", "FAILED", "without a marker that says what it needs"),
    ("@pytest.mark.slow\ndef test_a(): pytest.skip('x')", "FAILED", "without a marker that says what it needs"),
    ("@pytest.mark.skip(reason='later')\ndef test_a(): ...", "ERROR", "without a marker"),
    ("@pytest.mark.skipif(True, reason='x')\ndef test_a(): ...", "ERROR", "without a marker"),
    ("@pytest.fixture\ndef f(): pytest.skip('x')\ndef test_a(f): ...", "ERROR", "without a marker"),
    ("pytest.importorskip('no_such_module')", "ERROR", "skipped as a whole without the name of a marker"),
    ("pytest.importorskip('no_such_module', reason='device: none')", "SKIPPED", "device: none"),
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints about files of these bodies."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "pytest.ini").write_text(INI)
    for number, (body, _, _) in enumerate(SAMPLES):
        (folder / f"test_sample_{number}.py").write_text(f"import pytest\n{body}\n")
    return plain_pytest(folder, "--continue-on-collection-errors", "-p", "skips", "-rsfE").stdout


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_a_skip_needs_a_marker_that_states_what_is_needed(printed: str, number: int) -> None:
    _, outcome, message = SAMPLES[number]
    file = rf"test_sample_{number}\.py"
    assert re.search(rf"^{outcome} .*{file}", printed, re.MULTILINE), printed
    assert re.search(rf"{file}.*{message}", printed), printed

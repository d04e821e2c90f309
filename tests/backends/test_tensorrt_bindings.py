"""Every TensorRT API call of the driver, against NVIDIA's own bindings of five releases."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import bindings
import pytest

SCRIPT = Path(__file__).parent / "driver_on_bindings.py"
CHECKS = re.findall(r"^def (check_\w+)", SCRIPT.read_text(), re.M)

pytestmark = pytest.mark.bindings


@functools.lru_cache
def outcomes(release: str) -> dict[str, str]:
    """Result of each check on that release: empty, or the traceback."""
    try:
        environment = bindings.environment(release)
    except bindings.Unavailable as error:
        return {"unavailable": str(error)}
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    results: dict[str, str] = json.loads(ended.stdout)
    return results


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("release", bindings.WHEELS)
def test_on_the_bindings_of(release: str, check: str) -> None:
    results = outcomes(release)
    if "unavailable" in results:
        pytest.skip(results["unavailable"])
    assert results[check] == ""

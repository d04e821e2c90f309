"""Promise: only what was pinned and signed is installed, and nothing is reported to anyone.

Signatures of wheelhouses are in tests/deploy/test_provision_software.py, base images in tests/deploy/test_docker.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "locks" / "pip-opencv.txt"
MODEL = ROOT / "edgesparse" / "demo" / "parts_2to4.onnx"


def test_a_wheel_with_other_contents_is_not_installed(tmp_path: Path) -> None:
    """As from a compromised registry: name and version are correct."""
    entry = LOCK.read_text().partition("\nh11==")[2].partition("\n" + "humanfriendly")[0].partition("\nidna")[0]
    version = entry.split()[0]
    (tmp_path / "lock.txt").write_text(f"h11=={entry}\n")
    with zipfile.ZipFile(tmp_path / f"h11-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("h11/__init__.py", "raise SystemExit('owned')\n")
        wheel.writestr(f"h11-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: h11\nVersion: {version}\n")
        wheel.writestr(f"h11-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"h11-{version}.dist-info/RECORD", "")
    where = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "out"), "--no-deps"]
    command = [sys.executable, "-m", "pip", "install", *where, "--require-hashes", "--only-binary=:all:"]
    command += ["-r", str(tmp_path / "lock.txt")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "out").exists()


def test_onnx_runtime_stores_and_reports_nothing(tmp_path: Path) -> None:
    code = f"import edgesparse; edgesparse.inspect({str(MODEL)!r}); import onnxruntime, time; "
    code += f"onnxruntime.InferenceSession({str(MODEL)!r}); time.sleep(0.5)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

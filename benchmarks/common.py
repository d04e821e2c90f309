"""What every benchmark records with its figures: machine, versions, date and command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import backend
from edgesparse.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """Device, versions, date, command, and the load of the last minute: processes that ran or waited."""
    packages = ("numpy", "opencv-python", "opencv-python-headless", "onnx", "onnxruntime", "pycuda")
    versions = {name: _version(name) for name in packages} | {"tensorrt": backend("tensorrt").probe().version}
    return {
        "device": device.probe().named(),
        "versions": {"edgesparse": VERSION, **{name: version for name, version in versions.items() if version}},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "load_average": round(os.getloadavg()[0], 1),
        "command": " ".join(["python", _program(), *map(_shown, sys.argv[1:])]),
    }


def store_part(file: Path, question: str, name: str, result: dict[str, Any]) -> None:
    """Add the result of one part to a file immediately, since later parts may be interrupted. An error never replaces a
    result.
    """
    whole = json.loads(file.read_text()) if file.exists() else {}
    parts = whole.get("parts", {})
    if "error" in result and "error" not in parts.get(name, {"error": ""}):
        return
    about = machine()
    command = f"python {_program()} --only '{name}'"
    when = {"date": about.pop("date"), "load_average": about.pop("load_average"), "command": command}
    about.pop("command")
    whole = {"question": question, **about, "parts": {**parts, name: {**when, **result}}}
    new = file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(whole, indent=1) + "\n")
    new.replace(file)


def wait_or_kill(process: subprocess.Popen[bytes], limit: float) -> int | None:
    """Return the process's exit code; None if it took longer than `limit` seconds and was killed."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _program() -> str:
    return _shown(str(Path(sys.argv[0]).resolve()))


def _shown(argument: str) -> str:
    """Return an argument without this machine's folders: a path in the checkout is relative to it, another its name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def with_bytecode() -> dict[str, str]:
    """Return the environment of a process that keeps compiled modules, as installed packages are."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def save(name: str, result: dict[str, Any], to_file: bool) -> None:
    """Print a result; with `to_file`, also write it to benchmarks/results/NAME.json."""
    text = json.dumps(result, indent=2)
    print(text)
    if to_file:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")

"""What every benchmark records with its figures: machine, versions, date and command."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import backend
from edgesparse.version import VERSION

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """Device, versions, date and command."""
    packages = ("numpy", "opencv-python", "opencv-python-headless", "onnx", "onnxruntime", "pycuda")
    versions = {name: _version(name) for name in packages} | {"tensorrt": backend("tensorrt").probe().version}
    return {
        "device": device.probe().named(),
        "versions": {"edgesparse": VERSION, **{name: version for name, version in versions.items() if version}},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def save(name: str, result: dict[str, Any], to_file: bool) -> None:
    """Print a result; with `to_file`, also write it to benchmarks/results/NAME.json."""
    text = json.dumps(result, indent=2)
    print(text)
    if to_file:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")

"""What every benchmark says beside its figures: where it ran, with what, by which command."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from edgesparse import device

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """Device, versions, date and command."""
    packages = ("edgesparse", "numpy", "opencv-python", "onnx", "onnxruntime")
    return {
        "device": device.probe().named(),
        "versions": {name: metadata.version(name) for name in packages},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def save(name: str, result: dict[str, Any], to_file: bool) -> None:
    """Print a result; with `to_file`, write it to benchmarks/results/NAME.json too."""
    text = json.dumps(result, indent=2)
    print(text)
    if to_file:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")

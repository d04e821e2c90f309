"""Stands in for the service on a host of hosts.py: it loads the package's engine, detects on frames of the demo scene
twice a second, and writes the status that the service writes. A file /etc/edgesparse/sick makes it say that it is not
healthy.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import edgesparse

CURRENT, STATUS = Path("/var/lib/edgesparse/current/package"), Path("/run/edgesparse/status.json")


def main() -> None:
    manifest = json.loads((CURRENT / "manifest.json").read_text())
    started, sick = time.time(), Path("/etc/edgesparse/sick").exists()
    with edgesparse.load(CURRENT.resolve()) as detector, edgesparse.open_source("demo") as source:
        for number, frame in enumerate(source):
            detector(frame.image)
            say(manifest, started, number, "" if not sick else "no camera gives frames")
            time.sleep(0.5)


def say(manifest: dict[str, object], started: float, frames: int, why: str) -> None:
    camera = {"name": "camera", "state": "live", "why": "", "fps": 2.0, "age_ms": 20, "dropped": 0, "reopened": 0}
    status = {
        "package": manifest["build_id"],
        "pid": os.getpid(),
        "started": started,
        "time": time.time(),
        "ready": True,
        "healthy": not why,
        "why": why,
        "frames": frames,
        "errors": 0,
        "fallback": False,
        "cameras": [camera],
        "latency_ms": {"p50": 5.0, "p99": 9.0},
    }
    part = STATUS.with_suffix(".part")
    part.write_text(json.dumps(status))
    part.replace(STATUS)


if __name__ == "__main__":
    main()

"""Builds a slot's package and tests it, in a process of its own, at low priority, while the old engine goes on serving.

`python -m edgesparse.fleet.making JOB.json` speaks as builder/child/worker.py does.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.builder.build import build
from edgesparse.builder.child import worker
from edgesparse.builder.child.job import Job, from_json, write_job
from edgesparse.config import load_recipe
from edgesparse.errors import DeployError
from edgesparse.fleet import contents, expected
from edgesparse.fleet.owner import for_good
from edgesparse.fleet.slots import Slot
from edgesparse.package.store import open_package
from edgesparse.progress import Progress

LOW = (("nice", "-n", "10"), ("ionice", "-c", "3"))
"""What the build runs under where it is there: the engine that serves has CPU and disk first."""
SELFTEST = "self-test"
SELFTEST_SECONDS = 300.0
"""How long the self-test may take: an engine that hangs must not hold up a deploy for ever."""


@dataclass(frozen=True)
class Made:
    build_id: str
    backend: str
    precision: str
    selftest: dict[str, Any]


@dataclass(frozen=True)
class DeployJob(Job[Made]):
    """Build and test the bundle of a slot's folder."""

    returns = Made
    slot: Path


Make = Callable[[Slot, Progress], Made]
"""Fills `engines` and `package` of a slot from its `bundle`, tests that, and reports; raises DeployError."""


def make(slot: Slot, progress: Progress) -> Made:
    """The way it is done on a device."""
    job = slot.folder / "job.json"
    write_job(DeployJob(slot.folder.absolute()), job)
    sources = str(Path(device.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (sources, os.environ.get("PYTHONPATH"))))
    command = [word for prefix in LOW if shutil.which(prefix[0]) for word in prefix]
    log = job.with_suffix(".log")
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [*command, sys.executable, "-m", "edgesparse.fleet.making", str(job.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=slot.folder,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
            **for_good(),
        )
    try:
        said = _listen(child, progress)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        assert child.stdout is not None
        child.stdout.close()
    if "error" in said:
        raise DeployError(said["error"][1])
    if "result" not in said:
        words = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise DeployError(": ".join([f"the build ended without a word (code {code})", *words]))
    made: Made = from_json(Made, said["result"])
    return made


def _listen(child: subprocess.Popen[bytes], progress: Progress) -> dict[str, Any]:
    """What the child says, to its end."""
    said: dict[str, Any] = {}
    rest, deadline = b"", float("inf")
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(1.0):
                continue
            if not (data := os.read(child.stdout.fileno(), 1 << 16)):
                return said
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                said |= (word := json.loads(line))
                if "progress" in word:
                    progress(*word["progress"])
                    if word["progress"][0] == SELFTEST:
                        deadline = time.monotonic() + SELFTEST_SECONDS
    raise DeployError(f"the self-test took longer than {SELFTEST_SECONDS:.0f} s: the engine hangs")


def _task(job: DeployJob, progress: Progress) -> Made:
    slot = Slot(job.slot)
    recipe = load_recipe(slot.bundle / contents.RECIPE)
    built = build(recipe, slot.engines, progress=progress)
    slot.package.unlink(missing_ok=True)
    slot.package.symlink_to(built.package.folder.relative_to(slot.folder))
    progress(SELFTEST, 0, 0)
    tested = expected.run(slot.bundle / contents.SELFTEST, open_package(slot.package), recipe)
    if why := tested.why_not(recipe.deploy):
        raise DeployError(why)
    manifest = built.package.manifest
    return Made(manifest.build_id, manifest.backend, manifest.precision, tested.as_dict())


if __name__ == "__main__":
    worker.main({DeployJob: _task})

"""Build and test a slot's package, in a separate process at low priority, while the running engine serves.

`python -m edgesparse.fleet.slot_build JOB.json` follows the protocol of builder/child/worker.py.
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
from edgesparse.fleet import contents, selftest
from edgesparse.fleet.owner import for_good
from edgesparse.fleet.slots import DeploySlot
from edgesparse.package.store import open_package
from edgesparse.progress import Progress

LOW_PRIORITY = (("nice", "-n", "10"), ("ionice", "-c", "3"))
"""Prefixes of the build command, if installed: the serving engine gets CPU and disk first."""
SELFTEST = "self-test"
SELFTEST_SECONDS = 300.0
"""Time limit of the self-test: a hung engine must not hold up a deploy forever."""


@dataclass(frozen=True)
class SlotBuild:
    """A slot's new package and the result of its self-test."""

    build_id: str
    backend: str
    precision: str
    selftest: dict[str, Any]


@dataclass(frozen=True)
class SlotBuildJob(Job[SlotBuild]):
    """Build and test the bundle in a slot's folder."""

    returns = SlotBuild
    slot: Path


BuildSlot = Callable[[DeploySlot, Progress], SlotBuild]
"""Fills `engines` and `package` of a slot from its `bundle` and tests the engine; raises DeployError."""


def build_slot(slot: DeploySlot, progress: Progress) -> SlotBuild:
    """Build and test a slot in a child process. Raises DeployError."""
    job, log = slot.folder / "job.json", slot.folder / "job.log"
    write_job(SlotBuildJob(slot.folder.absolute()), job)
    child = _start(job, log)
    try:
        messages = _listen(child, progress)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        assert child.stdout is not None
        child.stdout.close()
    if "error" in messages:
        raise DeployError(messages["error"][1])
    if "result" not in messages:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise DeployError(": ".join([f"the build ended without a result (code {code})", *last]))
    result: SlotBuild = from_json(SlotBuild, messages["result"])
    return result


def _start(job: Path, log: Path) -> subprocess.Popen[bytes]:
    sources = str(Path(device.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (sources, os.environ.get("PYTHONPATH"))))
    prefix = [word for words in LOW_PRIORITY if shutil.which(words[0]) for word in words]
    with log.open("wb") as errors:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "edgesparse.fleet.slot_build", str(job.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=job.parent,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
            **for_good(),
        )


def _listen(child: subprocess.Popen[bytes], progress: Progress) -> dict[str, Any]:
    """Return the child's last message of each kind. Raises DeployError if the self-test hangs."""
    messages: dict[str, Any] = {}
    rest, deadline = b"", float("inf")
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(1.0):
                continue
            if not (data := os.read(child.stdout.fileno(), 1 << 16)):
                return messages
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                messages |= (message := json.loads(line))
                if "progress" in message:
                    progress(*message["progress"])
                    if message["progress"][0] == SELFTEST:
                        deadline = time.monotonic() + SELFTEST_SECONDS
    raise DeployError(f"the self-test took longer than {SELFTEST_SECONDS:.0f} s: the engine hangs")


def _task(job: SlotBuildJob, progress: Progress) -> SlotBuild:
    slot = DeploySlot(job.slot)
    recipe = load_recipe(slot.bundle / contents.RECIPE)
    built = build(recipe, slot.engines, progress=progress)
    slot.package.unlink(missing_ok=True)
    slot.package.symlink_to(built.package.folder.relative_to(slot.folder))
    progress(SELFTEST, 0, 0)
    result = selftest.run(slot.bundle / contents.SELFTEST, open_package(slot.package), recipe)
    if why := result.why_not(recipe.deploy):
        raise DeployError(why)
    manifest = built.package.manifest
    return SlotBuild(manifest.build_id, manifest.backend, manifest.precision, result.as_dict())


if __name__ == "__main__":
    worker.main({SlotBuildJob: _task})

"""Runs a worker's task in a process of its own, watches its memory and its time, and outlives whatever it does."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgesparse import device, errors
from edgesparse.backends import Backend
from edgesparse.backends.base import LOADED
from edgesparse.builder.child import worker
from edgesparse.builder.child.memory import MB, Meter, Spent, Where
from edgesparse.errors import BuildError, EdgeSparseError
from edgesparse.progress import Progress

INTERVAL = 0.05
"""Seconds between two looks at a child's memory."""
CRITICAL = 150 * MB
"""Where less than this is left of the machine's memory, a child is killed before the system chooses whom."""

STUCK = 300.0
"""Seconds after which a child is ended that has neither said a word nor used SOME_CPU."""
SOME_CPU = 1.0
"""Seconds of CPU time; threads of CUDA's driver that only wait use less."""

How = Literal["done", "error", "memory", "crash", "time", "hang"]


@dataclass(frozen=True)
class Ended:
    """How a task ended: `memory`, when it was killed or refused memory; `time`, when the limit was reached; `hang`,
    when it did nothing any more."""

    how: How
    spent: Spent
    result: Mapping[str, Any] | None = None
    error: EdgeSparseError | None = None

    def get(self) -> Mapping[str, Any]:
        """The result. Raises what went wrong."""
        if self.result is not None:
            return self.result
        raise self.error or BuildError("it ended without a word")


class Workers:
    """Runs tasks until `deadline` (on the monotonic clock): in this process where the backend holds no native code,
    else in a child each, with `folder` for its files."""

    def __init__(self, engine: Backend, folder: Path, where: Where, deadline: float, progress: Progress) -> None:
        self._isolated, self._folder, self._where = engine.native_code, folder, where
        self._backend = engine.name
        self.deadline, self.progress = deadline, progress
        self._count = 0

    def run(self, task: str, **job: Any) -> Ended:
        """Raises KeyboardInterrupt after the child has been ended, and nothing else."""
        said = {"task": task, "backend": self._backend, "parent": os.getpid(), **job}
        if not self._isolated:
            return self._run_here(said)
        self._count += 1
        path = self._folder / f"job-{self._count}.json"
        path.write_text(json.dumps(said, default=str))
        with path.with_suffix(".log").open("w+b") as log:
            return _Child(path, log.fileno(), self._where).watch(self.deadline, self.progress)

    def _run_here(self, job: Mapping[str, Any]) -> Ended:
        job = json.loads(json.dumps(job, default=str))
        try:
            result, error = worker.TASKS[job["task"]](job, self.progress), None
        except EdgeSparseError as raised:
            result, error = None, raised
        return Ended("error" if error else "done", Spent(device.peak_memory()), result, error)


class _Child:
    def __init__(self, job: Path, log: int, where: Where) -> None:
        root = str(Path(device.__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgesparse.builder.child.worker", str(job.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=job.parent,  # else modules in the user's folder could stand before the library's
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._meter = Meter(where, self._process.pid)
        self._said: dict[str, Any] = {}
        self._rest = b""
        self._moved = (time.monotonic(), 0.0)  # when it last did something, and its CPU time then

    def watch(self, deadline: float, progress: Progress) -> Ended:
        killed: How | None = None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._out, selectors.EVENT_READ)
                while self._listen(selector, progress):
                    self._meter.sample()
                    if killed is None and (killed := self._must_go(deadline)):
                        self._kill()
        finally:
            self._kill()
            code = self._process.wait()
            self._out.close()
        return self._ended(code, killed)

    def _listen(self, selector: selectors.BaseSelector, progress: Progress) -> bool:
        """Wait for the child's next words, or a moment; returns whether there may be more."""
        if not selector.select(INTERVAL):
            return True
        data = os.read(self._out.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._said |= (said := json.loads(line))
            self._moved = (time.monotonic(), self._moved[1])
            if "progress" in said:
                if said["progress"][0] == LOADED:
                    self._meter.loaded()
                progress(*said["progress"])
        return bool(data)

    def _must_go(self, deadline: float) -> How | None:
        if time.monotonic() > deadline:
            return "time"
        if 0 < device.available_memory() < CRITICAL:
            return "memory"
        now, used = time.monotonic(), _cpu_seconds(self._process.pid)
        if used > self._moved[1] + SOME_CPU:
            self._moved = (now, used)
        return "hang" if now > self._moved[0] + STUCK else None

    def _kill(self) -> None:
        """The child and all that it has started; it cannot be gone and its number another's before wait()."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ended(self, code: int, killed: How | None) -> Ended:
        spent = self._meter.spent | Spent(self._said.get("peak", 0))
        if "result" in self._said:
            return Ended("done", spent, self._said["result"])
        if "error" in self._said:
            name, message = self._said["error"]
            kind = getattr(errors, name, BuildError)
            return Ended("memory" if _SHORT.search(message) else "error", spent, error=kind(message))
        words = self._last_words()
        if killed == "time":
            return Ended("time", spent, error=BuildError("stopped at the time limit"))
        if killed == "hang":
            why = f"stopped after {STUCK:.0f} s in which it neither made progress nor used the CPU{words}"
            return Ended("hang", spent, error=BuildError(why))
        if killed == "memory" or code in (-signal.SIGKILL, worker.OUT_OF_MEMORY) or _SHORT.search(words):
            how = "was refused memory" if code == worker.OUT_OF_MEMORY else "was killed, as if for memory"
            return Ended("memory", spent, error=BuildError(f"{how} at {spent.host / MB:,.0f} MB{words}"))
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Ended("crash", spent, error=BuildError(f"crashed ({name}){words}"))

    def _last_words(self) -> str:
        os.lseek(self._log, max(os.fstat(self._log).st_size - 2000, 0), os.SEEK_SET)
        lines = os.read(self._log, 2000).decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""


def _cpu_seconds(pid: int) -> float:
    """CPU time of all its threads, and of its children that have ended."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, said[11:15])) / os.sysconf("SC_CLK_TCK")


_SHORT = re.compile(r"out of memory|OutOfMemory|bad_alloc|cannot allocate memory|std::length_error|MemoryError", re.I)

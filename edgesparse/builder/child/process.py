"""Runs jobs in child processes, monitors their memory and time, and survives whatever they do."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgesparse import device, errors
from edgesparse.backends import Backend
from edgesparse.backends.base import LOADED
from edgesparse.builder.child import worker
from edgesparse.builder.child.job import How, Job, JobResult, R, from_json, write_job
from edgesparse.builder.child.memory import MB, Meter, Spent, Where
from edgesparse.errors import BuildError, EdgeSparseError
from edgesparse.progress import Progress

INTERVAL = 0.05
"""Seconds between two samples of a child's memory."""
CRITICAL = 150 * MB
"""A child is killed if less than this is left of the machine's memory, before the kernel chooses a process."""

STUCK = 300.0
"""Seconds after which a child is killed that has neither reported progress nor used SOME_CPU."""
SOME_CPU = 1.0
"""Seconds of CPU time; idle threads of the CUDA driver use less."""


class Workers:
    """Runs jobs until `deadline` (on the monotonic clock), which may be moved.

    If the backend contains native code, each job runs in a child process, with its files in `folder`; otherwise it runs
    in this process.
    """

    def __init__(self, backend: Backend, folder: Path, where: Where, deadline: float, progress: Progress) -> None:
        self._isolated, self._folder, self._where = backend.native_code, folder, where
        self.deadline, self.progress = deadline, progress
        self._count = 0

    def run(self, job: Job[R]) -> JobResult[R]:
        """Run a job to its end. Raises only KeyboardInterrupt, after the child has been killed."""
        if not self._isolated:
            return self._run_here(job)
        self._count += 1
        path = self._folder / f"job-{self._count}.json"
        write_job(job, path)
        with path.with_suffix(".log").open("w+b") as log:
            return _Child(path, log.fileno(), self._where, job.returns).watch(self.deadline, self.progress)

    def _run_here(self, job: Job[R]) -> JobResult[R]:
        try:
            value: R = worker.TASKS[type(job)](job, self.progress)
        except EdgeSparseError as error:
            return JobResult("error", Spent(device.peak_memory()), error=error)
        return JobResult("done", Spent(device.peak_memory()), value)


class _Child:
    def __init__(self, job: Path, log: int, where: Where, returns: Any) -> None:
        root = str(Path(device.__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._log, self._returns = log, returns
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgesparse.builder.child.worker", str(job.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=job.parent,  # otherwise modules in the user's folder could shadow our own
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._meter = Meter(where, self._process.pid)
        self._messages: dict[str, Any] = {}
        self._rest = b""
        self._active = (time.monotonic(), 0.0)  # when it was last active, and its CPU time at that point

    def watch(self, deadline: float, progress: Progress) -> JobResult[Any]:
        killed: How | None = None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._out, selectors.EVENT_READ)
                while self._listen(selector, progress):
                    self._meter.sample()
                    if killed is None and (killed := self._reason_to_kill(deadline)):
                        self._kill()
        finally:
            self._kill()
            code = self._process.wait()
            self._out.close()
        return self._result(code, killed)

    def _listen(self, selector: selectors.BaseSelector, progress: Progress) -> bool:
        """Wait up to INTERVAL for the child's next messages; returns whether more may follow."""
        if not selector.select(INTERVAL):
            return True
        data = os.read(self._out.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            self._messages |= message
            self._active = (time.monotonic(), self._active[1])
            if "progress" in message:
                if message["progress"][0] == LOADED:
                    self._meter.loaded()
                progress(*message["progress"])
        return bool(data)

    def _reason_to_kill(self, deadline: float) -> How | None:
        if time.monotonic() > deadline:
            return "time"
        if 0 < device.available_memory() < CRITICAL:
            return "memory"
        now, used = time.monotonic(), _cpu_seconds(self._process.pid)
        if used > self._active[1] + SOME_CPU:
            self._active = (now, used)
        return "hang" if now > self._active[0] + STUCK else None

    def _kill(self) -> None:
        """Kill the child and everything it started. Its process id cannot be reused before wait() is called."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _result(self, code: int, killed: How | None) -> JobResult[Any]:
        spent = self._meter.spent | Spent(self._messages.get("peak", 0))
        if "result" in self._messages:
            return JobResult("done", spent, from_json(self._returns, self._messages["result"]))
        if "error" in self._messages:
            name, message = self._messages["error"]
            kind = getattr(errors, name, BuildError)
            return JobResult("memory" if _SHORT.search(message) else "error", spent, error=kind(message))
        how, reason = self._death(code, killed, spent)
        return JobResult(how, spent, error=BuildError(reason))

    def _death(self, code: int, killed: How | None, spent: Spent) -> tuple[How, str]:
        """Return how a child that sent no result ended, and a sentence about it."""
        words = self._last_words()
        if killed == "time":
            return "time", "stopped at the time limit"
        if killed == "hang":
            return "hang", f"stopped after {STUCK:.0f} s in which it neither made progress nor used the CPU{words}"
        if killed == "memory" or code in (-signal.SIGKILL, worker.OUT_OF_MEMORY) or _SHORT.search(words):
            how = "was refused memory" if code == worker.OUT_OF_MEMORY else "was killed, as if for memory"
            return "memory", f"{how} at {spent.host / MB:,.0f} MB{words}"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "crash", f"crashed ({name}){words}"

    def _last_words(self) -> str:
        os.lseek(self._log, max(os.fstat(self._log).st_size - 2000, 0), os.SEEK_SET)
        lines = os.read(self._log, 2000).decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process and of its finished children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


_SHORT = re.compile(r"out of memory|OutOfMemory|bad_alloc|cannot allocate memory|std::length_error|MemoryError", re.I)

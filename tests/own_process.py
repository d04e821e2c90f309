"""Tests that run native code which may hang, in a process of their own: a hang there ends that process, not the run."""

from __future__ import annotations

import faulthandler
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import pytest

SECONDS = 100.0
"""A test takes this long at most. One that takes longer is tried once more, in a new process."""


class OwnProcess:
    """Runs functions of modules that can be imported, one after another, in one process: it starts when needed."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None

    def run(self, function: Callable[..., None], arguments: Mapping[str, object]) -> None:
        """Raises what a test raises; fails when it hung twice, or took its process with it."""
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None and self._link is not None
            self._link.send((function, dict(arguments)))
            if not self._link.poll(self.seconds):
                self.close()
                continue
            try:
                ended, text = self._link.recv()
            except (EOFError, OSError):
                pytest.fail(f"its process ended with {self._process.wait()}", pytrace=False)
            if ended == "skipped":
                pytest.skip(text)
            if ended == "failed":
                pytest.fail(text, pytrace=False)
            return
        pytest.fail(f"it hung twice, {self.seconds:.0f} s each: the last stacks are above", pytrace=False)

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair()
        program = f"import sys; sys.path[:] = {sys.path!r}; from own_process import serve; serve({self.seconds})"
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno())
        self._link = Connection(ours.detach())

    def close(self) -> None:
        if self._process is not None and self._link is not None:
            self._link.close()
            self._process.kill()
            self._process.wait()
        self._process = None


def serve(seconds: float) -> None:
    """The other side: what comes over standard input is run, until that ends."""
    theirs = Connection(os.dup(0))
    while True:
        try:
            function, arguments = theirs.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(0.95 * seconds, file=sys.__stderr__ or sys.stderr)
        try:
            function(**arguments)
            theirs.send(("passed", ""))
        except pytest.skip.Exception as skipped:
            theirs.send(("skipped", str(skipped)))
        except BaseException:
            theirs.send(("failed", traceback.format_exc()))
        finally:
            faulthandler.cancel_dump_traceback_later()

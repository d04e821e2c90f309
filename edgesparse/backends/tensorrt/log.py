"""TensorRT's log of a build: which layers got 2:4 kernels, what was skipped, why a build failed."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

LOG_FILE = "EDGESPARSE_TRT_LOG"
"""Environment variable with the path of a file that TensorRT's whole log is appended to."""

_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Layers eligible for sparse math:|Found (\d+) layer\S* eligible to use sparse tactics:?)\s*(.*)",
    re.S,
)
_PICKED = re.compile(
    r"\(Sparsity\) (?:TRT inference plan picked sparse implementation for layers:"
    r"|Chose (\d+) layer\S* using sparse tactics:?)\s*(.*)",
    re.S,
)
_SKIPPED = re.compile(r"insufficient memory|Tactic Device request|out of memory|OutOfMemory", re.I)
_PLACED = re.compile(r"^\s*\[(Dla|Gpu)Layer\] (?:[A-Z_]+: )?(.*)$")
_TIMED = re.compile(r"^Tactic(?: Name)?: .*Time: ")
_ERRORS_KEPT, _LINES_KEPT = 8, 1000
_listeners: list[Any] = []


class BuildLog:
    """Collects the results of a build from its log. Lines come in through `take`.

    A build has several passes, each with its own lines about sparsity. A layer counts if any of them names it.
    `heartbeat` is called with the number of tactics timed so far, for releases without a progress monitor. Nothing here
    raises into the library: an exception of `heartbeat` is stored in `stopped`.
    """

    def __init__(self, heartbeat: Callable[[int], None] | None = None, copy_to: Path | None = None) -> None:
        self.eligible: dict[str, None] = {}
        self.picked: dict[str, None] = {}
        self.skipped: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self.placed: dict[str, str] = {}
        """`dla` or `gpu` of each layer, on boards with DLA."""
        self.errors: deque[str] = deque(maxlen=_ERRORS_KEPT)
        self.timed = 0
        """Tactics timed so far."""
        self.stopped: BaseException | None = None
        """The exception of Ctrl-C or a heartbeat while the library was running."""
        self._heartbeat = heartbeat
        self._copy = _open(copy_to)

    def take(self, severity: str, text: str) -> None:
        """Add a line. `severity` is TensorRT's name: INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE."""
        if self._copy is not None:
            self._copy.write(f"[{severity[0]}] {text}\n")
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(one_line(text))
        elif severity == "WARNING" and "The logger passed into" not in text:
            _keep(self.warnings, one_line(text))
        if _SKIPPED.search(text):
            _keep(self.skipped, one_line(text))
        elif "(Sparsity)" in text:
            self._sparsity(text)
        elif _TIMED.match(text):
            self._beat()
        elif placed := _PLACED.match(text):
            self.placed[placed[2].strip()] = placed[1].lower()

    def reason(self) -> str:
        """TensorRT's last error message, without assertions that only follow from an earlier error."""
        causes = [text for text in self.errors if not re.search(r"Assertion \w+ != nullptr failed", text)]
        return (causes or list(self.errors) or list(self.warnings) or ["it gave no reason"])[-1]

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _sparsity(self, text: str) -> None:
        for pattern, names in ((_ELIGIBLE, self.eligible), (_PICKED, self.picked)):
            if match := pattern.search(text):
                names.update(dict.fromkeys(split_names(match[2])))

    def _beat(self) -> None:
        self.timed += 1
        if self._heartbeat is not None and self.stopped is None:
            self._heartbeat(self.timed)


def listener(trt: Any, log: BuildLog) -> Any:
    """A TensorRT logger that passes each line, down to VERBOSE, to `log`. It lives as long as the process.

    TensorRT keeps a bare pointer to its first logger for as long as any of its objects is alive.
    """

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            try:
                log.take(getattr(severity, "name", str(severity)).rpartition(".")[2], text)
            except BaseException as error:  # an exception in the library would end the process
                log.stopped = log.stopped or error

    _listeners.append(Listener())
    return _listeners[-1]


def log_file() -> Path | None:
    """The file for the whole log, from the environment."""
    path = os.environ.get(LOG_FILE)
    return Path(path) if path else None


def split_names(text: str) -> list[str]:
    """Split layer names at commas, except those in brackets, which belong to a name such as `PWN(a, b)`."""
    names, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            names.append(text[start:i])
            start = i + 1
    names.append(text[start:])
    return [name.strip() for name in names if name.strip()]


def one_line(text: str) -> str:
    """Remove source locations such as `[builder.cpp::build::120]`, join white space, cut at 300 characters."""
    return re.sub(r"\s+", " ", re.sub(r"^\d*:? ?\[[\w./]+(::[^\]]*)?\]\s*", "", text)).strip()[:300]


def _open(path: Path | None) -> TextIO | None:
    return path.open("a", errors="replace", buffering=1 << 16) if path else None


def _keep(lines: dict[str, None], text: str) -> None:
    if len(lines) < _LINES_KEPT:
        lines[text] = None

"""What TensorRT says while it builds: which layers it gave 2:4 kernels, what it skipped, why it gave up."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

LOG_FILE = "EDGESPARSE_TRT_LOG"
"""Environment variable: a file that everything TensorRT says is appended to."""

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
    """Collects from the log what a build came to; lines come in through `take`.

    A build has several passes, each with its own pair of lines about sparsity: what is eligible or picked in any of
    them counts. `heartbeat` is called with the number of tactics timed so far, where the release has no progress
    monitor. Nothing here raises into the library: what `heartbeat` raises is kept in `stopped`.
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
        """What Ctrl-C or a heartbeat raised while the library was running."""
        self._heartbeat = heartbeat
        self._copy = _open(copy_to)

    def take(self, severity: str, text: str) -> None:
        """One line, `severity` as TensorRT names it: INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE."""
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
        elif found := _PLACED.match(text):
            self.placed[found[2].strip()] = found[1].lower()

    def reason(self) -> str:
        """The last thing that went wrong, in TensorRT's words, less the assertions that only follow from it."""
        told = [text for text in self.errors if not re.search(r"Assertion \w+ != nullptr failed", text)]
        return (told or list(self.errors) or list(self.warnings) or ["it gave no reason"])[-1]

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _sparsity(self, text: str) -> None:
        for pattern, names in ((_ELIGIBLE, self.eligible), (_PICKED, self.picked)):
            if found := pattern.search(text):
                names.update(dict.fromkeys(split_names(found[2])))

    def _beat(self) -> None:
        self.timed += 1
        if self._heartbeat is not None and self.stopped is None:
            self._heartbeat(self.timed)


def listener(trt: Any, log: BuildLog) -> Any:
    """TensorRT's logger that hands each line, down to VERBOSE, to `log`. It lives as long as the process.

    TensorRT keeps a bare pointer to the first one it is given, for as long as anything that it made is alive.
    """

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            try:
                log.take(getattr(severity, "name", str(severity)).rpartition(".")[2], text)
            except BaseException as error:  # one that left this frame would end the process
                log.stopped = log.stopped or error

    _listeners.append(Listener())
    return _listeners[-1]


def log_file() -> Path | None:
    """The file that the environment asks the whole log to be kept in."""
    said = os.environ.get(LOG_FILE)
    return Path(said) if said else None


def split_names(text: str) -> list[str]:
    """Layer names from a list that commas part; those inside brackets belong to a name, as in `PWN(a, b)`."""
    names, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            names.append(text[start:i])
            start = i + 1
    names.append(text[start:])
    return [name.strip() for name in names if name.strip()]


def one_line(text: str) -> str:
    """Without source places such as `[builder.cpp::build::120]`, white space joined, at most 300 characters."""
    return re.sub(r"\s+", " ", re.sub(r"^\d*:? ?\[[\w./]+(::[^\]]*)?\]\s*", "", text)).strip()[:300]


def _open(path: Path | None) -> TextIO | None:
    return path.open("a", errors="replace", buffering=1 << 16) if path else None


def _keep(lines: dict[str, None], text: str) -> None:
    if len(lines) < _LINES_KEPT:
        lines[text] = None

"""One JSON object per frame, appended to a rotated file: FILE becomes FILE.1."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputSettings, OutputState
from edgesparse.stream.sinks.writing import failing
from edgesparse.values import Memory

log = logging.getLogger("edgesparse.service")


class JsonLinesSettings(OutputSettings):
    """JSON lines in a rotated file."""

    file: Path
    """File to append to."""
    most: Memory = 100_000_000
    """Bytes at which the file is renamed to FILE.1 and started again."""


class _Handler(RotatingFileHandler):
    """Keeps the error of the last record instead of printing a traceback."""

    error = ""

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        # The base class asks the file system about every record, which matters only once the file may be full.
        return self._may_be_full(record) and bool(super().shouldRollover(record))

    def _may_be_full(self, record: logging.LogRecord) -> bool:
        try:
            # Not `tell`: a position in text takes longer to find than a line to write.
            return self.stream is None or os.fstat(self.stream.fileno()).st_size + len(record.msg) + 1 >= self.maxBytes
        except OSError:  # not a file
            return True

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        self.error = getattr(error, "strerror", None) or str(error) or type(error).__name__


class RotatingJsonLines(Output):
    settings_type = JsonLinesSettings

    def __init__(self, settings: JsonLinesSettings, context: OutputContext) -> None:
        self.state = OutputState("jsonl")
        self._file = settings.file
        with failing(settings.file):
            settings.file.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Handler(settings.file, maxBytes=settings.most, backupCount=1, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def detections(self, result: FrameResult) -> None:
        handler, state = self._handler, self.state
        handler.error = ""
        handler.handle(logging.LogRecord("", logging.INFO, "", 0, result.text, None, None))
        if not handler.error:
            state.sent, state.state = state.sent + 1, ""
            return
        state.failed += 1
        if handler.error != state.state:
            state.state = handler.error
            log.warning("jsonl: cannot write %s: %s", self._file, handler.error)

    def close(self) -> None:
        with suppress(OSError):
            self._handler.close()

"""Builds whose chosen engine failed at run time. Survives restarts of the service, but not of the device."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from edgesparse.files import read_regular, replace_text

log = logging.getLogger("edgesparse.service")

MAX_BYTES = 1 << 20


class FailedEngines:
    """Stored in RUNTIME_DIRECTORY, which systemd empties when the device boots; in memory if that is not set."""

    def __init__(self) -> None:
        folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._path = Path(folder) / "failed-engines.json" if folder else None
        self._reasons: dict[str, str] = self._read()

    def _read(self) -> dict[str, str]:
        try:
            reasons = {} if self._path is None else json.loads(read_regular(self._path, MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(key): str(value) for key, value in reasons.items()} if isinstance(reasons, dict) else {}

    def reason(self, build_id: str) -> str | None:
        """Return why a build's engine failed, or None if it did not."""
        return self._reasons.get(build_id)

    def add(self, build_id: str, reason: str) -> None:
        self._reasons[build_id] = reason
        self._write()

    def clear(self) -> None:
        """Forget all failures, so that every engine is tried again."""
        self._reasons = {}
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            replace_text(self._path, json.dumps(self._reasons) + "\n")
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

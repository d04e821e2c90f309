"""Which builds' chosen engines failed while they ran, remembered over restarts of the service, not of the device."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

log = logging.getLogger("edgesparse.service")


class Failed:
    """In RUNTIME_DIRECTORY, which systemd empties when the device starts; in memory where that is not set."""

    def __init__(self) -> None:
        folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._path = Path(folder) / "failed-engines.json" if folder else None
        self._found: dict[str, str] = self._read()

    def _read(self) -> dict[str, str]:
        try:
            said = json.loads(self._path.read_text()) if self._path else {}
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}

    def why(self, build_id: str) -> str | None:
        """Why it failed; None when it did not."""
        return self._found.get(build_id)

    def add(self, build_id: str, why: str) -> None:
        self._found[build_id] = why
        self._write()

    def clear(self) -> None:
        """Let all be tried again."""
        self._found = {}
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        part = self._path.with_name(f".{self._path.name}")
        try:
            part.write_text(json.dumps(self._found) + "\n")
            part.replace(self._path)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

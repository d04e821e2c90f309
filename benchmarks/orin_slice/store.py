"""Engines on disk with what is known about each, so that a build is never repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.orin_slice.cases import Case

MISSING = {"failed": "not built in the time allowed"}
"""The facts of an engine that nobody has tried to build to the end."""


class Store:
    """Per case and way (engine of that case), a plan and a JSON file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def name(self, case: Case) -> str:
        """A file name for the case's timing cache and log."""
        return hashlib.sha256(case.text.encode()).hexdigest()[:12]

    def facts(self, case: Case, way: str) -> Mapping[str, Any]:
        """Built.as_dict(), or the key `failed` with the reason."""
        file = self._file(case, way, "json")
        return dict(json.loads(file.read_text())) if file.exists() else MISSING

    def claim(self, case: Case) -> bool:
        """Whether this process is the first to take the case, of those that build at the same time."""
        try:
            (self.folder / f"{self.name(case)}.claim").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def release(self, case: Case) -> None:
        """Let another process take the case."""
        (self.folder / f"{self.name(case)}.claim").unlink(missing_ok=True)

    def plan(self, case: Case, way: str) -> bytes | None:
        file = self._file(case, way, "plan")
        return file.read_bytes() if file.exists() else None

    def write(self, case: Case, way: str, facts: Mapping[str, Any], plan: bytes = b"") -> None:
        if plan:
            self._file(case, way, "plan").write_bytes(plan)
        self._file(case, way, "json").write_text(json.dumps(dict(facts)))

    def _file(self, case: Case, way: str, suffix: str) -> Path:
        return self.folder / f"{self.name(case)}-{way.replace(' ', '-').replace(':', '')}.{suffix}"

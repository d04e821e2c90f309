"""A command's result, and the types of the fixtures that run one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A command's exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The line with the reason for a refusal: the last one on standard error, after progress."""
        lines = self.err.splitlines()
        assert "Traceback" not in self.err and lines, self.err
        assert [line.startswith("edgesparse: ") for line in lines].count(True) == 1, self.err
        assert self.out == "", self.out
        return lines[-1].removeprefix("edgesparse: ")

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]

Started = Callable[..., "subprocess.Popen[str]"]

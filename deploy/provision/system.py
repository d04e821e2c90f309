"""Access to the machine: files and programs, and how a step reports a change or a failure."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REFUSED, WRONG_USE, MACHINE_LACKS = 1, 2, 3


class StepFailed(Exception):
    """A step that failed: why, and how to fix it."""

    def __init__(self, why: str, remedy: str, code: int = MACHINE_LACKS) -> None:
        super().__init__(why)
        self.why, self.remedy, self.code = why, remedy, code


@dataclass(frozen=True)
class Change:
    """A change that a step would make: its description, and the function that makes it."""

    what: str
    make: Callable[[], object]


@dataclass
class System:
    """The machine. `root`: its file system, another folder than / only in tests. `facts`: what steps have found out."""

    root: Path = Path("/")
    facts: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return a file's text, empty where it does not exist."""
        try:
            return self.path(name).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def booted(self) -> bool:
        """Whether systemd runs here, unlike in a container or in a root file system that is being built."""
        return self.path("/run/systemd/system").is_dir()

    def output(self, *command: str) -> str | None:
        """Return what a program prints; None where it does not exist or fails."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=120,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def run(self, *command: str, remedy: str, **environment: str) -> str:
        """Run a program and return its output, whose last line a terminal shows meanwhile. Raises StepFailed."""
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise StepFailed(f"{command[0]}: {error.strerror}", remedy) from None
        lines = []
        with child:
            for raw in child.stdout or ():
                lines.append(raw.decode(errors="replace").rstrip())
                _show(lines[-1])
        _show("")
        if child.returncode:
            raise StepFailed(f"`{' '.join(command)}` ended with {child.returncode}: {_error_line(lines)}", remedy)
        return "\n".join(lines)

    def write(self, name: str, text: str, mode: int = 0o644, group: str = "") -> None:
        """Write a file atomically.

        Mode and group are set through the open file: some folders belong to the service's user, who could replace the
        temporary file by a link while root works on it.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name_of_part = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
        temporary = Path(name_of_part)
        try:
            with os.fdopen(handle, "w") as file:
                self._set_mode(handle, mode, group)
                file.write(text)
                file.flush()
                os.fsync(handle)
                temporary.replace(path)
                if not os.path.samestat(os.fstat(handle), os.lstat(path)):
                    path.unlink()
                    raise StepFailed(f"{path} was replaced while it was written", "look for who writes there", REFUSED)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _set_mode(self, handle: int, mode: int, group: str) -> None:
        if group and self.has_group(group):
            os.fchown(handle, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(handle, mode)

    def protect(self, name: str, mode: int, group: str) -> None:
        """Set mode and group of a file, never of what a link in its place leads to."""
        handle = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            self._set_mode(handle, mode, group)
        finally:
            os.close(handle)

    def owner(self, path: Path) -> str:
        return path.owner()

    def give(self, path: Path, owner: str) -> None:
        shutil.chown(path, owner, owner)

    def user(self, name: str) -> pwd.struct_passwd | None:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            return None

    def groups(self, user: str) -> set[str]:
        return {group.gr_name for group in grp.getgrall() if user in group.gr_mem}

    def has_group(self, name: str) -> bool:
        return any(group.gr_name == name for group in grp.getgrall())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _error_line(lines: list[str]) -> str:
    """Return the line that names the error: the last with `error` in it, else the last."""
    texts = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(texts) if "error" in line.lower()), texts[-1] if texts else "no output")


def _show(line: str) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 5
        sys.stderr.write(f"\r\033[K    {line[:width]}" if line else "\r\033[K")
        sys.stderr.flush()

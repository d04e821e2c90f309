"""All that touches the machine: files, programs, and how a step says what it would change or why it cannot."""

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


class Failed(Exception):
    """A step that cannot be done: why, and what mends it."""

    def __init__(self, why: str, remedy: str, code: int = MACHINE_LACKS) -> None:
        super().__init__(why)
        self.why, self.remedy, self.code = why, remedy, code


@dataclass(frozen=True)
class Change:
    """Something that a step would change, in words, and what changes it."""

    what: str
    make: Callable[[], object]


@dataclass
class System:
    """The machine. `root`: where its files are, another folder than / only in tests. `found`: what steps learned."""

    root: Path = Path("/")
    found: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """A file's text, empty where there is none."""
        try:
            return self.path(name).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def booted(self) -> bool:
        """Whether systemd runs here: not in a container, nor in a root that is being made."""
        return self.path("/run/systemd/system").is_dir()

    def ask(self, *command: str) -> str | None:
        """What a program prints; None where there is none or it fails."""
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
        """Runs a program, its last line shown on a terminal meanwhile; Failed with its last words and the remedy."""
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise Failed(f"{command[0]}: {error.strerror}", remedy) from None
        lines = []
        with child:
            for raw in child.stdout or ():
                lines.append(raw.decode(errors="replace").rstrip())
                _show(lines[-1])
        _show("")
        if child.returncode:
            raise Failed(f"`{' '.join(command)}` ended with {child.returncode}: {_last_words(lines)}", remedy)
        return "\n".join(lines)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file whole or not at all."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise

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


def _last_words(lines: list[str]) -> str:
    """The line that tells what went wrong: the last with `error` in it, else the last."""
    said = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "it said nothing")


def _show(line: str) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 5
        sys.stderr.write(f"\r\033[K    {line[:width]}" if line else "\r\033[K")
        sys.stderr.flush()

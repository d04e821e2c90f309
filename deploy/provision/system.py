"""Access to the machine: files and programs, and how a step reports a change or a failure."""

from __future__ import annotations

import fcntl
import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

REFUSED, WRONG_USE, MACHINE_LACKS = 1, 2, 3
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_LINKS = 16
ANSWER_SECONDS = 300.0
"""Time limit of a program that only answers; a busy board takes minutes to load edgesparse."""


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
    """The machine. `root`: its file system, a folder other than / only in tests. `facts`: what steps have learned."""

    root: Path = Path("/")
    facts: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return a file's text, empty if it does not exist."""
        try:
            return self.path(name).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def booted(self) -> bool:
        """Whether systemd runs here, unlike in a container or in a root file system that is being built."""
        return self.path("/run/systemd/system").is_dir()

    def output(self, *command: str) -> str | None:
        """Return the output of a program, or None if it does not exist or fails. Raises StepFailed if it does not end:
        what it would have answered is unknown.
        """
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ANSWER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            why = f"`{' '.join(command)}` has not answered in {ANSWER_SECONDS:g} s"
            raise StepFailed(why, "run this again once the machine is less busy") from None
        except OSError:
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def run(self, *command: str, remedy: str, **environment: str) -> str:
        """Run a program and return its output; meanwhile a terminal shows the last line. Raises StepFailed."""
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

    @contextmanager
    def folder(self, path: Path) -> Iterator[int]:
        """Open a folder, created where it does not exist. Raises StepFailed unless nobody but root can change it.

        Each folder on the path is opened relative to the previous one and checked, so that nobody can swap one; a link
        is followed if it is in a folder owned by root.
        """
        handle = self._open_folder(list(path.relative_to(self.root).parts), 0)
        try:
            yield handle
        finally:
            os.close(handle)

    def _open_folder(self, parts: list[str], links: int) -> int:
        handle = os.open(self.root, FOLDER)
        for number, part in enumerate(parts):
            outer = handle
            try:
                if not self._exists(part, outer):
                    os.mkdir(part, 0o755, dir_fd=outer)
                if stat.S_ISLNK(os.lstat(part, dir_fd=outer).st_mode):
                    target = os.path.normpath(Path("/", *parts[:number]) / os.readlink(part, dir_fd=outer))
                    if links == MOST_LINKS:
                        raise StepFailed(f"too many links in the path /{'/'.join(parts)}", "remove them", REFUSED)
                    return self._open_folder([*Path(target).parts[1:], *parts[number + 1 :]], links + 1)
                handle = os.open(part, FOLDER, dir_fd=outer)
            finally:
                os.close(outer)
            try:
                self._check_owner(os.fstat(handle), "/" + "/".join(parts[: number + 1]))
            except StepFailed:
                os.close(handle)
                raise
        return handle

    def _exists(self, part: str, handle: int) -> bool:
        try:
            os.lstat(part, dir_fd=handle)
        except FileNotFoundError:
            return False
        return True

    def _check_owner(self, status: os.stat_result, name: str) -> None:
        """Refuse a folder in which others could swap what root writes. A sticky folder, such as /tmp, protects each
        file.
        """
        if not self.is_root(status.st_uid):
            raise StepFailed(f"{name} belongs to user {status.st_uid}, needed root", f"chown root {name}", REFUSED)
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            mode = stat.S_IMODE(status.st_mode)
            raise StepFailed(f"{name} has mode {mode:o}: others can write there", f"chmod go-w {name}", REFUSED)

    def is_root(self, user: int) -> bool:
        return user in (0, os.geteuid())

    def make_folder(self, name: str, mode: int, owner: str) -> None:
        """Create a folder, or set mode and owner of an existing one, never of what a link in its place leads to."""
        path = self.path(name)
        with self.folder(path.parent) as parent:
            if not self._exists(path.name, parent):
                os.mkdir(path.name, 0o700, dir_fd=parent)
            handle = os.open(path.name, FOLDER, dir_fd=parent)
        try:
            os.fchmod(handle, mode)
            self.give(handle, owner)
        finally:
            os.close(handle)

    def write(self, name: str, text: str, mode: int = 0o644, group: str = "") -> None:
        """Write a file atomically to a folder owned by root, with mode and group from the start. What a power cut has
        left of an earlier attempt is removed.
        """
        path = self.path(name)
        part = f".{path.name}.{os.getpid()}-{time.time_ns()}"
        with self.folder(path.parent) as folder:
            self._remove_parts(path.name, folder)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            try:
                with os.fdopen(handle, "w") as file:
                    fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the process
                    self._set_mode(handle, mode, group)
                    file.write(text)
                    file.flush()
                    os.fsync(handle)
                os.replace(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(part, dir_fd=folder)
                raise
            os.fsync(folder)

    def _remove_parts(self, name: str, folder: int) -> None:
        """Remove unfinished files of `write` that no process is writing."""
        for part in os.listdir(folder):
            if re.fullmatch(rf"\.{re.escape(name)}\.\d+-\d+", part):
                handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                with suppress(BlockingIOError), os.fdopen(handle) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(part, dir_fd=folder)

    def sync(self) -> None:
        """Wait until everything that programs have written is on disk: pip does not."""
        os.sync()

    def remove(self, name: str) -> None:
        """Remove a file from a folder owned by root, never the target of a link in its place."""
        path = self.path(name)
        with self.folder(path.parent) as folder:
            os.unlink(path.name, dir_fd=folder)

    def _set_mode(self, handle: int, mode: int, group: str) -> None:
        if group and self.has_group(group):
            os.fchown(handle, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(handle, mode)

    def protect(self, name: str, mode: int, group: str) -> None:
        """Set mode and group of a file, never of the target of a link in its place."""
        handle = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            self._set_mode(handle, mode, group)
        finally:
            os.close(handle)

    def owner(self, path: Path) -> str:
        return path.owner()

    def give(self, handle: int, owner: str) -> None:
        """Give an open folder to a user and the group of the same name."""
        user = pwd.getpwnam(owner)
        os.fchown(handle, user.pw_uid, user.pw_gid)

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
    """Return the line with the error: the last that contains `error`, else the last."""
    texts = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(texts) if "error" in line.lower()), texts[-1] if texts else "no output")


def _show(line: str) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 5
        sys.stderr.write(f"\r\033[K    {line[:width]}" if line else "\r\033[K")
        sys.stderr.flush()

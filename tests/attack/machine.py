"""Faults of the machine for one process: small disks, limits, cgroups, a changed clock. Each ends with its block."""

from __future__ import annotations

import os
import random
import resource
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

CGROUPS = Path("/sys/fs/cgroup")
COMPILER = shutil.which("cc")
"""Compiles clock.c, which changes the wall clock of a process."""
JUMPS = (-3600, 3600, -100_000_000, 100_000_000)
"""Seconds by which the clock is set back or forward: an hour, three years."""
SIZES = {"disk": "64m", "tmp": "1m", "home": "1m"}
MEBIBYTE = 1 << 20


def cgroup(controller: str) -> Path | None:
    """Where cgroups of a controller are created: version 1, else version 2 with that controller; None if there is
    neither."""
    first = CGROUPS / controller
    if first.is_dir() and os.access(first, os.W_OK):
        return first
    with suppress(OSError):
        if controller in (CGROUPS / "cgroup.subtree_control").read_text().split() and os.access(CGROUPS, os.W_OK):
            return CGROUPS
    return None


def mounts(folder: Path) -> bool:
    """Whether this process may mount a small disk."""
    try:
        _call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return False
    _call("umount", "--lazy", str(folder))
    return True


class Machine(AbstractContextManager["Machine"]):
    """Small disks under `folder`, and faults of the process adopted last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk, self.tmp, self.home = (folder / name for name in SIZES)
        self._clock = folder / "clock"
        self._set_clock(0)
        self._pid = 0
        self._stack = ExitStack()
        for name, size in SIZES.items():
            (folder / name).mkdir()
            _call("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder / name))
            self._stack.callback(_call, "umount", "--lazy", str(folder / name))
        self._groups = {name: self._group(name) for name in ("pids", "memory")}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """Environment to start the process with."""
        result = {"TMPDIR": str(self.tmp), "HOME": str(self.home)}
        if COMPILER is not None:
            library = self.folder / "clock.so"
            _call(COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_name("clock.c")))
            result |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self._clock)}
        return result

    def adopt(self, pid: int) -> None:
        self._pid = pid
        for group in self._groups.values():
            if group is not None:
                (group / "cgroup.procs").write_text(str(pid))

    def captures(self) -> list[int]:
        """The processes that open network cameras: children of the fork server."""
        return [capture for server in _children(self._pid) for capture in _children(server)]

    def fault(self, kind: str, rng: random.Random) -> AbstractContextManager[None]:
        faults: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "descriptors": lambda: self._limit(resource.RLIMIT_NOFILE, self._count("fd")),
            "memory": lambda: self._limit(resource.RLIMIT_AS, self._address_space() + MEBIBYTE),
            "disk": lambda: _full(self.disk),
            "tmp": lambda: _full(self.tmp),
            "home": self._read_only_home,
            "clock": lambda: self._jump(rng.choice(JUMPS)),
            "threads": lambda: self._bound("pids", ("pids.max",), self._count("task")),
            "cgroup memory": lambda: self._bound("memory", ("memory.limit_in_bytes", "memory.max"), self._used()),
        }
        return faults[kind]()

    def _count(self, what: str) -> int:
        return len(list(Path(f"/proc/{self._pid}/{what}").iterdir()))

    def _address_space(self) -> int:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[0]) * resource.getpagesize()

    @contextmanager
    def _limit(self, what: int, most: int) -> Iterator[None]:
        before = resource.prlimit(self._pid, what)
        resource.prlimit(self._pid, what, (most, before[1]))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(self._pid, what, before)

    @contextmanager
    def _read_only_home(self) -> Iterator[None]:
        _call("mount", "-o", "remount,ro", str(self.home))
        try:
            yield
        finally:
            _call("mount", "-o", "remount,rw", str(self.home))

    @contextmanager
    def _jump(self, seconds: int) -> Iterator[None]:
        self._set_clock(seconds)
        try:
            yield
        finally:
            self._set_clock(0)

    def _set_clock(self, seconds: int) -> None:
        """Write in place, since the process has mapped the file."""
        descriptor = os.open(self._clock, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, struct.pack("q", seconds), 0)
        os.close(descriptor)

    def _group(self, controller: str) -> Path | None:
        above = cgroup(controller)
        if above is None:
            return None
        group = above / f"edgesparse-{os.getpid()}-{controller}"
        group.mkdir()
        self._stack.callback(_remove, group)
        return group

    def _used(self) -> int:
        """A memory limit that the group will soon exceed: half a mebibyte above its current use."""
        group = self._groups["memory"]
        assert group is not None
        names = ("memory.usage_in_bytes", "memory.current")
        used = next(int((group / name).read_text()) for name in names if (group / name).exists())
        return used - used % 4096 + MEBIBYTE // 2

    @contextmanager
    def _bound(self, controller: str, names: tuple[str, ...], most: int) -> Iterator[None]:
        group = self._groups[controller]
        assert group is not None
        file = next(group / name for name in names if (group / name).exists())
        file.write_text(str(most))
        try:
            yield
        finally:
            file.write_text("-1" if file.name == "memory.limit_in_bytes" else "max")


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fill the disk completely."""
    filler = folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            for size in (MEBIBYTE, 4096):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        yield
    finally:
        filler.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    children = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def _remove(group: Path) -> None:
    """Wait for the last processes of a cgroup to end, and remove it."""
    for _ in range(50):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

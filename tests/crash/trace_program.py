"""What a program does to one folder, recorded by strace: every write with its bytes, every rename, every fsync."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from disk import ROOT, Entries, Operation, Resize, Sync, Tree, Write

AVAILABLE = shutil.which("strace") is not None
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2})*)>)?")


class Unsupported(Exception):
    """A call that the model does not know: the recording would be wrong."""


def record(command: Sequence[str], folder: Path, trace: Path, **options: object) -> tuple[Tree, list[Operation]]:
    """Run `command`; return what `folder` held before, and what the command did to it.

    Raises RuntimeError if the command fails, Unsupported for a call that cannot be replayed.
    """
    counter = itertools.count(1)
    start = Tree.read(folder, lambda: next(counter))
    arguments = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "100000000",
        "-e",
        "trace=" + ",".join(_CALLS),
        "-o",
        str(trace),
        *command,
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{command[-1]} ended with {done.returncode}: {done.stderr[-2000:]}")
    replay = _Replay(folder, start, counter)
    operations = replay.run(trace)
    start.folders |= {inode: {} for inode in replay.folders}
    start.links |= replay.links
    return start, operations


class _Replay:
    """Turns lines of strace into operations on a tree, which is kept up to date to find inodes by path."""

    def __init__(self, folder: Path, start: Tree, counter: Iterator[int]) -> None:
        self._root, self._tree, self._counter = str(folder), start.copy(), counter
        self._pid = ""
        self._offsets: dict[tuple[str, int], int] = {}
        self._appends: set[tuple[str, int]] = set()
        """By process and descriptor; threads of one process must not share a file."""
        self.operations: list[Operation] = []
        self.folders: list[int] = []
        self.links: dict[int, str] = {}
        """Folders and links that were created."""

    def run(self, trace: Path) -> list[Operation]:
        parts: dict[str, str] = {}
        for line in trace.read_text().splitlines():
            pid = line.partition(" ")[0]
            if line.endswith("<unfinished ...>"):
                parts[pid] = line.removesuffix("<unfinished ...>")
                continue
            if "<... " in line:
                line = parts.pop(pid) + line.partition(" resumed>")[2]
            match = _LINE.match(line)
            if match and int(match[4]) >= 0:
                self._pid = match[1]
                _CALLS[match[2]](self, match[3], int(match[4]))
        return self.operations

    # paths

    def _paths(self, text: str) -> list[str]:
        """Return the absolute paths of a call's (folder, name) pairs or names."""
        folder, paths = "", []
        for part in _split(text):
            if part.startswith('"'):
                name = _text(part)
                paths.append(name if name.startswith("/") else f"{folder}/{name}" if folder else name)
            elif (match := _FD.match(part)) and match[2] is not None:
                folder = _bytes(match[2]).decode()
        return paths

    def _place(self, path: str) -> tuple[int, str] | None:
        """Return the folder and the name of a path, or None outside of the recorded folder."""
        if not path.startswith(self._root + "/"):
            return None
        *folders, name = path[len(self._root) + 1 :].split("/")
        inode = ROOT
        for depth, part in enumerate(folders):
            inode = self._tree.folders[inode][part]
            if inode in self._tree.links:
                base = "/".join([self._root, *folders[:depth], self._tree.links[inode]])
                return self._place("/".join([base, *folders[depth + 1 :], name]))
        return inode, name

    def _inode(self, path: str) -> int | None:
        if path == self._root:
            return ROOT
        place = self._place(path.removesuffix(" (deleted)"))
        return self._tree.folders[place[0]].get(place[1]) if place else None

    def _file(self, text: str) -> tuple[tuple[str, int], int | None]:
        """Return the process's descriptor and the inode of a call's first argument."""
        match = _FD.match(text)
        assert match is not None
        path = _bytes(match[2]).decode() if match[2] else ""
        return (self._pid, int(match[1])), None if path.endswith(" (deleted)") else self._inode(path)

    def _do(self, operation: Operation) -> None:
        self._tree.apply(operation)
        self.operations.append(operation)

    # calls

    def _open(self, text: str, result: int) -> None:
        path, flags = self._paths(text)[0], text.rpartition('"')[2]
        opened = self._pid, result
        self._offsets[opened] = 0
        self._appends.discard(opened)
        if "O_APPEND" in flags:
            self._appends.add(opened)
        place = self._place(path)
        if place is None:
            return
        inode = self._tree.folders[place[0]].get(place[1])
        if inode is None and "O_CREAT" in flags:
            inode = next(self._counter)
            self._tree.files[inode] = b""
            self._do(Entries(((*place, inode),)))
        elif inode in self._tree.files and "O_TRUNC" in flags and self._tree.files[inode]:
            self._do(Resize(inode, 0))

    def _write(self, text: str, result: int) -> None:
        descriptor, inode = self._file(text)
        if inode is None:
            return
        offset = self._offsets[descriptor]
        if descriptor in self._appends:
            offset = len(self._tree.files[inode])
        self._do(Write(inode, offset, _data(text)[:result]))
        self._offsets[descriptor] = offset + result

    def _write_at(self, text: str, result: int) -> None:
        _, inode = self._file(text)
        if inode is not None:
            self._do(Write(inode, int(text.rpartition(", ")[2]), _data(text)[:result]))

    def _write_many(self, text: str, result: int) -> None:
        if self._file(text)[1] is not None:
            raise Unsupported("writev")

    def _sendfile(self, text: str, result: int) -> None:
        parts = _split(text)
        target, source = self._file(parts[0]), self._file(parts[1])
        begin = int(parts[2].partition("=>")[0].strip("[] ")) if parts[2] != "NULL" else self._offsets[source[0]]
        self._copy(target, source, begin, self._offsets[target[0]], result, parts[1])
        self._offsets[target[0]] += result

    def _copy_file_range(self, text: str, result: int) -> None:
        parts = _split(text)
        source, target = self._file(parts[0]), self._file(parts[2])
        if parts[1] != "NULL" or parts[3] != "NULL":
            raise Unsupported("copy_file_range with offsets")
        self._copy(target, source, self._offsets[source[0]], self._offsets[target[0]], result, parts[0])
        self._offsets[source[0]] += result
        self._offsets[target[0]] += result

    def _copy(
        self,
        target: tuple[tuple[str, int], int | None],
        source: tuple[tuple[str, int], int | None],
        begin: int,
        at: int,
        size: int,
        text: str,
    ) -> None:
        if target[1] is None or not size:
            return
        if source[1] is not None:
            data = self._tree.files[source[1]]
        else:
            match = _FD.match(text)
            assert match is not None and match[2]
            data = Path(_bytes(match[2]).decode()).read_bytes()
        self._do(Write(target[1], at, data[begin : begin + size]))

    def _lseek(self, text: str, result: int) -> None:
        self._offsets[self._file(text)[0]] = result

    def _read(self, text: str, result: int) -> None:
        descriptor = self._file(text)[0]
        self._offsets[descriptor] = self._offsets.get(descriptor, 0) + result

    def _dup(self, text: str, result: int) -> None:
        self._offsets[(self._pid, result)] = self._offsets.get(self._file(text)[0], 0)

    def _resize(self, text: str, result: int) -> None:
        _, inode = self._file(text)
        if inode is not None:
            self._do(Resize(inode, int(text.rpartition(", ")[2])))

    def _resize_path(self, text: str, result: int) -> None:
        inode = self._inode(self._paths(text)[0])
        if inode is not None:
            self._do(Resize(inode, int(text.rpartition(", ")[2])))

    def _allocate(self, text: str, result: int) -> None:
        if self._file(text)[1] is not None:
            raise Unsupported("fallocate")

    def _rename(self, text: str, result: int) -> None:
        old, new = (self._place(path) for path in self._paths(text)[:2])
        if old is None and new is None:
            return
        if old is None or new is None:
            raise Unsupported(f"a rename into or out of the folder: {text}")
        self._do(Entries(((*old, None), (*new, self._tree.folders[old[0]][old[1]]))))

    def _link(self, text: str, result: int) -> None:
        old, new = self._paths(text)[:2]
        place = self._place(new)
        if place is not None:
            self._do(Entries(((*place, self._inode(old)),)))

    def _unlink(self, text: str, result: int) -> None:
        place = self._place(self._paths(text)[0])
        if place is not None:
            self._do(Entries(((*place, None),)))

    def _mkdir(self, text: str, result: int) -> None:
        place = self._place(self._paths(text)[0])
        if place is not None:
            inode = next(self._counter)
            self._tree.folders[inode] = {}
            self.folders.append(inode)
            self._do(Entries(((*place, inode),)))

    def _symlink(self, text: str, result: int) -> None:
        target, path = _text(_split(text)[0]), self._paths(text[text.index(",") + 1 :])[0]
        place = self._place(path)
        if place is not None:
            inode = next(self._counter)
            self._tree.links[inode] = self.links[inode] = target
            self._do(Entries(((*place, inode),)))

    def _fsync(self, text: str, result: int) -> None:
        _, inode = self._file(text)
        if inode is not None:
            self._do(Sync(inode))


_CALLS: dict[str, Callable[[_Replay, str, int], None]] = {
    "open": _Replay._open,
    "openat": _Replay._open,
    "write": _Replay._write,
    "pwrite64": _Replay._write_at,
    "writev": _Replay._write_many,
    "pwritev": _Replay._write_many,
    "sendfile": _Replay._sendfile,
    "copy_file_range": _Replay._copy_file_range,
    "lseek": _Replay._lseek,
    "read": _Replay._read,
    "dup": _Replay._dup,
    "dup2": _Replay._dup,
    "dup3": _Replay._dup,
    "ftruncate": _Replay._resize,
    "truncate": _Replay._resize_path,
    "fallocate": _Replay._allocate,
    "rename": _Replay._rename,
    "renameat": _Replay._rename,
    "renameat2": _Replay._rename,
    "link": _Replay._link,
    "linkat": _Replay._link,
    "unlink": _Replay._unlink,
    "unlinkat": _Replay._unlink,
    "rmdir": _Replay._unlink,
    "mkdir": _Replay._mkdir,
    "mkdirat": _Replay._mkdir,
    "symlink": _Replay._symlink,
    "symlinkat": _Replay._symlink,
    "fsync": _Replay._fsync,
    "fdatasync": _Replay._fsync,
}
"""What changes a folder, or the position in a file. A shared mapping (SQLite's -shm) is not recorded: it is rebuilt."""


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(", ")]


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _data(text: str) -> bytes:
    match = _STRING.search(text)
    return _bytes(match[1]) if match else b""


def _text(part: str) -> str:
    return _data(part).decode()

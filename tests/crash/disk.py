"""A disk as a sequence of operations, and the states that a power cut may leave of it.

Files and folders are numbered like inodes, so an operation stays meaningful when an earlier one is lost: a rename that
reached the disk without the data of its file leaves an empty file under the new name. Two models decide what may be
lost of the operations that were not synced:

- `ext4` (data=ordered, delayed allocation): folders change in order, and any fsync writes all earlier changes of
  folders; a file's data may be missing, or end early, until that file is synced.
- `worst`: what POSIX promises. Any operation may be lost alone until its own file or folder is synced, and a write may
  be torn in the middle or arrive as zeros.

After Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), and Mohan et al., "Finding Crash-Consistency
Bugs with Bounded Black-Box Crash Testing" (OSDI 2018).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = 0
EXHAUSTIVE = 6
"""Most unsynced operations of which every subset is tried; of more, a sample."""


@dataclass(frozen=True)
class Write:
    """Bytes of a file."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    """A file cut, or extended with zeros."""

    inode: int
    size: int


@dataclass(frozen=True)
class Entries:
    """Names in folders, changed at once: (folder, name, inode), None where the name disappears."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """An fsync of a file or a folder."""

    inode: int


Operation = Write | Resize | Entries | Sync


@dataclass
class Tree:
    """What the disk holds: files by inode, the names in each folder, and the targets of links."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    links: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def read(root: Path, new: Callable[[], int]) -> Tree:
        """Return the tree of a real folder; `new` numbers its files."""
        tree = Tree()

        def add(folder: Path, inode: int) -> None:
            for path in sorted(folder.iterdir()):
                child = new()
                tree.folders[inode][path.name] = child
                if path.is_symlink():
                    tree.links[child] = str(path.readlink())
                elif path.is_dir():
                    tree.folders[child] = {}
                    add(path, child)
                else:
                    tree.files[child] = path.read_bytes()

        add(root, ROOT)
        return tree

    def copy(self) -> Tree:
        return Tree(dict(self.files), {inode: dict(names) for inode, names in self.folders.items()}, dict(self.links))

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Write):
            self.files[operation.inode] = _written(self.files.get(operation.inode, b""), operation)
        elif isinstance(operation, Resize):
            data = self.files.get(operation.inode, b"")
            self.files[operation.inode] = data[: operation.size].ljust(operation.size, b"\0")
        elif isinstance(operation, Entries):
            for folder, name, inode in operation.changes:
                if inode is None:
                    self.folders[folder].pop(name, None)
                else:
                    self.folders[folder][name] = inode

    def write(self, root: Path) -> None:
        """Write the tree into the empty folder `root`."""

        def fill(folder: Path, inode: int) -> None:
            for name, child in self.folders[inode].items():
                path = folder / name
                if child in self.links:
                    path.symlink_to(self.links[child])
                elif child in self.folders:
                    path.mkdir()
                    fill(path, child)
                else:
                    path.write_bytes(self.files.get(child, b""))

        fill(root, ROOT)

    def reachable(self, inode: int = ROOT) -> Hashable:
        """Return a value that is equal for two trees whose paths hold the same."""
        if inode in self.folders:
            return tuple((name, self.reachable(child)) for name, child in sorted(self.folders[inode].items()))
        return (True, self.links[inode]) if inode in self.links else (False, self.files.get(inode, b""))


@functools.lru_cache(256)  # thousands of states differ in few files: the others share their bytes, hashed once
def _written(data: bytes, write: Write) -> bytes:
    before = data[: write.offset].ljust(write.offset, b"\0")
    return before + write.data + data[write.offset + len(write.data) :]


def states(
    start: Tree, operations: Sequence[Operation], model: str, most: int, seed: int
) -> Iterator[tuple[int, Tree]]:
    """Yield (operations issued, tree) for each different state that a power cut may leave, with up to `most` sampled
    states per moment. The first of each moment has lost nothing, the second everything that was not synced.
    """
    choose = random.Random(seed)
    seen: set[Hashable] = set()
    for count in range(len(operations) + 1):
        issued = operations[:count]
        if count and isinstance(issued[-1], Sync):
            continue  # a subset of what the moment before may leave
        for tree in _cut(start, issued, model, most, choose):
            if (held := tree.reachable()) not in seen:
                seen.add(held)
                yield count, tree


def finished(start: Tree, operations: Sequence[Operation], model: str, most: int, seed: int) -> Iterator[Tree]:
    """Yield the states that a power cut may leave after the last operation."""
    yield from _cut(start, operations, model, most, random.Random(seed))


def _cut(start: Tree, issued: Sequence[Operation], model: str, most: int, choose: random.Random) -> Iterator[Tree]:
    """Yield the states that a power cut may leave after the last of these operations."""
    for kept in _survivors(issued, _unsynced(issued, model), model, most, choose):
        tree = start.copy()
        for operation in kept:
            tree.apply(operation)
        yield tree


def _unsynced(issued: Sequence[Operation], model: str) -> list[int]:
    """Return the indices of the operations that may be lost."""
    pending = []
    synced: set[int] = set()
    any_sync = False
    for index in reversed(range(len(issued))):
        operation = issued[index]
        if isinstance(operation, Sync):
            synced.add(operation.inode)
            any_sync = True
        elif isinstance(operation, Entries):
            folders = {folder for folder, _, _ in operation.changes}
            if not (any_sync if model == "ext4" else folders <= synced):
                pending.append(index)
        elif operation.inode not in synced:
            pending.append(index)
    return pending[::-1]


def _survivors(
    issued: Sequence[Operation], pending: Sequence[int], model: str, most: int, choose: random.Random
) -> Iterator[list[Operation]]:
    """Yield what reaches the disk, in order."""
    subsets = _ordered(issued, pending, most, choose) if model == "ext4" else _any(pending, most, choose)
    for lost in subsets:
        yield [op for index, op in enumerate(issued) if index not in lost]
    if model == "worst":
        writes = [index for index in pending if isinstance(issued[index], Write)]
        for index in writes[-3:]:
            for torn in _torn(issued[index]):
                yield [torn if at == index else op for at, op in enumerate(issued)]


def _ordered(
    issued: Sequence[Operation], pending: Sequence[int], most: int, choose: random.Random
) -> Iterator[set[int]]:
    names = [index for index in pending if isinstance(issued[index], Entries)]
    data = [index for index in pending if index not in names]
    files = sorted({issued[index].inode for index in data})  # type: ignore[union-attr]
    yield set()
    for cut in range(len(names), -1, -1):
        late = set(names[cut:])
        yield late | set(data)
        yield late
        for _ in range(min(most, len(files) * 2)):
            whole = {inode: choose.randint(0, len(data)) for inode in files}
            yield late | {index for at, index in enumerate(data) if at >= whole[issued[index].inode]}  # type: ignore[union-attr]


def _any(pending: Sequence[int], most: int, choose: random.Random) -> Iterator[set[int]]:
    yield set()
    yield set(pending)
    if len(pending) <= EXHAUSTIVE:
        for size in range(1, len(pending)):
            yield from map(set, itertools.combinations(pending, size))
        return
    for index in pending[-most:]:
        yield {index}
        yield set(pending) - {index}
    for _ in range(most):
        yield {index for index in pending if choose.random() < 0.5}


def _torn(operation: Operation) -> Iterator[Operation]:
    assert isinstance(operation, Write)
    half = len(operation.data) // 2
    yield Write(operation.inode, operation.offset, operation.data[:half])
    yield Write(operation.inode, operation.offset, operation.data[:half] + bytes(len(operation.data) - half))
    yield Write(operation.inode, operation.offset, bytes(len(operation.data)))

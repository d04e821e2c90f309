"""What lies on a device: two slots, the link `current` to the one that runs, a journal, and a history.

    ROOT/slots/a, slots/b   each: bundle/ (unpacked), engines/ (built from it), package (link), slot.json
    ROOT/current            link to one of them, changed by one rename
    ROOT/deploy.json        the journal: there while a deploy is under way, or was when the power went
    ROOT/history.jsonl      what was done, the last KEPT lines
    ROOT/fetch/             what has come of a download

Every change is synced before the next one that relies on it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgesparse.device import STATE
from edgesparse.errors import DeployError
from edgesparse.fleet.owner import as_owner

SLOTS = ("a", "b")
FETCHED = "fetch"
KEPT = 200
"""Lines of history; up to a quarter more between two times that it is cut."""

SYSTEM = Path("/var/lib/edgesparse")


def default_root() -> Path:
    """The service's folder, whoever asks: unlike `state_folder`, never one of the user's own."""
    return Path(os.environ.get(STATE) or SYSTEM).absolute()


Step = Literal["building", "switching", "undoing"]


@dataclass(frozen=True)
class Record:
    """What a slot holds. `bundle`: the bundle's sha256. `committed`: when it was last found healthy, seconds
    since 1970; None until then. `bad`: why it must not run again."""

    bundle: str
    name: str
    version: str
    time: int
    build_id: str = ""
    backend: str = ""
    precision: str = ""
    selftest: dict[str, Any] = field(default_factory=dict)
    built: float = 0.0
    committed: float | None = None
    bad: str = ""

    @property
    def healthy(self) -> bool:
        return self.committed is not None and not self.bad

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Journal:
    """A deploy under way: `slot` is filled, or runs on trial; `old` is the slot that ran before (empty: none did)."""

    id: str
    verb: str
    step: Step
    slot: str
    old: str
    pid: int
    why: str = ""
    """While undoing: what went wrong."""


class UnderWay(DeployError):
    """Another process deploys."""


class Slot:
    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def engines(self) -> Path:
        return self.folder / "engines"

    @property
    def package(self) -> Path:
        return self.folder / "package"

    def record(self) -> Record | None:
        """None for a slot that is empty, or was not finished."""
        said = read_json(self.folder / "slot.json")
        with suppress(TypeError):
            return None if said is None else Record(**said)
        return None

    def write(self, record: Record) -> None:
        write_json(self.folder / "slot.json", record.as_dict())

    def change(self, **said: Any) -> None:
        if (record := self.record()) is not None:
            self.write(replace(record, **said))

    def copy_package(self, other: Slot) -> None:
        """What another slot runs, into the engines here: a build of the same inputs finds it there."""
        if other.package.exists():
            built = other.package.resolve()
            shutil.copytree(built, self.engines / built.parent.name / built.name)

    def drop_others(self) -> None:
        """Remove every build but the one that is its package."""
        for folder in self.engines.glob("*/*"):
            if folder.is_dir() and not folder.is_symlink() and folder.resolve() != self.package.resolve():
                shutil.rmtree(folder)

    def clear(self) -> None:
        """Empty it. What is killed on the way leaves no record, so nothing that counts."""
        (self.folder / "slot.json").unlink(missing_ok=True)
        if self.folder.exists():
            sync_folder(self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def sync(self) -> None:
        """All of it onto the disk."""
        for folder, _, files in os.walk(self.folder):
            for file in files:
                path = Path(folder) / file
                if not path.is_symlink():
                    _sync(path, os.O_RDONLY)
            sync_folder(Path(folder))
        sync_folder(self.folder.parent)


class Root:
    """The folder on a device that holds its slots. Raises DeployError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._link, self._journal, self._history = path / "current", path / "deploy.json", path / "history.jsonl"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One deploy at a time, which works as the folder's owner. Raises UnderWay while another goes on."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DeployError(f"cannot use {self.path}: {error.strerror}: name another folder with --root") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            journal = self.journal()
            what = f"{journal.verb} in process {journal.pid}" if journal else "another deploy"
            raise UnderWay(f"{what} is under way in {self.path}: wait for it, then run this again") from None
        else:
            with as_owner(self.path):
                yield
        finally:
            os.close(descriptor)

    def slot(self, name: str) -> Slot:
        return Slot(self.path / "slots" / name)

    def current(self) -> Slot | None:
        """The slot that runs; None before the first deploy."""
        if not self._link.is_symlink():
            return None
        name = self._link.readlink().name
        return self.slot(name) if name in SLOTS else None

    def other(self) -> Slot:
        """The slot that does not run."""
        current = self.current()
        return self.slot(SLOTS[1] if current is not None and current.name == SLOTS[0] else SLOTS[0])

    def point(self, slot: Slot | None) -> None:
        """Make a slot `current` by one rename; None takes the link away."""
        if slot is None:
            self._link.unlink(missing_ok=True)
        else:
            new = self.path / ".current"
            new.unlink(missing_ok=True)
            new.symlink_to(Path("slots") / slot.name)
            new.replace(self._link)
        sync_folder(self.path)

    def clear_fetched(self) -> None:
        """Remove what downloads have left."""
        shutil.rmtree(self.path / FETCHED, ignore_errors=True)

    def journal(self) -> Journal | None:
        """None when no deploy is under way; a journal that cannot be read was never finished, so counts as none."""
        said = read_json(self._journal)
        with suppress(TypeError):
            return None if said is None else Journal(**said)
        return None

    def write_journal(self, journal: Journal) -> None:
        write_json(self._journal, asdict(journal))

    def end_journal(self) -> None:
        self._journal.unlink(missing_ok=True)
        sync_folder(self.path)

    def history(self) -> list[dict[str, Any]]:
        """Oldest first. A line that a power cut has torn is left out."""
        return self._lines()[-KEPT:]

    def note(self, **said: Any) -> None:
        """Add to the history; once it has grown by a quarter, keep the last KEPT lines."""
        lines = self._lines()
        if len(lines) >= KEPT + KEPT // 4:
            write_text(self._history, "".join(json.dumps(line) + "\n" for line in [*lines[1 - KEPT :], said]))
            return
        with self._history.open("ab+") as file:
            torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(torn) + json.dumps(said).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self._history.read_text(errors="replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]


def read_json(path: Path) -> dict[str, Any] | None:
    """A mapping; None for what is not there or cannot be read."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def write_json(path: Path, said: dict[str, Any]) -> None:
    write_text(path, json.dumps(said, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """At once and onto the disk: after a power cut the old one is there, or this one."""
    part = path.with_name(f".{path.name}")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

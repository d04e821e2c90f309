"""The deploy folder of a device: two slots, a link to the running one, a journal and a history.

    ROOT/slots/a, slots/b   each: bundle/ (unpacked), engines/ (built from it), package (link), slot.json
    ROOT/current            link to one of them, changed by one rename
    ROOT/deploy.json        the journal: exists while a deploy is in progress, or after a power cut in one
    ROOT/history.jsonl      what was done
    ROOT/fetch/             partial downloads

Every change is synced before the next change that relies on it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgesparse.device import STATE
from edgesparse.errors import DeployError
from edgesparse.files import make_folder, set_aside, sync, sync_folder
from edgesparse.fleet.history import append_history, read_history
from edgesparse.fleet.owner import as_owner
from edgesparse.fleet.state import DamagedState, Journal, SlotRecord, read_state, usable_state, write_state

SLOTS = ("a", "b")
FETCHED = "fetch"
SYSTEM = Path("/var/lib/edgesparse")


def default_root() -> Path:
    """Return the service's folder, whoever runs this: unlike `state_folder`, never the user's own."""
    return Path(os.environ.get(STATE) or SYSTEM).absolute()


class UnderWay(DeployError):
    """Another process is deploying."""


class DeploySlot:
    """One of the two folders that a bundle is unpacked and built in."""

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

    @property
    def state_file(self) -> Path:
        return self.folder / "slot.json"

    def record(self) -> SlotRecord | None:
        """Return the slot's record, or None for a slot that is empty or unfinished, or whose record is damaged."""
        return usable_state(self.state_file, SlotRecord)

    def write(self, record: SlotRecord) -> None:
        write_state(self.state_file, record.as_dict())

    def change(self, **changes: Any) -> None:
        """Replace fields of the record, if there is one."""
        if (record := self.record()) is not None:
            self.write(replace(record, **changes))

    def copy_package(self, other: DeploySlot) -> None:
        """Copy another slot's package into this slot's engines, where a build of the same inputs finds it."""
        built = other.package.resolve()
        if built.is_dir() and built.parent.parent == other.engines.resolve():
            shutil.copytree(built, self.engines / built.parent.name / built.name)

    def drop_others(self) -> None:
        """Remove every build but the slot's package."""
        for folder in self.engines.glob("*/*"):
            if folder.is_dir() and not folder.is_symlink() and folder.resolve() != self.package.resolve():
                shutil.rmtree(folder)

    def clear(self) -> None:
        """Empty the slot. Its record goes first, so that a kill halfway leaves an empty slot."""
        if self.folder.is_symlink():
            self.folder.unlink()
        self.state_file.unlink(missing_ok=True)
        if self.folder.exists():
            sync_folder(self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def sync(self) -> None:
        """Write everything in the slot to the disk."""
        for folder, _, files in os.walk(self.folder):
            for file in files:
                path = Path(folder) / file
                if not path.is_symlink():
                    sync(path)
            sync_folder(Path(folder))
        sync_folder(self.folder.parent)


class Root:
    """The folder on a device that holds its slots. Raises DeployError if it is not writable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._link, self._journal, self._history = path / "current", path / "deploy.json", path / "history.jsonl"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder, as its owner, for one deploy. Raises UnderWay while another process holds it. Damaged state
        files are set aside first and recorded in the history.
        """
        try:
            make_folder(self.path)
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
                self._set_aside_damage()
                yield
        finally:
            os.close(descriptor)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the folder as its owner, who may have put links to files of root's there."""
        if not self.path.exists():
            yield
            return
        with as_owner(self.path):
            yield

    def damage(self) -> dict[Path, str]:
        """Return the state files that cannot be used, and why."""
        checks: dict[Path, Callable[[], object]] = {
            slot.state_file: partial(read_state, slot.state_file, SlotRecord) for slot in map(self.slot, SLOTS)
        }
        checks[self._journal] = partial(read_state, self._journal, Journal)
        checks[self._history] = partial(read_history, self._history)
        reasons = {path: _damage(check) for path, check in checks.items()}
        return {path: reason for path, reason in reasons.items() if reason}

    def _set_aside_damage(self) -> None:
        for path, why in self.damage().items():
            try:
                aside = set_aside(path)
            except OSError as error:
                raise DeployError(f"{why}; it cannot be renamed ({error.strerror}): remove it") from None
            with suppress(OSError, DamagedState):
                self.note(time=round(time.time()), verb="check", result="set aside", why=f"{why}; it is now {aside}")

    def slot(self, name: str) -> DeploySlot:
        return DeploySlot(self.path / "slots" / name)

    def current(self) -> DeploySlot | None:
        """Return the running slot, or None before the first deploy."""
        if not self._link.is_symlink():
            return None
        name = self._link.readlink().name
        return self.slot(name) if name in SLOTS else None

    def other(self) -> DeploySlot:
        """Return the slot that is not running."""
        current = self.current()
        return self.slot(SLOTS[1] if current is not None and current.name == SLOTS[0] else SLOTS[0])

    def point(self, slot: DeploySlot | None) -> None:
        """Make a slot `current` by a single rename; None removes the link."""
        if slot is None:
            self._link.unlink(missing_ok=True)
        else:
            new = self.path / ".current"
            new.unlink(missing_ok=True)
            new.symlink_to(Path("slots") / slot.name)
            new.replace(self._link)
        sync_folder(self.path)

    def clear_fetched(self) -> None:
        """Remove partial downloads."""
        shutil.rmtree(self.path / FETCHED, ignore_errors=True)

    def journal(self) -> Journal | None:
        """Return the journal, or None if no deploy is in progress or the journal is damaged."""
        return usable_state(self._journal, Journal)

    def write_journal(self, journal: Journal) -> None:
        write_state(self._journal, asdict(journal))

    def end_journal(self) -> None:
        self._journal.unlink(missing_ok=True)
        sync_folder(self.path)

    def history(self) -> list[dict[str, Any]]:
        """Return the newest events, oldest first; none if the file is damaged."""
        with suppress(DamagedState):
            return read_history(self._history)
        return []

    def note(self, **event: Any) -> None:
        """Add an event to the history. Raises OSError, DamagedState."""
        append_history(self._history, event)


def _damage(check: Callable[[], object]) -> str:
    """Return why a file cannot be used; empty if it can."""
    try:
        check()
    except DamagedState as error:
        return str(error)
    return ""

"""A bundle onto a device: verify, build in the slot that does not run, test, switch, watch, and commit or go back.

At any moment `current` names a slot that is whole: it is changed by one rename, after the new slot has passed its
self-test and lies on the disk. The journal says what is under way; `recover` finishes or undoes it after a power cut.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, NoReturn

from edgesparse.config import Deploy, load_recipe
from edgesparse.errors import DeployError, EdgeSparseError, RolledBack, SignatureError
from edgesparse.fleet import bundle, contents
from edgesparse.fleet.admit import admit
from edgesparse.fleet.fetch import Source
from edgesparse.fleet.making import Make, make
from edgesparse.fleet.restart import Service
from edgesparse.fleet.slots import Journal, Record, Root, Slot, Step, UnderWay
from edgesparse.package.store import open_package
from edgesparse.progress import Progress, quiet


@dataclass(frozen=True)
class Outcome:
    """What a verb came to. `result`: deployed, nothing to do, would deploy, rolled back, recovered. `note`: what should
    be known beside that."""

    result: str
    changed: bool
    slot: str = ""
    name: str = ""
    version: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Device:
    """Where bundles go: the folder, its service, and how a slot's package is made."""

    root: Root
    service: Service
    make: Make = make
    progress: Progress = quiet

    def deploy(self, source: Source, *, downgrade: bool = False) -> Outcome:
        """Build, test and run a bundle.

        Raises SignatureError for what was tampered with, of which nothing is written, RolledBack when it ran and was
        sick, and DeployError when it is refused otherwise, with the reason.
        """
        with self.root.lock():
            self._recover()
            if (running := self._runs(source)) is not None:
                return _outcome("nothing to do", running, source)
            note = self._admit(source, downgrade)
            with source.complete(self.root.path, self.progress) as file:
                self._verify(file, source)
                journal, record = self._build(file, source)
            self._switch(journal, record)
            self.root.clear_fetched()
            return _outcome("deployed", self.root.slot(journal.slot), source, note)

    def check(self, source: Source, *, downgrade: bool = False) -> Outcome:
        """What `deploy` would do, and what it would raise as far as can be known: nothing is fetched or written."""
        if (running := self._runs(source)) is not None:
            return _outcome("nothing to do", running, source)
        note = self._admit(source, downgrade)
        if not source.missing(self.root.path):
            with source.complete(self.root.path, self.progress) as file:
                self._verify(file, source)
        return _outcome("would deploy", self.root.other(), source, note)

    def _runs(self, source: Source) -> Slot | None:
        """The slot that runs this very bundle, and was found healthy."""
        current = self.root.current()
        record = current.record() if current else None
        return current if record and record.healthy and record.bundle == source.head.sha256 else None

    def _admit(self, source: Source, downgrade: bool) -> str:
        current = self.root.current()
        record = current.record() if current else None
        running = record if record and record.healthy else None
        return admit(source.head, self.root, running, downgrade, source.missing(self.root.path))

    def _verify(self, file: BinaryIO, source: Source) -> None:
        self.progress("verifying", 0, 0)
        try:
            bundle.verify(file, source.head, source.where)
        except SignatureError:
            source.forget(self.root.path)  # else the next try would go on with what is wrong
            raise

    def rollback(self) -> Outcome:
        """Back to what ran before. Raises DeployError where there is nothing that was found healthy once."""
        with self.root.lock():
            self._recover()
            slot, current = self.root.other(), self.root.current()
            record = slot.record()
            if current is None or record is None or not record.healthy:
                why = f"slot {slot.name} was bad: {record.bad}" if record and record.bad else "no other slot is whole"
                raise DeployError(f"nothing to go back to ({why}): deploy an older bundle with --allow-downgrade")
            open_package(slot.package)
            self._switch(_journal("rollback", "switching", slot, current), record)
            return Outcome("rolled back", True, slot.name, record.name, record.version)

    def recover(self) -> Outcome:
        """Finish or undo what a power cut has left. Nothing while a deploy is under way, or where none ever was."""
        if not self.root.path.exists():
            return Outcome("nothing to do", False)
        try:
            with self.root.lock():
                done = self._recover()
        except UnderWay as error:
            return Outcome("nothing to do", False, note=str(error))
        return Outcome("recovered" if done else "nothing to do", bool(done), note=done)

    def _build(self, file: BinaryIO, source: Source) -> tuple[Journal, Record]:
        """Fill the other slot, up to a package that has passed its self-test and lies on the disk."""
        slot, old, manifest = self.root.other(), self.root.current(), source.head.manifest
        journal = _journal("deploy", "building", slot, old)
        self.root.write_journal(journal)
        try:
            self.progress("unpacking", 0, 0)
            slot.clear()
            slot.bundle.mkdir()
            bundle.unpack(file, source.head, slot.bundle, source.where)
            if old is not None:
                slot.copy_package(old)
            made = self.make(slot, self.progress)
            slot.drop_others()
            identity = (source.head.sha256, manifest.name, manifest.version, manifest.time)
            record = Record(*identity, made.build_id, made.backend, made.precision, made.selftest, time.time())
            slot.write(record)
            slot.sync()
        except (EdgeSparseError, OSError, KeyboardInterrupt) as error:
            slot.clear()
            self._end(journal, "refused", manifest.name, manifest.version, _why(error))
            if isinstance(error, KeyboardInterrupt):
                raise
            raise DeployError(f"{manifest.name} {manifest.version} is refused: {_why(error)}") from None
        return replace(journal, step="switching"), record

    def _switch(self, journal: Journal, record: Record) -> None:
        """From the old slot to the new one, and back when the service turns sick. Raises DeployError then."""
        slot, before = self.root.slot(journal.slot), self.service.says()
        limits = _limits(slot)
        self.root.write_journal(journal)
        try:
            self.progress("switching", 0, 0)
            self.root.point(slot)
            why = self.service.try_out(record.build_id, limits, before, self.progress)
            self.progress("committing", 0, 0)
            if why is None:
                slot.change(committed=time.time(), bad="")
        except OSError as error:
            why = _why(error)
        except KeyboardInterrupt:
            self._undo(journal, "interrupted while the service was watched")
            raise
        if why is not None:
            self._give_up(journal, record, why)
        self._end(journal, "deployed" if journal.verb == "deploy" else "rolled back", record.name, record.version)

    def _give_up(self, journal: Journal, record: Record, why: str) -> NoReturn:
        after = self._undo(journal, why)
        what = f"{record.name} {record.version}"
        if not journal.old:
            raise DeployError(f"{what} is sick, and there is nothing to go back to: {why}")
        raise RolledBack(f"{what} was rolled back: {why}{f'; {after}' if after else ''}")

    def _undo(self, journal: Journal, why: str) -> str:
        """The old slot back into service. Returns what went wrong with that too; without an old one, the new stays."""
        slot = self.root.slot(journal.slot)
        self.progress("rolling back", 0, 0)
        with suppress(OSError):  # the way back needs no space; what is not committed is undone without a word
            self.root.write_journal(replace(journal, step="undoing", why=why))
            slot.change(bad=why)
        record, after = slot.record(), ""
        if journal.old:
            old = self.root.slot(journal.old)
            before, ran = self.service.says(), old.record()
            self.root.point(old)
            if ran is not None:
                found = self.service.try_out(ran.build_id, _limits(old), before, self.progress)
                after = f"the old one is not well either: {found}" if found else ""
        result = "rolled back" if journal.old else "sick"
        said = "; ".join(filter(None, (why, after)))
        self._end(journal, result, record.name if record else "", record.version if record else "", said)
        return after

    def _recover(self) -> str:
        journal = self.root.journal()
        if journal is None:
            return ""
        slot = self.root.slot(journal.slot)
        record = slot.record()
        if journal.step == "building":
            slot.clear()
            self._end(journal, "interrupted", why="it was interrupted before the switch: the old one runs on")
            return "a deploy that was interrupted before the switch was cleaned up"
        what = f"{record.name} {record.version}" if record else f"slot {slot.name}"
        if journal.step == "switching" and record and (record.committed is not None or not journal.old):
            self.root.point(slot)
            self._end(journal, "recovered", record.name, record.version, "it was interrupted: finished")
            return f"{what} was being switched to: finished"
        why = journal.why or "it was interrupted before it was found healthy"
        self._undo(journal, why)
        return f"{what} was rolled back: {why}"

    def _end(self, journal: Journal, result: str, name: str = "", version: str = "", why: str = "") -> None:
        """Into the history, once, and no longer under way."""
        last = self.root.history()[-1:]
        if not last or last[0].get("id") != journal.id:
            said = {"id": journal.id, "verb": journal.verb, "result": result, "slot": journal.slot}
            with suppress(OSError):  # a full disk must not undo what is done
                self.root.note(time=round(time.time()), **said, name=name, version=version, why=why)
        self.root.end_journal()


def _outcome(result: str, slot: Slot, source: Source, note: str = "") -> Outcome:
    manifest = source.head.manifest
    return Outcome(result, result != "nothing to do", slot.name, manifest.name, manifest.version, note)


def _journal(verb: str, step: Step, slot: Slot, current: Slot | None) -> Journal:
    return Journal(uuid.uuid4().hex[:12], verb, step, slot.name, current.name if current else "", os.getpid())


def _limits(slot: Slot) -> Deploy:
    """What the bundle in a slot holds its device to."""
    return load_recipe(slot.bundle / contents.RECIPE).deploy


def _why(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error) or "interrupted"

"""Bring a bundle onto a device: verify, build in the idle slot, test, switch, watch, then commit or roll back.

At any moment `current` names a complete slot: it is changed by a single rename, after the new slot has passed its
self-test and is on disk. The journal records the current step; `recover` finishes or undoes it after a power cut.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, NoReturn

from edgesparse.config import Deploy, load_recipe
from edgesparse.errors import DeployError, EdgeSparseError, RolledBack, SignatureError
from edgesparse.fleet import bundle, contents
from edgesparse.fleet.admit import admit
from edgesparse.fleet.beside import run_beside, withdraw
from edgesparse.fleet.fetch import BundleSource
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slot_build import BuildSlot, build_slot
from edgesparse.fleet.slots import DeploySlot, Root, UnderWay
from edgesparse.fleet.state import DamagedState, Journal, SlotRecord, Step
from edgesparse.fleet.under_way import shown
from edgesparse.package.store import open_package
from edgesparse.progress import Progress, quiet


@dataclass(frozen=True)
class Outcome:
    """What a verb did. `result`: deployed, nothing to do, would deploy, rolled back, recovered. `note`: a warning."""

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
    """The target of deploys: its folder, its service, and how a slot is built."""

    root: Root
    service: ServiceControl
    build: BuildSlot = build_slot
    progress: Progress = quiet
    shadow: bool = True
    """Whether a new engine runs beside the active one first, where its recipe says so."""

    def deploy(self, source: BundleSource, *, downgrade: bool = False) -> Outcome:
        """Build, test and run a bundle. Raises SignatureError, before anything is written, if it was tampered with,
        RolledBack if it ran and was not healthy, and DeployError, with the reason, if it is refused otherwise.
        """
        with self._under_way("deploy") as device:
            return device._deploy(source, downgrade)

    def _deploy(self, source: BundleSource, downgrade: bool) -> Outcome:
        self._recover()
        if (running := self._running(source)) is not None:
            return _outcome("nothing to do", running, source)
        note = self._admit(source, downgrade)
        with source.complete(self.root.path, self.progress) as file:
            self._verify(file, source)
            journal, record = self._build(file, source)
        self._switch(journal, record)
        self.root.clear_fetched()
        notes = "; ".join(filter(None, (note, source.note)))
        return _outcome("deployed", self.root.slot(journal.slot), source, notes)

    @contextmanager
    def _under_way(self, verb: str) -> Iterator[Device]:
        """Lock the folder, and let `status` show the progress. Raises DeployError where the disk is full, or fails."""
        try:
            with self.root.lock(), shown(self.service.status, verb, self.progress) as progress:
                yield replace(self, progress=progress)
        except OSError as error:
            raise DeployError(
                f"the {verb} ended early ({_reason(error)}): free some space in {self.root.path} or repair it, then "
                "run this again"
            ) from error

    def check(self, source: BundleSource, *, downgrade: bool = False) -> Outcome:
        """Return what `deploy` would do, or raise what it would raise, as far as that is known without fetching or
        writing.
        """
        with self.root.reading():
            return self._check(source, downgrade)

    def _check(self, source: BundleSource, downgrade: bool) -> Outcome:
        if (running := self._running(source)) is not None:
            return _outcome("nothing to do", running, source)
        note = self._admit(source, downgrade)
        if not source.missing(self.root.path):
            with source.complete(self.root.path, self.progress) as file:
                self._verify(file, source)
        return _outcome("would deploy", self.root.other(), source, note)

    def _running(self, source: BundleSource) -> DeploySlot | None:
        """Return the slot that runs this same bundle and was healthy."""
        current = self.root.current()
        record = current.record() if current else None
        return current if record and record.healthy and record.bundle == source.head.sha256 else None

    def _admit(self, source: BundleSource, downgrade: bool) -> str:
        current = self.root.current()
        record = current.record() if current else None
        running = record if record and record.healthy else None
        return admit(source.head, self.root, running, downgrade, source.missing(self.root.path))

    def _verify(self, file: BinaryIO, source: BundleSource) -> None:
        self.progress("verifying", 0, 0)
        try:
            bundle.verify(file, source.head, source.where)
        except SignatureError:
            source.forget(self.root.path)  # otherwise the next attempt would continue with wrong bytes
            raise

    def rollback(self) -> Outcome:
        """Return to the package that ran before. Raises DeployError if the other slot was never healthy."""
        with self._under_way("rollback") as device:
            return device._rollback()

    def _rollback(self) -> Outcome:
        self._recover()
        slot, current = self.root.other(), self.root.current()
        record = slot.record()
        if current is None or record is None or not record.healthy:
            bad = record.bad if record else ""
            why = f"slot {slot.name} was bad: {bad}" if bad else "the other slot holds no complete package"
            raise DeployError(f"nothing to go back to ({why}): deploy an older bundle with --allow-downgrade")
        open_package(slot.package)
        self._switch(_journal("rollback", "switching", slot, current), record)
        return Outcome("rolled back", True, slot.name, record.name, record.version)

    def recover(self) -> Outcome:
        """Finish or undo what a power cut interrupted; do nothing while a deploy is in progress."""
        if not self.root.path.exists():
            return Outcome("nothing to do", False)
        try:
            with self._under_way("recovery") as device:
                action = device._recover()
        except UnderWay as error:
            return Outcome("nothing to do", False, note=str(error))
        return Outcome("recovered" if action else "nothing to do", bool(action), note=action)

    def _build(self, file: BinaryIO, source: BundleSource) -> tuple[Journal, SlotRecord]:
        """Fill the idle slot with a package that has passed its self-test and is on disk."""
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
            built = self.build(slot, self.progress)
            slot.drop_others()
            identity = (source.head.sha256, manifest.name, manifest.version, manifest.time)
            engine = (built.build_id, built.backend, built.precision, built.selftest)
            record = SlotRecord(*identity, *engine, time.time())
            slot.write(record)
            slot.sync()
            self._run_beside(slot, old)
        except (EdgeSparseError, OSError, KeyboardInterrupt) as error:
            slot.clear()
            self._end(journal, "refused", manifest.name, manifest.version, _reason(error))
            if isinstance(error, KeyboardInterrupt):
                raise
            raise DeployError(f"{manifest.name} {manifest.version} is refused: {_reason(error)}") from None
        return replace(journal, step="switching"), record

    def _run_beside(self, slot: DeploySlot, old: DeploySlot | None) -> None:
        """Run the slot's engine beside the active one, if its recipe says so and a service is watched. Raises
        DeployError if its limits do not hold.
        """
        if old is None or not self.service.restart or not self.shadow:
            return
        result = run_beside(self.root.path, self.service, slot.package, _limits(slot), self.progress)
        if result is not None:
            slot.change(shadow=result.model_dump())

    def _switch(self, journal: Journal, record: SlotRecord) -> None:
        """Switch to the new slot. If the service is not healthy, switch back and raise DeployError."""
        slot, before = self.root.slot(journal.slot), self.service.current_status()
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
            why = _reason(error)
        except KeyboardInterrupt:
            self._undo(journal, "interrupted while the service was watched")
            raise
        if why is not None:
            self._give_up(journal, record, why)
        self._end(journal, "deployed" if journal.verb == "deploy" else "rolled back", record.name, record.version)

    def _give_up(self, journal: Journal, record: SlotRecord, why: str) -> NoReturn:
        also = self._undo(journal, why)
        what = f"{record.name} {record.version}"
        if not journal.old:
            raise DeployError(f"{what} is not healthy, and there is nothing to go back to: {why}")
        raise RolledBack(f"{what} was rolled back: {why}{f'; {also}' if also else ''}")

    def _undo(self, journal: Journal, why: str) -> str:
        """Put the old slot back into service. Returns what went wrong with that; without an old slot, the new one
        stays.
        """
        slot = self.root.slot(journal.slot)
        self.progress("rolling back", 0, 0)
        with suppress(OSError):  # undoing needs no disk space: an uncommitted slot is undone even without a journal
            self.root.write_journal(replace(journal, step="undoing", why=why))
            slot.change(bad=why)
        record, also = slot.record(), ""
        if journal.old:
            old = self.root.slot(journal.old)
            before, old_record = self.service.current_status(), old.record()
            self.root.point(old)
            if old_record is not None:
                problem = self.service.try_out(old_record.build_id, _limits(old), before, self.progress)
                also = f"the old one is not healthy either: {problem}" if problem else ""
        result = "rolled back" if journal.old else "unhealthy"
        reasons = "; ".join(filter(None, (why, also)))
        self._end(journal, result, record.name if record else "", record.version if record else "", reasons)
        return also

    def _recover(self) -> str:
        withdraw(self.root.path)
        journal = self.root.journal()
        if journal is None:
            return ""
        slot = self.root.slot(journal.slot)
        record = slot.record()
        if journal.step == "building":
            slot.clear()
            self._end(journal, "interrupted", why="it was interrupted before the switch: the old one runs")
            return "a deploy that was interrupted before the switch was cleaned up"
        what = f"{record.name} {record.version}" if record else f"slot {slot.name}"
        if journal.step == "switching" and record and (record.committed is not None or not journal.old):
            self.root.point(slot)
            self._end(journal, "recovered", record.name, record.version, "it was interrupted: finished")
            return f"the switch to {what} was interrupted: finished"
        why = journal.why or "it was interrupted before it was found healthy"
        self._undo(journal, why)
        return f"{what} was rolled back: {why}"

    def _end(self, journal: Journal, result: str, name: str = "", version: str = "", why: str = "") -> None:
        """Add the deploy to the history, once, and remove the journal."""
        last = self.root.history()[-1:]
        if not last or last[0].get("id") != journal.id:
            event = {"id": journal.id, "verb": journal.verb, "result": result, "slot": journal.slot}
            with suppress(OSError, DamagedState):  # a full disk must not undo what has been done
                self.root.note(time=round(time.time()), **event, name=name, version=version, why=why)
        self.root.end_journal()


def _outcome(result: str, slot: DeploySlot, source: BundleSource, note: str = "") -> Outcome:
    manifest = source.head.manifest
    return Outcome(result, result != "nothing to do", slot.name, manifest.name, manifest.version, note)


def _journal(verb: str, step: Step, slot: DeploySlot, current: DeploySlot | None) -> Journal:
    old: Any = current.name if current else ""
    new: Any = slot.name
    return Journal(uuid.uuid4().hex[:12], verb, step, new, old, os.getpid())


def _limits(slot: DeploySlot) -> Deploy:
    """Return the limits that the bundle in a slot sets for its device."""
    return load_recipe(slot.bundle / contents.RECIPE).deploy


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error) or "interrupted"

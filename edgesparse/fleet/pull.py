"""One poll of a device: read the signed metadata, decide, and deploy what has reached it."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar

from pydantic import ConfigDict

from edgesparse.errors import BackendUnavailable, ConfigError, DeployError, EdgeSparseError, RolledBack, SignatureError
from edgesparse.files import make_folder, read_checked
from edgesparse.fleet import keys
from edgesparse.fleet.deploy import Device, Outcome
from edgesparse.fleet.fetch import BundleSource, open_download
from edgesparse.fleet.metadata import ANCHOR, MOST_METADATA, Mirror, Offer, is_root
from edgesparse.fleet.owner import as_owner
from edgesparse.fleet.patched import base_of, patched
from edgesparse.fleet.rollout import Attempts, Decision, Release, Running, decide
from edgesparse.fleet.slot_build import SlotBuild
from edgesparse.fleet.slots import DeploySlot
from edgesparse.fleet.state import usable_state, write_state
from edgesparse.progress import Progress

FOLDER, ATTEMPTS = "pull", "pull.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StoredAttempts(Attempts):
    """Attempts as they are stored."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)


@dataclass(frozen=True)
class Puller:
    """What a device needs to pull. `name`: decides its wave. `trusted`: the folder of the keys that sign bundles.
    `anchor`: the root of the metadata that it trusts at first.
    """

    device: Device
    mirror: Mirror
    name: str
    trusted: Path = keys.TRUSTED
    anchor: Path = ANCHOR

    def pull(self) -> Outcome:
        """Do what the metadata asks of this device. Raises DeployError, SignatureError, RolledBack."""
        offer = self._refresh()
        decision = self._decide(offer)
        if decision.action == "keep" or decision.release is None:
            return Outcome("nothing to do", False, note="; ".join(filter(None, (decision.why, offer.note))))
        if decision.action == "back":
            return self.device.rollback()
        return self._deploy(decision.release, offer, decision.downgrade)

    def _deploy(self, release: Release, offer: Offer, downgrade: bool) -> Outcome:
        with self._open(release, offer) as download:
            source = _Pulled(download, self, release, offer)
            try:
                return replace(self.device, build=source.build).deploy(source, downgrade=downgrade)
            except EdgeSparseError as error:
                if source.counts:  # what could not be fetched is fetched at the next poll
                    self._note(release, final=isinstance(error, RolledBack))
                raise

    def _open(self, release: Release, offer: Offer) -> BundleSource:
        """Open the delta from what this device has, if there is one, else the whole bundle."""
        trusted, root = keys.trusted(self.trusted), self.device.root
        whole = partial(open_download, self.mirror.address(offer, release), trusted)
        with root.reading():
            usable = [d for d in offer.deltas if d.bundle == release.bundle and base_of(root, d.base) is not None]
        if not usable:
            return whole()
        delta = partial(open_download, self.mirror.address(offer, usable[0]), trusted)
        return patched(delta, whole, partial(offer.has_signed, usable[0]))

    def _refresh(self) -> Offer:
        root = self.device.root.path
        anchor = _read_anchor(self.anchor)
        try:
            make_folder(root)
        except OSError as error:
            raise DeployError(f"cannot use {root}: {error.strerror}: name another folder with --root") from None
        with as_owner(root):
            return self.mirror.refresh(root / FOLDER, anchor)

    def _decide(self, offer: Offer) -> Decision:
        root = self.device.root
        with root.reading():
            current, other = root.current(), root.other().record()
            record = current.record() if current else None
            attempts = usable_state(root.path / ATTEMPTS, StoredAttempts) or StoredAttempts()
        running = None
        if record is not None and record.healthy:
            running = Running(record.version, record.bundle, other.bundle if other and other.healthy else "")
        return decide(self.name, offer.releases, running, attempts)

    def still_wanted(self, release: Release) -> bool:
        """Whether the newest metadata still asks for this release, which may have been stopped during its download or
        build. What cannot be read now stops nothing: it was read when this poll began.
        """
        try:
            offer = self._refresh()
        except EdgeSparseError:
            return True
        return self._decide(offer).release == release

    def _note(self, release: Release, *, final: bool) -> None:
        """Remember a failure. If the disk is full, the next poll tries again."""
        root = self.device.root.path
        with as_owner(root), suppress(OSError):
            before = usable_state(root / ATTEMPTS, StoredAttempts) or StoredAttempts()
            write_state(root / ATTEMPTS, asdict(before.failed(release.rollout, final=final)))


class _Pulled(BundleSource):
    """A download that is also compared with the signed metadata. `counts`: whether a failure is the release's own."""

    def __init__(self, download: BundleSource, puller: Puller, release: Release, offer: Offer) -> None:
        self.where, self.head, self.signed, self.counts = download.where, download.head, download.signed, False
        self._download, self._puller, self._release, self._offer = download, puller, release, offer
        manifest = self.head.manifest
        received = self.head.sha256, manifest.name, manifest.version, self.head.end
        if received != (release.bundle, release.name, release.version, offer.length(release)):
            raise SignatureError(
                f"{self.where} is {manifest.name} {manifest.version}, needed the {release.name} {release.version} that "
                "the metadata states: nothing was changed; check the server"
            )

    def missing(self, root: Path) -> int:
        return self._download.missing(root)

    def forget(self, root: Path) -> None:
        self._download.forget(root)

    def close(self) -> None:
        self._download.close()

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        opened = self._download.complete(root, progress)
        try:
            self._check(opened, root)
        except BaseException:
            opened.close()
            raise
        self.counts, self.note = True, self._download.note
        return opened

    def _check(self, opened: BinaryIO, root: Path) -> None:
        if not self._offer.has_signed(self._release, opened):
            self.forget(root)
            raise SignatureError(f"{self.where} is not what the signed metadata states: it is fetched again")
        self._refuse_if_stopped("fetched")

    def build(self, slot: DeploySlot, progress: Progress) -> SlotBuild:
        """Build as the device does, and ask once more before the switch."""
        built = self._puller.device.build(slot, progress)
        self._refuse_if_stopped("built")
        return built

    def _refuse_if_stopped(self, what: str) -> None:
        if not self._puller.still_wanted(self._release):
            self.counts = False
            raise DeployError(f"{self._release.version} was stopped while it was {what}: what ran goes on")


def device_name(name: str | None) -> str:
    """Return the device's name, by default that of its host. Raises ConfigError for one that is no file name."""
    name = name or socket.gethostname()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"found the device name {name!r}, needed letters, digits, '.', '_' and '-': pass --name")
    return name


def _read_anchor(path: Path) -> bytes:
    try:
        anchor = read_checked(path, MOST_METADATA, lambda status: keys.check_owner(path, status))
    except FileNotFoundError:
        raise BackendUnavailable(
            f"no trusted root in {path}: copy the repository's metadata/1.root.json there"
        ) from None
    except (OSError, ValueError) as error:
        raise SignatureError(
            f"cannot read the trusted root {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not is_root(anchor):
        raise SignatureError(f"{path} is not a root: copy the repository's metadata/1.root.json there")
    return anchor

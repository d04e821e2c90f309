"""The repository that a fleet pulls from: bundles and signed, expiring metadata (TUF 1.0), in plain files.

    metadata/N.root.json        which keys may sign, and how many must; signed by the root keys, which stay offline
    metadata/N.targets.json     the releases, with their shares and stops; signed by the release keys
    metadata/N.snapshot.json    which of these versions belong together; signed by the online key
    metadata/timestamp.json     which snapshot is the newest; signed by the online key, and expires after days
    targets/SHA256.NAME         the bundles and deltas, which keep their own signatures
    staged/                     what still lacks signatures

timestamp.json is replaced last, then deltas that no metadata names any more are removed; everything else is only added.
So a copy to a web server or an object store that sends timestamp.json last is never inconsistent. https://theupdateframework.github.io/specification/latest/
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from edgesparse.disk import writing
from edgesparse.errors import BackendUnavailable, ConfigError, SignatureError
from edgesparse.fleet import keys
from edgesparse.fleet.bundle import order, verify
from edgesparse.fleet.delta import Delta
from edgesparse.fleet.fetch import LocalFile, refuse_delta
from edgesparse.fleet.listing import DELTA, ListedDelta, read_releases, remove_stale_deltas, remove_unlisted_deltas
from edgesparse.fleet.rollout import Release, startable
from edgesparse.progress import quiet

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import CryptoSigner, Key, SSlibKey
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp
    from tuf.api.serialization.json import JSONSerializer
except ImportError as error:
    raise BackendUnavailable(f"pulling needs python-tuf ({error}): pip install 'edgesparse[fleet]'") from error

ROOT_DAYS, RELEASE_DAYS, ONLINE_DAYS = 730, 365, 7
"""Days until metadata expires: the root's, the releases', and the timestamp's, which bounds how long a mirror can hide
a newer release or a stop."""
CUSTOM, TIME, NAME = "custom", "x-edgesparse-time", "x-edgesparse-name"
ROLES = {"root": ("root",), "release": ("targets",), "online": ("snapshot", "timestamp")}
"""TUF's roles by the name of who signs them."""
T = TypeVar("T", Root, Snapshot, Targets)


@dataclass(frozen=True)
class Signers:
    """Who may sign a role from now on, and how many of them must."""

    public: tuple[keys.PublicKey, ...]
    threshold: int = 1


class Repository:
    """A repository in a folder of the workstation. Raises ConfigError for a folder that is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metadata, self._staged = path / "metadata", path / "staged"

    def change_signers(self, changes: Mapping[str, Signers]) -> None:
        """Stage a root in which these roles (root, release, online) are signed by others. A new one names all three."""
        before, published = self._latest(Root), self._latest(Root, staged=False)
        root = Root() if before is None else before.signed
        root.version = published.signed.version + 1 if published else 1
        for who, signers in changes.items():
            if not 1 <= signers.threshold <= len({key.raw for key in signers.public}):
                raise ConfigError(f"found {len(signers.public)} {who} keys, needed at least {signers.threshold}")
            for role in ROLES[who]:
                for old in list(root.roles[role].keyids):
                    root.revoke_key(old, role)
                root.roles[role] = Role([], signers.threshold)
                for public in signers.public:
                    root.add_key(_key(public), role)
        root.expires = _in(ROOT_DAYS)
        self._stage(Metadata(root))
        if before is None or "release" in changes:
            self._edit()

    def release(self, file: Path, share: int, rollout: str, trusted: Sequence[keys.PublicKey]) -> Release:
        """Stage a bundle for `share` percent of the devices. Raises SignatureError if no trusted key signed it."""
        with LocalFile(file, trusted) as source, source.complete(self.path, quiet) as opened:
            refuse_delta(source)
            head, manifest = source.head, source.head.manifest
            verify(opened, head, file)
        releases = self.releases()
        if others := {release.name for release in releases.values()} - {manifest.name}:
            raise ConfigError(f"{self.path} is for {others.pop()}, found {manifest.name}: use a folder per detector")
        name = re.sub(r"[^A-Za-z0-9._-]", "_", manifest.name)
        target = TargetFile.from_file(f"{name}-{manifest.version}.esb", str(file))
        same = releases.get(target.path)
        if same is not None and same.bundle != head.sha256:
            raise ConfigError(f"{self.path} has another bundle with version {manifest.version}: give this a newer one")
        rollout = rollout or (
            same.rollout if same and not same.stopped else f"{manifest.version}-{_now():%Y%m%d%H%M%S}"
        )
        release = _release(
            name=manifest.name, version=manifest.version, bundle=head.sha256, rollout=rollout, share=share
        )
        self._store(target, file)
        self._edit(target, release.model_dump(mode="json"))
        return release

    def add_delta(self, file: Path, trusted: Sequence[keys.PublicKey]) -> None:
        """Stage a delta to a bundle that was published or staged. Raises SignatureError, ConfigError."""
        with LocalFile(file, trusted) as source:
            signed = source.signed
            if not isinstance(signed, Delta):
                raise ConfigError(f"{file} is a bundle, needed a delta: create one with 'edgesparse delta'")
            with source.complete(self.path, quiet) as opened:
                verify(opened, signed, file)
        if signed.head.sha256 not in startable(self.releases().values()):
            raise ConfigError(f"{file} leads to a bundle that no device of {self.path} starts: publish that first")
        listed = ListedDelta(base=signed.base, bundle=signed.head.sha256)
        target = TargetFile.from_file(f"{listed.bundle[:16]}-from-{listed.base[:16]}.esd", str(file))
        self._store(target, file)
        self._edit(target, {DELTA: listed.model_dump(mode="json")})

    def _store(self, target: TargetFile, file: Path) -> None:
        stored = self.path / "targets" / f"{target.hashes['sha256']}.{target.path}"
        if not stored.exists():
            with writing(stored) as out, file.open("rb") as source_file:
                shutil.copyfileobj(source_file, out)

    def stop(self, version: str, why: str, back: bool) -> Release:
        """Stage a stop of a version: no device starts it any more. `back`: those that run it return to an older one."""
        for path, release in self.releases().items():
            if order(release.version) == order(version):
                stopped = _release(**{**release.model_dump(), "stopped": why, "back": back})
                self._edit(self._targets().signed.targets[path], stopped.model_dump(mode="json"))
                return stopped
        versions = ", ".join(release.version for release in self.releases().values()) or "none"
        raise ConfigError(f"{self.path} has no version {version}: found {versions}")

    def releases(self) -> dict[str, Release]:
        """Return the newest releases, staged ones too, by their paths."""
        return read_releases(self._targets().signed)

    def sign(self, private: Iterable[keys.PrivateKey], days: float = ONLINE_DAYS) -> list[str]:
        """Sign what is staged, and publish it with a new snapshot and timestamp, valid for `days`, once nothing lacks
        a signature. Returns what is missing; if that is empty, it was published.

        Raises SignatureError for a key that is expired or signs nothing here.
        """
        signers = [_signer(key) for key in private]
        before = self._latest(Root, staged=False)
        files = {name: self._staged / f"{name}.json" for name in ("root", "targets")}
        staged = {name: _load(file) for name, file in files.items() if file.exists()}
        root = staged.get("root", before)
        if root is None:
            raise ConfigError(f"{self.path} is not a repository: run 'edgesparse fleet init'")
        known = set(root.signed.keys) | (set(before.signed.keys) if before else set())
        for signer in signers:
            if signer.public_key.keyid not in known:
                raise SignatureError(
                    f"a key with id {signer.public_key.keyid[:16]} has no role in {self.path}: check --key"
                )
        missing = self._sign_staged(staged, root.signed, before.signed if before else None, signers)
        online = [s for s in signers if s.public_key.keyid in root.signed.roles["timestamp"].keyids]
        lack = root.signed.roles["timestamp"].threshold - len(online)
        if lack > 0:
            missing.append(f"{lack} online key (of {_names(root.signed, root.signed.roles['timestamp'].keyids)})")
        for kind, metadata in staged.items():
            _write(self._staged / f"{kind}.json", metadata)
        if not missing:
            self._publish(staged, online, days)
        return missing

    def _sign_staged(
        self, staged: Mapping[str, Metadata[Any]], root: Root, before: Root | None, signers: Sequence[CryptoSigner]
    ) -> list[str]:
        """Add the signatures of every signer that has the role. Returns what is missing."""
        missing = []
        for kind, metadata in staged.items():
            roles = [root.roles[kind], *([before.roles[kind]] if before and kind == "root" else [])]
            for signer in signers:
                if any(signer.public_key.keyid in role.keyids for role in roles):
                    metadata.sign(signer, append=True)
            authorities = [root, *([before] if before and kind == "root" else [])]
            for authority in authorities:
                result = authority.get_verification_result(kind, metadata.signed_bytes, metadata.signatures)
                if not result.verified:
                    who = "root" if kind == "root" else "release"
                    lack = result.threshold - len(result.signed)
                    missing.append(f"{lack} {who} key (of {_names(authority, result.unsigned)})")
        return list(dict.fromkeys(missing))

    def _publish(self, staged: Mapping[str, Metadata[Any]], online: Sequence[CryptoSigner], days: float) -> None:
        for kind in ("root", "targets"):
            if kind in staged:
                _write(self._metadata / f"{staged[kind].signed.version}.{kind}.json", staged[kind])
        newest = self._latest(Targets, staged=False)
        if newest is None:
            raise ConfigError(f"{self.path} has no releases: run 'edgesparse fleet init' in a new folder")
        before = self._latest(Snapshot)
        snapshot = Snapshot(before.signed.version + 1 if before else 1, expires=_in(days))
        snapshot.meta["targets.json"] = MetaFile(newest.signed.version)
        stamp = self._metadata / "timestamp.json"
        old = _load(stamp).signed.version if stamp.exists() else 0
        timestamp = Timestamp(
            old + 1,
            expires=_in(days),
            snapshot_meta=MetaFile(snapshot.version),
            unrecognized_fields={TIME: int(_now().timestamp())},
        )
        for metadata, file in (
            (Metadata(snapshot), self._metadata / f"{snapshot.version}.snapshot.json"),
            (Metadata(timestamp), stamp),
        ):
            for signer in online:
                metadata.sign(signer, append=True)
            _write(file, metadata)
        for kind in staged:
            (self._staged / f"{kind}.json").unlink()
        remove_unlisted_deltas(self.path / "targets", [newest.signed, self._targets().signed])

    def _edit(self, target: TargetFile | None = None, custom: Mapping[str, Any] | None = None) -> None:
        """Stage the releases and deltas, with this one added or replaced. `custom`: what is stated about it."""
        published = self._latest(Targets, staged=False)
        targets = self._targets().signed
        targets.version = published.signed.version + 1 if published else 1
        targets.expires = _in(RELEASE_DAYS)
        if target is not None:
            target.unrecognized_fields[CUSTOM] = dict(custom or {})
            targets.targets[target.path] = target
        remove_stale_deltas(targets)
        self._stage(Metadata(targets))

    def _targets(self) -> Metadata[Targets]:
        return self._latest(Targets) or Metadata(Targets())

    def _latest(self, kind: type[T], staged: bool = True) -> Metadata[T] | None:
        """Return the newest metadata of a kind, staged or published; None if there is none."""
        waiting = self._staged / f"{kind.type}.json"
        if staged and waiting.exists():
            return _load(waiting)
        files = self._metadata.glob(f"[0-9]*.{kind.type}.json")
        newest = max(files, key=lambda file: int(file.name.split(".")[0]), default=None)
        return None if newest is None else _load(newest)

    def _stage(self, metadata: Metadata[Any]) -> None:
        metadata.signatures.clear()
        _write(self._staged / f"{metadata.signed.type}.json", metadata)


def _release(**fields: Any) -> Release:
    try:
        return Release(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _key(public: keys.PublicKey) -> Key:
    key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public.raw))
    key.unrecognized_fields[NAME] = public.name
    return key


def _signer(private: keys.PrivateKey) -> CryptoSigner:
    private.refuse_expired()
    return CryptoSigner(private.key)


def _names(root: Root, ids: Iterable[str]) -> str:
    return ", ".join(sorted(root.keys[key].unrecognized_fields.get(NAME, key[:16]) for key in ids))


def _load(file: Path) -> Metadata[Any]:
    try:
        return Metadata.from_file(str(file))
    except (RepositoryError, OSError) as error:
        raise ConfigError(f"{file} is not metadata: {error}: restore it from your copy") from None


def _write(file: Path, metadata: Metadata[Any]) -> None:
    with writing(file) as out:
        out.write(metadata.to_bytes(JSONSerializer(compact=False)))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _in(days: float) -> datetime:
    return (_now() + timedelta(days)).replace(microsecond=0)

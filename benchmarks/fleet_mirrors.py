"""A repository in virtual time, and mirrors of it that are honest or hostile, read by the real client.

What a device makes of a mirror depends on three things only: the metadata that it has stored, what the mirror answers,
and which expiries have passed. Each combination is run once, with the real client in a folder; the outcome is reused.
"""

from __future__ import annotations

import datetime as real
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import urlsplit

import bundles

from edgesparse.errors import EdgeSparseError
from edgesparse.fleet import keys, repository
from edgesparse.fleet.connection import Server, ServerRefuses
from edgesparse.fleet.metadata import Mirror
from edgesparse.fleet.repository import Repository, Signers
from edgesparse.fleet.rollout import Release

HOSTILE = ("freeze", "rollback", "mix", "tampered", "garbage", "endless", "other bundle", "silent")
"""What a hostile mirror does; `other bundle` answers with genuine metadata."""
DAYS = 1.0
"""Validity of a timestamp."""
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Polled:
    """What a poll of the metadata came to. `stored`: what the device has stored then. `why`: why it was refused."""

    stored: int
    releases: tuple[Release, ...]
    requests: int
    bytes: int
    why: str = ""


class _Memory(Server):
    """A server whose files are in memory."""

    def __init__(self, url: str, files: Files) -> None:
        super().__init__(url)
        self.files, self.requests, self.bytes = files, 0, 0

    def open(self, url: str, headers: dict[str, str], put: bytes | None = None) -> HTTPResponse:
        self.requests += 1
        data = self.files.get(urlsplit(url).path.rpartition("/")[2])
        if data is None:
            raise ServerRefuses(self.where, 404, "Not Found")
        self.bytes += len(data)
        return cast(HTTPResponse, io.BytesIO(data))


class Publisher:
    """The repository of the workstation, each state of which mirrors may keep for ever."""

    def __init__(self, folder: Path, start: float) -> None:
        self.now, self._folder = start, folder
        self.states: list[dict[str, bytes]] = []
        self._expiries: list[float] = []
        self._stored: list[dict[str, bytes]] = [{}]
        self._polls: dict[tuple[int, str, int, int], Polled] = {}
        bundles.key(folder)
        self._private = {who: self._key(who) for who in repository.ROLES}
        self._repository = Repository(folder / "repository")
        with _clock(start):
            self._repository.change_signers({who: Signers((key.public,)) for who, key in self._private.items()})
        self.renew("root", "release", "online")
        self._anchor = self.states[0]["1.root.json"]

    def _key(self, name: str) -> keys.PrivateKey:
        keys.new(self._folder / name, None)
        return keys.read_private(self._folder / f"{name}.key")

    def renew(self, *roles: str) -> None:
        """Publish what is staged, with a new timestamp."""
        with _clock(self.now):
            missing = self._repository.sign([self._private[who] for who in roles or ("online",)], DAYS)
        assert not missing, missing
        folder = self._folder / "repository" / "metadata"
        self.states.append({path.name: path.read_bytes() for path in folder.iterdir()})
        self._expiries.append(self.now + DAYS * 86400)

    def publish(self, version: str, share: int) -> str:
        """Publish a version for a share of the devices. Returns the sha256 of the bundle's manifest."""
        file = self._folder / f"{version}.esb"
        if not file.exists():
            bundles.signed(file, self._folder / "factory.key", version)
        with _clock(self.now):
            trusted = keys.trusted(self._folder / "trusted")
            release = self._repository.release(file, share, f"rollout {version}", trusted)
        self.renew("release", "online")
        return release.bundle

    def stop(self, version: str) -> None:
        with _clock(self.now):
            self._repository.stop(version, "devices rolled back", back=True)
        self.renew("release", "online")

    def poll(self, stored: int, mirror: str, since: float) -> Polled:
        """Read the metadata of a mirror, `since` seconds after the start."""
        newest = 1 if mirror == "freeze" or (mirror == "rollback" and since > 12 * 3600) else len(self.states) - 1
        expired = sum(expiry <= self.now for expiry in self._expiries)
        key = stored, mirror, newest, expired
        if key not in self._polls:
            self._polls[key] = self.read(stored, _answers(mirror, self.states, newest))
        return self._polls[key]

    def read(self, stored: int, files: Files) -> Polled:
        """Have the real client read what a mirror answers, with what it has stored."""
        with tempfile.TemporaryDirectory() as name, _clock(self.now):
            folder = Path(name) / "pull"
            (folder / "root_history").mkdir(parents=True)
            for path, data in self._stored[stored].items():
                (folder / path).write_bytes(data)
            server = _Memory("https://mirror/", files)
            releases: tuple[Release, ...] = ()
            why = ""
            try:
                releases = Mirror("https://mirror/", lambda _: server).refresh(folder, self._anchor).releases
            except EdgeSparseError as error:
                why = str(error)
            after = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.json") if not p.is_symlink()}
            if after not in self._stored:
                self._stored.append(after)
            return Polled(self._stored.index(after), releases, server.requests, server.bytes, why)


def _answers(mirror: str, states: list[dict[str, bytes]], newest: int) -> Files:
    """Return what a mirror answers, by the name of the file."""
    files = dict(states[newest])
    name = max((name for name in files if name.endswith(".targets.json")), key=lambda name: int(name.split(".")[0]))
    if mirror == "tampered":
        changed: dict[str, Any] = json.loads(files[name])
        for target in changed["signed"]["targets"].values():
            target["custom"] |= {"share": 100, "stopped": "", "back": False}
        files[name] = json.dumps(changed).encode()
    elif mirror == "mix":
        files[name] = next(data for path, data in states[1].items() if path.endswith("2.targets.json"))
    elif mirror == "garbage":
        files = dict.fromkeys(files, b"<html>welcome</html>")
    elif mirror == "endless":
        files["timestamp.json"] = bytes(2_000_000)
    elif mirror == "silent":
        files = {}
    return files


@contextmanager
def _clock(seconds: float) -> Iterator[None]:
    """Have publisher and client read this time."""
    now = real.datetime.fromtimestamp(seconds, real.timezone.utc)
    fake = SimpleNamespace(datetime=SimpleNamespace(now=lambda zone: now), timezone=real.timezone)
    with (
        patch("tuf.ngclient._internal.trusted_metadata_set.datetime", fake),
        patch("edgesparse.fleet.metadata.time", SimpleNamespace(time=lambda: seconds)),
        patch("edgesparse.fleet.repository._now", lambda: now),
    ):
        yield

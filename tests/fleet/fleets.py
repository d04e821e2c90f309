"""A repository, its keys, a real HTTPS server that serves it, and devices that pull from it."""

from __future__ import annotations

import datetime as real
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundles
import https
import pytest

from edgesparse.fleet import keys
from edgesparse.fleet.metadata import Mirror
from edgesparse.fleet.pull import Puller
from edgesparse.fleet.repository import Repository, Signers

ROLES = ("root", "release", "online")


@dataclass
class Fleet:
    """Everything in one folder. `signers`: who signs by default, by role. `altered`: what the server answers instead,
    by the end of the path; None for nothing.
    """

    folder: Path
    site: https.Site
    signers: dict[str, list[Path]] = field(default_factory=dict)
    altered: dict[str, bytes | None] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "repository"

    @property
    def repository(self) -> Repository:
        return Repository(self.path)

    @property
    def url(self) -> str:
        return self.site.url.removesuffix("/model.esb")

    def key(self, name: str) -> Path:
        keys.new(self.folder / name, None)
        return self.folder / f"{name}.key"

    def begin(self) -> None:
        """Create the repository, with a key per role, and the bundles' key."""
        bundles.key(self.folder)
        self.signers = {who: [self.key(who)] for who in ROLES}
        self.repository.change_signers({who: Signers(public(self.signers[who])) for who in ROLES})
        assert self.sign(*ROLES) == []
        shutil.copy(self.path / "metadata" / "1.root.json", self.folder / "anchor.json")
        self.site.files = self.serve

    def sign(self, *roles: str, days: float = 7) -> list[str]:
        """Publish with the keys of these roles. Returns what is missing."""
        private = [keys.read_private(key) for who in roles for key in self.signers[who]]
        return self.repository.sign(private, days)

    def bundle(self, version: str, **fields: Any) -> Path:
        path = self.folder / f"{version}.esb"
        return path if path.exists() else bundles.signed(path, self.folder / "factory.key", version, **fields)

    def publish(self, version: str, share: int = 100, rollout: str = "", **fields: Any) -> None:
        file = self.bundle(version, **fields)
        self.repository.release(file, share, rollout, keys.trusted(self.folder / "trusted"))
        assert self.sign("release", "online") == []

    def stop(self, version: str, back: bool = False) -> None:
        self.repository.stop(version, "bad", back)
        assert self.sign("release", "online") == []

    def puller(self, name: str = "esf1", **fields: Any) -> Puller:
        device = bundles.device(self.folder / name, **fields)
        return Puller(device, Mirror(self.url), name, self.folder / "trusted", self.folder / "anchor.json")

    def pull(self, name: str = "esf1") -> str:
        return self.puller(name).pull().result

    def serving(self, name: str = "esf1") -> str:
        return bundles.serving(self.folder / name)

    def metadata(self) -> dict[str, bytes]:
        """Return what a mirror could keep, by path."""
        return {f"/metadata/{path.name}": path.read_bytes() for path in (self.path / "metadata").iterdir()}

    def serve(self, path: str) -> bytes | None:
        for end, data in self.altered.items():
            if path.endswith(end):
                return data
        file = self.path / path.lstrip("/")
        return file.read_bytes() if file.is_file() else None


def public(private: Sequence[Path]) -> tuple[keys.PublicKey, ...]:
    return tuple(keys.read_private(key).public for key in private)


def set_clock(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    """Have the client and edgesparse read this year; TLS, which reads the clock in C, keeps the real one."""
    now = real.datetime(year, 1, 1, tzinfo=real.timezone.utc)
    fake = SimpleNamespace(datetime=SimpleNamespace(now=lambda zone: now), timezone=real.timezone)
    monkeypatch.setattr("tuf.ngclient._internal.trusted_metadata_set.datetime", fake)
    for name in ("metadata", "admit"):
        monkeypatch.setattr(f"edgesparse.fleet.{name}.time", SimpleNamespace(time=now.timestamp))

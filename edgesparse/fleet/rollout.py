"""Which release a device should run: waves by a hash of its name, shares and stops that the signed metadata states."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgesparse.fleet.bundle import Sha256, order
from edgesparse.values import Section, Version

TRIES = 3
"""Builds of one rollout that may fail on a device before it waits for the next rollout."""

Text = Annotated[str, Field(max_length=200)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Release(Section):
    """What the signed metadata states about a bundle. `bundle`: the sha256 of its manifest. `rollout`: an id that
    selects other devices first in each rollout. `share`: percent of the devices. `stopped`: why no device may start
    it; empty if they may. `back`: devices that run it return to an older release.
    """

    name: Text
    version: Version
    bundle: Sha256
    rollout: Text
    share: Percent
    stopped: Text = ""
    back: bool = False


@dataclass(frozen=True)
class Running:
    """What a device runs, and the bundle in its other slot, if that was healthy."""

    version: str
    bundle: str
    other: str = ""


@dataclass(frozen=True)
class Attempts:
    """How often a rollout failed on this device; TRIES or more: it is not tried again."""

    rollout: str = ""
    failures: int = 0

    def failed(self, rollout: str, *, final: bool) -> Attempts:
        before = self.failures if rollout == self.rollout else 0
        return Attempts(rollout, TRIES if final else before + 1)

    def exhausted(self, rollout: str) -> bool:
        return rollout == self.rollout and self.failures >= TRIES


@dataclass(frozen=True)
class Decision:
    """`keep` what runs, `deploy` the release, or go `back` to it, the bundle in the other slot."""

    action: Literal["keep", "deploy", "back"]
    why: str
    release: Release | None = None
    downgrade: bool = False


def in_wave(device: str, release: Release) -> bool:
    """Whether a device is among the `share` percent that a rollout has reached. A larger share only adds devices."""
    digest = hashlib.sha256(f"{release.rollout}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * 100 < release.share << 64


def startable(releases: Iterable[Release]) -> set[str]:
    """Return the bundles that a device may still be asked to start: not stopped, and not replaced on all devices."""
    bundles = set()
    for release in _newest_first(releases):
        if not release.stopped:
            bundles.add(release.bundle)
            if release.share == 100:
                break
    return bundles


def _newest_first(releases: Iterable[Release]) -> list[Release]:
    return sorted(releases, key=lambda release: order(release.version), reverse=True)


def decide(device: str, releases: Iterable[Release], running: Running | None, attempts: Attempts) -> Decision:
    """Return what a device should do: run the newest release that has reached it and was not stopped."""
    newest_first = _newest_first(releases)
    mine = next((release for release in newest_first if running and release.bundle == running.bundle), None)
    called_back = mine is not None and bool(mine.stopped) and mine.back
    eligible = [release for release in newest_first if not release.stopped and in_wave(device, release)]
    if not eligible:
        return Decision("keep", "no release has reached this device")
    chosen = eligible[0]
    if running is None:
        return _start(chosen, attempts, False)
    if chosen.bundle == running.bundle:
        return Decision("keep", f"{chosen.version} runs", chosen)
    older = order(chosen.version) <= order(running.version)
    if older and not called_back:
        return Decision("keep", f"{running.version} runs, which is newer than {chosen.version}", chosen)
    if called_back and chosen.bundle == running.other:
        return Decision("back", f"{running.version} was stopped", chosen)
    return _start(chosen, attempts, older)


def _start(chosen: Release, attempts: Attempts, downgrade: bool) -> Decision:
    if attempts.exhausted(chosen.rollout):
        return Decision("keep", f"{chosen.version} failed here before; the next rollout is awaited", chosen)
    return Decision("deploy", f"{chosen.version} has reached this device", chosen, downgrade)

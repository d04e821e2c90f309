"""Fixtures of a fleet that pulls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fleets
import https
import pytest

from edgesparse.fleet import fetch


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fleets.Fleet]:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    with https.serving(tmp_path) as site:
        fleet = fleets.Fleet(tmp_path, site)
        fleet.begin()
        yield fleet

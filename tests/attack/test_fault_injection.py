"""Promise: whatever fails on the machine, nothing that was promised is lost, and every camera is back within 2 s.

Run by hand, faults.py causes hundreds of faults and judges recovery times. This test causes one of each kind, and
allows for a busy machine.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import broker
import faults
import machine
import pytest
from faults import SECRETS, Kind


@pytest.mark.long
@pytest.mark.root
@pytest.mark.mosquitto
@pytest.mark.timeout(300)
def test_one_fault_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if broker.MOSQUITTO is None:
        pytest.skip("needs mosquitto: apt install mosquitto")
    if not machine.mounts(tmp_path):
        pytest.skip("needs root, to mount a small tmpfs")
    monkeypatch.setattr(faults, "HOLD", 0.3)
    monkeypatch.setattr(faults, "BACK", faults.WAIT)
    kinds = faults.possible()
    result = faults.run(tmp_path, kinds, len(kinds), 0, (1.0,))
    assert result["broken"] == 0, result
    assert result["kept"]["frames"] > 100 and result["leaks"] == []
    assert sum(kind["restarts"] for kind in result["kinds"].values()) >= 2


def victim(tmp_path: Path, rows: str, received: list[dict[str, Any]], kills: list[float]) -> Any:
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "runtime").mkdir()
    subscriber = SimpleNamespace(records=lambda _: received, received=[("t", b"x", False)])
    return SimpleNamespace(
        machine=SimpleNamespace(disk=tmp_path),
        folder=tmp_path,
        subscriber=subscriber,
        kills=kills,
        texts=[],
    )


def test_a_lost_frame_and_a_leak_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ARRIVE", 0.1)
    rows = "".join(f'{{"camera": "a", "monotonic_ns": {second}000000000}}\n' for second in (10, 20, 30)) + '{"camera'
    fake = victim(tmp_path, rows, [{"camera": "a", "monotonic_ns": 10_000_000_000}], [31.0])
    assert faults.lost(fake) == {"frames": 3, "lost": 1, "damaged_lines": 1}, "30 s was just before a kill"
    assert faults.leaks(fake) == []
    (tmp_path / "log-1").write_text(f"it failed with {SECRETS['mqtt']}")
    assert faults.leaks(fake) == ["mqtt"]


def test_a_service_that_ends_and_a_camera_that_stays_away_are_seen() -> None:
    process = SimpleNamespace(returncode=-6)
    away = SimpleNamespace(process=process, ended=lambda: "Aborted\n")
    fake: Any = SimpleNamespace(running=away, dead=True, again=lambda: None, back=lambda since: float("inf"))
    fake.machine = SimpleNamespace(fault=lambda kind, rng: machine.suppress())
    figures = Kind()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "HOLD", 0.0)
        faults.suffer("disk", fake, faults.random.Random(0), 0.0, figures)
    assert [text.split(":")[0] for text in figures.broken] == [
        "the service ended with -6",
        "a camera was back after inf s",
    ]
    assert figures.figures()["restarts"] == 1

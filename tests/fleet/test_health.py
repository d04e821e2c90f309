"""The health window: a healthy service passes, and each fault is reported with its own message."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesparse.config import Deploy
from edgesparse.fleet.health import HealthWindow, parse, read
from edgesparse.progress import quiet

LIVE = {"name": "door", "state": "live", "why": "", "age_ms": 20.0}
WELL: dict[str, Any] = {
    "package": "new",
    "pid": 2,
    "started": 1000.0,
    "ready": True,
    "healthy": True,
    "why": "",
    "frames": 0,
    "errors": 0,
    "fallback": False,
    "cameras": [LIVE],
}
Script = Callable[[int], dict[str, Any] | None]
SECONDS = 60


class Clock:
    """Replaces the module `time`: sleeping writes the status that a service would have written meanwhile, a function of
    the seconds; None writes nothing."""

    def __init__(self, path: Path, script: Script) -> None:
        self.now, self._path, self._script = 500.0, path, script

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if (status := self._script(round(self.now - 500))) is not None:
            self._path.write_text(json.dumps(status))
            os.utime(self._path, ns=(0, int(1e9 * self.now)))


Watch = Callable[..., "str | None"]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch a service whose status is a function of the seconds since its restart."""

    def go(script: Script, before: dict[str, Any] | None = None) -> str | None:
        clock = Clock(tmp_path / "status.json", script)
        monkeypatch.setattr("edgesparse.fleet.health.time", clock)
        status = parse(before) if before else None
        reason = HealthWindow(tmp_path / "status.json", SECONDS, "new", Deploy(), status).watch(quiet)
        assert clock.now - 500 <= SECONDS
        return reason

    return go


def well(second: int, **changes: Any) -> dict[str, Any]:
    return {**WELL, "frames": 10 * second, **changes}


def test_a_healthy_service_passes(watch: Watch) -> None:
    assert watch(well) is None


def test_the_service_may_take_half_of_the_window_to_start(watch: Watch) -> None:
    def script(second: int) -> dict[str, Any] | None:
        if second < 10:
            return well(second, package="old", pid=1)
        return well(second, ready=second > 25) if second > 12 else None

    assert watch(script, {**WELL, "package": "old", "pid": 1}) is None


def test_cameras_may_take_half_of_the_window_to_open(watch: Watch) -> None:
    opening = {**LIVE, "state": "opening", "age_ms": None}
    assert watch(lambda second: well(second, cameras=[opening if second < 25 else LIVE])) is None


SICK: dict[str, tuple[Script, str]] = {
    "no status at all": (lambda n: None, "did not come up with package new"),
    "the old package": (lambda n: well(n, package="old"), "did not come up with package new"),
    "never ready": (lambda n: well(n, ready=False, why="loading"), "was not ready after .* s: loading"),
    "not healthy": (lambda n: well(n, healthy=False, why="it is hot"), "is not healthy: it is hot"),
    "a crash loop": (lambda n: well(n, pid=n, started=float(n)), "the service restarted by itself"),
    "the fallback": (lambda n: well(n, fallback=True, why="no engine"), "runs the fallback: no engine"),
    "errors": (lambda n: well(n, errors=n), "errors in .* frames, needed deploy.max_error_share 0.01"),
    "no frames": (lambda n: well(0), "no frame was detected"),
    "an old frame": (lambda n: well(n, cameras=[{**LIVE, "age_ms": 9e3}]), "camera door: found a frame 9000 ms old"),
    "no frame ever": (lambda n: well(n, cameras=[{**LIVE, "age_ms": None}]), "camera door: found no frame"),
    "a camera away": (lambda n: well(n, cameras=[{**LIVE, "state": "away", "why": "cable"}]), "door is away: cable"),
    "sick at the end": (lambda n: well(n, healthy=n < 60), "is not healthy"),
}


@pytest.mark.parametrize("how", SICK)
def test_a_fault_is_reported_within_the_window(how: str, watch: Watch) -> None:
    script, words = SICK[how]
    reason = watch(script)
    assert reason is not None and re.search(words, reason), reason


def test_a_service_that_stops_writing_is_stuck(watch: Watch) -> None:
    reason = watch(lambda second: well(second) if second < 8 else None)
    assert reason is not None and re.match("the service wrote no status for [678] s", reason)


def test_an_old_status_does_not_count(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(well(5)))
    reason = watch(lambda second: None)
    assert reason is not None and "did not come up" in reason


def test_the_same_package_must_have_been_restarted(watch: Watch) -> None:
    reason = watch(well, well(0))
    assert reason is not None and "did not come up" in reason


AWAY = {"name": "yard", "state": "away", "why": "no route", "age_ms": None}


def test_a_camera_that_was_away_before_is_ignored(watch: Watch) -> None:
    before = well(0, package="old", pid=1, cameras=[LIVE, AWAY])
    assert watch(lambda second: well(second, cameras=[LIVE, AWAY]), before) is None


def test_no_frames_are_needed_where_no_camera_was_live(watch: Watch) -> None:
    before = well(0, package="old", pid=1, cameras=[AWAY])
    assert watch(lambda second: well(0, cameras=[AWAY]), before) is None


def test_a_service_that_is_ready_and_not_yet_healthy_has_three_checks(watch: Watch) -> None:
    assert watch(lambda second: well(second, ready=second > 20, healthy=second > 22)) is None


def test_two_bad_checks_are_tolerated(watch: Watch) -> None:
    assert watch(lambda second: well(second, healthy=second % 5 > 1 or second == 60)) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "5", '{"package": "new"}', json.dumps({**WELL, "cameras": 3}), json.dumps({**WELL, "frames": "x"})],
)
def test_an_invalid_status_is_a_fault(watch: Watch, tmp_path: Path, text: str) -> None:
    def script(second: int) -> None:
        (tmp_path / "status.json").write_text(text)

    assert watch(script) is not None


def test_a_status_as_the_service_writes_it() -> None:
    """Including the keys that a deploy does not read."""
    more: dict[str, Any] = {
        "model": "m",
        "backend": "tensorrt",
        "words": "",
        "temperature_c": None,
        "outputs": [],
        "watts": 7.5,
    }
    camera = {"name": "a", "state": "opening", "why": "", "fps": 0.0, "age_ms": None, "dropped": 0, "reopened": 0}
    status = parse({**WELL, **more, "cameras": [camera]})
    assert status is not None and not status.cameras[0].live and status.life == (2, 1000.0)


@pytest.mark.parametrize("kind", ["pipe", "deep", "large", "folder"])
def test_a_status_that_is_no_file_of_the_service_never_hangs(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "status.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        path.write_text("[" * 200_000)
    elif kind == "large":
        path.write_text(json.dumps("x" * 5_000_000))
    else:
        path.mkdir()
    assert read(path) is None

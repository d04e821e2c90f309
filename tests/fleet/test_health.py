"""The health window: a service that is well passes, and each way to be sick is told in words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesparse.config import Deploy
from edgesparse.fleet.health import Window, understood
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
Say = Callable[[int], dict[str, Any] | None]
SECONDS = 60


class Clock:
    """Stands for the module `time`: sleeping writes the statuses that a service would have written meanwhile, one a
    second, as a function says; None writes none."""

    def __init__(self, path: Path, say: Say) -> None:
        self.now, self._path, self._say = 500.0, path, say

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if (said := self._say(round(self.now - 500))) is not None:
            self._path.write_text(json.dumps(said))
            os.utime(self._path, ns=(0, int(1e9 * self.now)))


Watch = Callable[..., "str | None"]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch a service that says what a function makes of the seconds since its restart."""

    def go(say: Say, before: dict[str, Any] | None = None) -> str | None:
        clock = Clock(tmp_path / "status.json", say)
        monkeypatch.setattr("edgesparse.fleet.health.time", clock)
        found = Window(
            tmp_path / "status.json", SECONDS, "new", Deploy(), understood(before) if before else None
        ).watch(quiet)
        assert clock.now - 500 <= SECONDS
        return found

    return go


def well(second: int, **said: Any) -> dict[str, Any]:
    return {**WELL, "frames": 10 * second, **said}


def test_a_service_that_is_well_passes(watch: Watch) -> None:
    assert watch(well) is None


def test_it_may_take_half_of_the_window_to_start(watch: Watch) -> None:
    def say(second: int) -> dict[str, Any] | None:
        if second < 10:
            return well(second, package="old", pid=1)
        return well(second, ready=second > 25) if second > 12 else None

    assert watch(say, {**WELL, "package": "old", "pid": 1}) is None


def test_its_cameras_may_take_as_long(watch: Watch) -> None:
    opening = {**LIVE, "state": "opening", "age_ms": None}
    assert watch(lambda second: well(second, cameras=[opening if second < 25 else LIVE])) is None


SICK: dict[str, tuple[Say, str]] = {
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
def test_a_sick_service_is_told_within_the_window(how: str, watch: Watch) -> None:
    say, words = SICK[how]
    found = watch(say)
    assert found is not None and re.search(words, found), found


def test_a_service_that_stops_writing_is_stuck(watch: Watch) -> None:
    found = watch(lambda second: well(second) if second < 8 else None)
    assert found is not None and re.match("the service wrote no status for [678] s", found)


def test_a_status_that_is_left_from_before_does_not_count(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(well(5)))
    found = watch(lambda second: None)
    assert found is not None and "did not come up" in found


def test_the_same_package_must_be_a_new_start(watch: Watch) -> None:
    found = watch(well, well(0))
    assert found is not None and "did not come up" in found


AWAY = {"name": "yard", "state": "away", "why": "no route", "age_ms": None}


def test_a_camera_that_was_dead_before_is_not_held_against_it(watch: Watch) -> None:
    before = well(0, package="old", pid=1, cameras=[LIVE, AWAY])
    assert watch(lambda second: well(second, cameras=[LIVE, AWAY]), before) is None


def test_where_no_camera_was_live_no_frame_can_be_asked_for(watch: Watch) -> None:
    before = well(0, package="old", pid=1, cameras=[AWAY])
    assert watch(lambda second: well(0, cameras=[AWAY]), before) is None


def test_one_that_is_ready_and_not_well_at_first_has_three_looks_too(watch: Watch) -> None:
    assert watch(lambda second: well(second, ready=second > 20, healthy=second > 22)) is None


def test_a_bad_look_or_two_are_forgiven(watch: Watch) -> None:
    assert watch(lambda second: well(second, healthy=second % 5 > 1 or second == 60)) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "5", '{"package": "new"}', json.dumps({**WELL, "cameras": 3}), json.dumps({**WELL, "frames": "x"})],
)
def test_a_status_that_is_garbage_is_a_sick_service(watch: Watch, tmp_path: Path, text: str) -> None:
    def say(second: int) -> None:
        (tmp_path / "status.json").write_text(text)

    assert watch(say) is not None


def test_the_service_writes_what_is_read_here() -> None:
    """As the service's own report has it, with all that a deploy does not look at."""
    more: dict[str, Any] = {
        "model": "m",
        "backend": "tensorrt",
        "words": "",
        "temperature_c": None,
        "outputs": [],
        "watts": 7.5,
    }
    camera = {"name": "a", "state": "opening", "why": "", "fps": 0.0, "age_ms": None, "dropped": 0, "reopened": 0}
    found = understood({**WELL, **more, "cameras": [camera]})
    assert found is not None and not found.cameras[0].live and found.life == (2, 1000.0)

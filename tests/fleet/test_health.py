"""The health window: a service that is well passes, and each way to be sick is told in words."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgesparse.build.select import quiet
from edgesparse.config import Deploy
from edgesparse.fleet.health import Window

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
SECONDS = 0.6


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Callable[[Say], Path]]:
    """A thread that writes a status every hundredth of a second, as the function says for each; None writes none."""
    end = threading.Event()
    threads = []

    def begin(say: Say) -> Path:
        path = tmp_path / "status.json"

        def write() -> None:
            number = 0
            while not end.wait(0.01):
                number += 1
                if (said := say(number)) is not None:
                    path.with_suffix(".part").write_text(json.dumps(said))
                    path.with_suffix(".part").replace(path)

        threads.append(threading.Thread(target=write))
        threads[-1].start()
        return path

    yield begin
    end.set()
    for thread in threads:
        thread.join()


def well(number: int, **said: Any) -> dict[str, Any]:
    return {**WELL, "frames": number, **said}


def watch(path: Path, before: dict[str, Any] | None = None, **limits: Any) -> str | None:
    return Window(path, SECONDS, "new", Deploy(**limits), before, interval=0.03).watch(quiet)


def test_a_service_that_is_well_passes(writing: Callable[[Say], Path]) -> None:
    assert watch(writing(well)) is None


def test_it_may_take_its_time_to_start(writing: Callable[[Say], Path]) -> None:
    begun = time.monotonic()

    def say(number: int) -> dict[str, Any]:
        passed = time.monotonic() - begun
        if passed < 0.1:
            return well(number, package="old", pid=1)
        return well(number, ready=passed > 0.2)

    assert watch(writing(say), {**WELL, "package": "old", "pid": 1}) is None


SICK: dict[str, tuple[Say, str]] = {
    "no status at all": (lambda n: None, "did not come up with the new package"),
    "the old package": (lambda n: well(n, package="old"), "did not come up with the new package"),
    "never ready": (lambda n: well(n, ready=False, why="loading"), "was not ready after .* s: loading"),
    "not healthy": (lambda n: well(n, healthy=False, why="it is hot"), "is not healthy: it is hot"),
    "a crash loop": (lambda n: well(n, pid=n, started=float(n)), "the service restarted by itself"),
    "the fallback": (lambda n: well(n, fallback=True, why="no engine"), "runs the fallback: no engine"),
    "errors": (lambda n: well(n, errors=n), "errors in .* frames, needed deploy.max_error_share 0.01"),
    "no frames": (lambda n: well(0), "no frame was detected"),
    "an old frame": (lambda n: well(n, cameras=[{**LIVE, "age_ms": 9e3}]), "camera door: found a frame 9000 ms old"),
    "no frame ever": (lambda n: well(n, cameras=[{**LIVE, "age_ms": None}]), "camera door: found no frame"),
    "a camera away": (lambda n: well(n, cameras=[{**LIVE, "state": "away", "why": "cable"}]), "door is away: cable"),
    "sick at the end": (lambda n: well(n, healthy=n < 25), "is not healthy"),
}


@pytest.mark.parametrize("how", SICK)
def test_a_sick_service_is_told_within_the_window(how: str, writing: Callable[[Say], Path]) -> None:
    say, words = SICK[how]
    begun = time.monotonic()
    found = watch(writing(say))
    assert found is not None and time.monotonic() - begun < 10 * SECONDS
    assert re.search(words, found), found


def test_a_service_that_stops_writing_is_stuck(writing: Callable[[Say], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.fleet.health.STALE", 0.1)
    found = watch(writing(lambda n: well(n) if n < 8 else None))
    assert found is not None and "wrote no status for" in found


def test_a_status_that_is_left_from_before_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps(well(5)))
    found = watch(path)
    assert found is not None and "did not come up" in found


def test_the_same_package_must_be_a_new_start(writing: Callable[[Say], Path]) -> None:
    found = watch(writing(well), well(0))
    assert found is not None and "did not come up" in found


def test_a_camera_that_was_dead_before_is_not_held_against_it(writing: Callable[[Say], Path]) -> None:
    away = {"name": "yard", "state": "away", "why": "no route", "age_ms": None}
    before = well(0, package="old", pid=1, cameras=[LIVE, away])
    assert watch(writing(lambda n: well(n, cameras=[LIVE, away])), before) is None
    dead = well(0, package="old", pid=1, cameras=[away])
    assert watch(writing(lambda n: well(0, cameras=[away])), dead) is None


def test_one_bad_look_is_forgiven(writing: Callable[[Say], Path]) -> None:
    looks = iter([False] * 12 + [True])
    state = {"bad": 0}

    def say(number: int) -> dict[str, Any]:
        if next(looks, False):
            state["bad"] = number
        return well(number, healthy=number != state["bad"])

    assert watch(writing(say)) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"package": "new"}', '{"package": "new", "ready": 1, "cameras": [3]}']
)
def test_a_status_that_is_garbage_is_a_sick_service(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    assert watch(tmp_path / "status.json") is not None

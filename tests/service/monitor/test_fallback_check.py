"""Hard frames on which the package's fallback engine disagrees with the chosen one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import squares
from samples import service_settings, wait_until

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.fleet.state import write_state
from edgesparse.package.store import open_package
from edgesparse.service import engine as engines
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.tally import Tally
from edgesparse.shadow import REQUEST, ShadowRequest, ShadowSettings
from edgesparse.stream.frames import Frame

NOTHING = {"values": {"output0": [[[0.0] * squares.CELLS] * 6]}}
HARD: dict[str, Any] = {"pause": 1, "fallback": 0.5}


def monitored(package: Path, folder: Path, **hard: Any) -> tuple[Monitors, Callable[[], None]]:
    """The service's monitors beside the package's engine, and what gives them one frame."""
    engine = engines.load(open_package(package), Run(cameras=(Camera(name="door", source="0"),)))
    settings = service_settings(hard_frames={"folder": folder / "hard", **HARD, **hard})
    monitors = Monitors(settings, engine, Tally(2), print)
    image = np.zeros((squares.SIZE, squares.SIZE, 3), np.uint8)
    (seen,) = engine.detector.detect([image])

    def step() -> None:
        monitors.tick()
        monitors.offer(Frame(image, 0, time.monotonic_ns(), "door", "door"), seen)

    return monitors, step


def checked(monitors: Monitors) -> dict[str, Any]:
    state = monitors.hard_state()
    assert state is not None
    return state["fallback"] or {}


def test_frames_on_which_the_fallback_disagrees_are_stored(planned_package: Any, tmp_path: Path) -> None:
    monitors, step = monitored(planned_package({}, NOTHING), tmp_path)
    assert monitors.hard is not None

    def stored() -> bool:
        step()
        return bool(monitors.hard and monitors.hard.stored["door", "disagreement"])

    wait_until(stored)
    state = checked(monitors)
    assert (state["state"], state["frames"] >= 1, monitors.words()) == ("running", True, [])
    monitors.change(service_settings())
    step()
    assert monitors.hard_state() is None and monitors.fallback.state() is None
    monitors.close()
    monitors._engine.detector.close()


def test_one_that_agrees_stores_nothing_and_makes_room_for_a_deploy(planned_package: Any, tmp_path: Path) -> None:
    package = planned_package({})
    monitors, step = monitored(package, tmp_path)

    def compared() -> bool:
        step()
        return checked(monitors).get("frames", 0) >= 3

    wait_until(compared)
    assert monitors.hard is not None and not monitors.hard.stored
    request = ShadowRequest(id=secrets.token_hex(8), package=str(package), settings=ShadowSettings())
    file = Path(os.environ["EDGESPARSE_STATE"]) / REQUEST
    write_state(file, request.model_dump())
    try:
        monitors.tick()
        assert monitors.shadow is not None and not checked(monitors)
    finally:
        file.unlink()
    monitors.tick()
    assert monitors.shadow is None and checked(monitors)["state"] == "loading"
    monitors.close()
    monitors._engine.detector.close()


def test_one_that_fails_or_is_missing_is_told_once(planned_package: Any, squares_package: Path, tmp_path: Path) -> None:
    broken, step = monitored(planned_package({}, {"inputs": 0}), tmp_path)

    def failed() -> bool:
        step()
        return bool(broken.words())

    wait_until(failed)
    (line,) = broken.words()
    assert line.startswith("hard frames: the fallback cannot be compared: ")
    step()
    assert broken.words() == [line]
    broken.close()
    alone, step = monitored(squares_package, tmp_path)
    step()
    assert alone.words() == [
        "hard frames: there is no other engine to compare: the fallback runs already, or the package has none"
    ]
    alone.close()


def test_nothing_runs_unless_it_is_wanted(planned_package: Any, tmp_path: Path) -> None:
    wishes: list[dict[str, Any]] = [{"fallback": 0}, {"reasons": ("near",)}]
    for number, wish in enumerate(wishes):
        monitors, step = monitored(planned_package({}, name=f"package-{number}"), tmp_path, **wish)
        step()
        assert not checked(monitors) and not monitors.words()
        monitors.close()
        monitors._engine.detector.close()

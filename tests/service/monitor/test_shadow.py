"""A shadow engine: compared on a share of the frames and of the time, never in the frame loop's way."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import squares
from hypothesis import given
from hypothesis import strategies as some
from samples import service_settings, wait_until

from edgesparse.builder.build import build
from edgesparse.camera import Camera
from edgesparse.config import Deploy, Run, load_recipe
from edgesparse.fleet.beside import why_not
from edgesparse.fleet.state import write_state
from edgesparse.package.store import Package, open_package
from edgesparse.runtime.detections import Detections
from edgesparse.service import engine as engines
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor import shadow
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.monitor.shadow import Beside, Pace, ShadowEngine
from edgesparse.service.monitor.shadow_requests import ShadowRequests
from edgesparse.service.tally import COLUMNS, Tally
from edgesparse.service.web import metrics
from edgesparse.shadow import REQUEST, ShadowRequest, ShadowResult, ShadowSettings
from edgesparse.stream.frames import Frame

SCENE = [(1, 1, 0), (5, 5, 1), (3, 6, 0)]
HALF: Any = ((0, 0), (1, 0), (1, 0.4), (0, 0.4))


def package(folder: Path, shift: float = 0.0, names: tuple[str, ...] = squares.NAMES) -> Package:
    folder.mkdir()
    squares.detector(folder / "squares.onnx", shift=shift)
    recipe: dict[str, Any] = {"model": "squares.onnx", "classes": list(names)}
    recipe["build"] = {"backend": "onnxruntime", "candidates": ["fp32"], "threads": 1}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "engines").package


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, state: Path) -> dict[str, Path]:
    """One that is as the active engine, one whose boxes are elsewhere, and one with other classes in another order."""
    folder = tmp_path_factory.mktemp("shadows")
    built = {"same": package(folder / "same"), "shifted": package(folder / "shifted", 6.0)}
    built["renamed"] = package(folder / "renamed", 0.0, ("red", "blue"))
    return {name: each.folder for name, each in built.items()}


class Watched:
    """An active engine, whose frames are offered to a shadow."""

    def __init__(self, packages: dict[str, Path], **camera: Any) -> None:
        run = Run(cameras=(Camera(name="door", source="0", **camera),))
        self.engine: LoadedEngine = engines.load(open_package(packages["same"]), run)
        self.packages, self.tally = packages, Tally(2)
        self.hard: list[CopiedFrame] = []
        self.frame = Frame(squares.image(SCENE), 0, 0, "door", "door")

    def beside(self, reserve: int = 0) -> Beside:
        return Beside(self.engine, self.tally, reserve, self.hard.append)

    def shadow(self, name: str, reserve: int = 0, **settings: Any) -> ShadowEngine:
        chosen = ShadowSettings(**{"share": 0.5, "frames": 4, "boxes": 5, "seconds": 30.0, **settings})
        path = self.packages.get(name, Path(name))
        return ShadowEngine(ShadowRequest(id="0" * 8, package=str(path), settings=chosen), self.beside(reserve))

    def run(self, name: str, reserve: int = 0, **settings: Any) -> ShadowResult:
        """Offer frames until the shadow has ended. Returns what it reports."""
        running = self.shadow(name, reserve, **settings)
        (active,) = self.engine.detector.detect([self.frame.image])

        def offered() -> bool:
            self.frame.time_ns = time.monotonic_ns()
            running.offer(self.frame, active)
            running.tick()
            return running.over

        wait_until(offered)
        running.close()
        return running.result


@pytest.fixture
def watched(packages: dict[str, Path]) -> Iterator[Watched]:
    watched = Watched(packages)
    yield watched
    watched.engine.detector.close()


def test_an_engine_that_agrees_is_reported_with_latency_and_memory(watched: Watched) -> None:
    watched.tally.add("door", np.full(len(COLUMNS), 2_000_000, np.int64), Detections.none())
    result = watched.run("same")
    assert (result.state, result.recall, result.precision, result.errors) == ("done", 1.0, 1.0, 0)
    assert result.frames == 4 and result.boxes == 12 and result.candidate == "fp32"
    assert result.latency_ms is not None and result.latency_ms > 0 and result.memory_mb is not None
    assert result.active_ms[0] is not None and result.active_ms[0] > 0 and 0 < result.busy <= 0.75
    assert watched.hard == [] and ShadowResult.model_validate_json(result.model_dump_json()) == result


def test_an_engine_that_disagrees_is_reported_and_its_frames_are_hard(watched: Watched) -> None:
    result = watched.run("shifted")
    assert (result.state, result.recall, result.precision) == ("done", 0.0, 0.0)
    assert len(watched.hard) == result.frames and watched.hard[0].reasons == ("disagreement",)


def test_classes_are_compared_by_name(watched: Watched) -> None:
    result = watched.run("renamed", frames=3)
    assert result.recall == pytest.approx(2 / 3, abs=1e-3), "what one of them calls green, the other calls blue"


def test_only_what_counts_for_the_camera_is_compared(packages: dict[str, Path]) -> None:
    watched = Watched(packages, zones={"top": HALF})
    result = watched.run("same", frames=3, boxes=1)
    assert (result.boxes, result.recall, result.precision) == (3, 1.0, 1.0), "one of three squares is in the zone"
    watched.engine.detector.close()


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("/nowhere", {}, "no package /nowhere"),
        ("same", {"reserve": 1 << 60}, "of free memory, needed"),
    ],
)
def test_an_engine_that_cannot_run_says_why(watched: Watched, name: str, settings: Any, why: str) -> None:
    result = watched.run(name, **settings)
    assert result.state == "failed" and why in result.why and result.recall is None


def test_loading_may_not_take_more_memory_than_allowed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([(9_000_000_000, 1), (6_000_000_000, 1)])
    monkeypatch.setattr(shadow, "read_memory", lambda: next(free))
    result = watched.run("same", max_memory=1_000_000_000)
    assert (result.state, result.memory_mb) == ("failed", 3000.0)
    assert result.why == "loading took 3000 MB, needed 1000 MB at most"


def test_errors_are_counted_and_end_it(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Detections:
        raise RuntimeError("the engine is broken")

    monkeypatch.setattr(shadow, "replace", fails)
    monkeypatch.setattr(Pace, "worked", lambda *_: None)
    result = watched.run("same")
    assert (result.state, result.errors, result.frames) == ("failed", shadow.MOST_ERRORS, 0)
    assert result.why == "RuntimeError: the engine is broken"


def test_time_without_enough_frames_ends_it(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    running = watched.shadow("same", seconds=1.0)
    running._until = 0.0
    running.tick()
    assert running.over and running.result.frames == 0
    running.offer(watched.frame, Detections.none())
    assert running._copies._places == {}, "nothing is copied any more"
    running.close()


@given(some.floats(0.01, 0.5), some.lists(some.integers(0, 10_000_000), min_size=1, max_size=60))
def test_it_takes_no_more_than_its_share_of_frames_and_time(share: float, work: list[int]) -> None:
    """Frames arrive every millisecond; each that is taken costs as much as the next of `work`, in nanoseconds."""
    pace, now, frames, taken, busy = Pace(share), 0, 0, 0, 0
    costs = iter(work)
    while frames < 20_000 and (cost := next(costs, None)) is not None:
        while frames < 20_000:
            now, frames = now + 1_000_000, frames + 1
            if pace.admits(now):
                break
        else:
            break
        assert busy <= share * now, "before each, no more than its share of the time"
        pace.taken()
        taken, busy, now = taken + 1, busy + cost, now + cost
        pace.worked(now, cost)
        assert taken <= share * frames + 1


def test_a_request_is_read_only_from_a_file_that_others_cannot_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests, file = ShadowRequests(tmp_path), tmp_path / REQUEST
    assert requests.read() is None and caplog.text == ""
    request = ShadowRequest(id="a" * 8, package="/slots/b", settings=ShadowSettings())
    file.write_text(request.model_dump_json())
    file.chmod(0o644)
    assert requests.read() == request
    file.chmod(0o666)
    assert requests.read() is None and requests.read() is None
    assert caplog.text.count("lets others change it") == 1
    file.chmod(0o644)
    for text in ("{", "[]", request.model_dump_json().replace("0.05", "0.9"), "x" * 100_000):
        file.write_text(text)
        assert requests.read() is None
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert requests.read() is None


SMALL = ShadowSettings(share=0.5, frames=2, boxes=2)


def requested(monitors: Monitors, watched: Watched, name: str) -> ShadowResult:
    """Write a request as a deploy does. Returns what the service's status says once the shadow has ended."""
    request = ShadowRequest(id=secrets.token_hex(8), package=str(watched.packages[name]), settings=SMALL)
    write_state(Path(os.environ["EDGESPARSE_STATE"]) / REQUEST, request.model_dump())
    (active,) = watched.engine.detector.detect([watched.frame.image])

    def ended() -> bool:
        monitors.tick()
        watched.frame.time_ns = time.monotonic_ns()
        monitors.offer(watched.frame, active)
        state = monitors.shadow_state()
        return state is not None and state["id"] == request.id and state["state"] in ("done", "failed")

    wait_until(ended)
    return ShadowResult.model_validate_json(json.dumps(monitors.shadow_state()))


def test_the_service_runs_what_a_deploy_requests_until_the_request_is_withdrawn(
    watched: Watched, tmp_path: Path
) -> None:
    monitors = Monitors(service_settings(hard_frames={"folder": tmp_path}), watched.engine, watched.tally, print)
    monitors.tick()
    assert monitors.shadow_state() is None and monitors.hard is not None
    try:
        assert why_not(requested(monitors, watched, "same"), Deploy(), SMALL) is None
        shifted = requested(monitors, watched, "shifted")
    finally:
        (Path(os.environ["EDGESPARSE_STATE"]) / REQUEST).unlink(missing_ok=True)
    reason = why_not(shifted, Deploy(), SMALL)
    assert reason is not None and "found 0 % of its 6 boxes" in reason
    report: Any = SimpleNamespace(monitors=monitors)
    assert {metric.name: metric.samples[0].value for metric in metrics._shadow(report)} == {
        "edgesparse_shadow_frames": 2,
        "edgesparse_shadow_recall": 0,
        "edgesparse_shadow_precision": 0,
        "edgesparse_shadow_busy": shifted.busy,
    }
    assert monitors.hard.stored["door", "disagreement"] == 1
    monitors.tick()
    assert monitors.shadow_state() is None
    monitors.close()


def test_a_shadow_starts_again_beside_another_engine(watched: Watched) -> None:
    monitors = Monitors(service_settings(), watched.engine, watched.tally, print)
    try:
        requested(monitors, watched, "same")
        monitors.engine(watched.engine)
        assert monitors.shadow_state() is None
        monitors.tick()
        state = monitors.shadow_state()
        assert state is not None and state["state"] == "loading"
    finally:
        (Path(os.environ["EDGESPARSE_STATE"]) / REQUEST).unlink(missing_ok=True)
        monitors.close()

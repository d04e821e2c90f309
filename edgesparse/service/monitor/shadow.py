"""The shadow: another engine that runs beside the active one, on a share of its frames, and is compared with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgesparse.camera import Camera
from edgesparse.errors import ConfigError, EdgeSparseError
from edgesparse.package.store import open_package
from edgesparse.redaction import redact_text
from edgesparse.runtime.agree import Pair, agreement
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.thresholds import thresholds
from edgesparse.service import engine as engines
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.frame_copies import CopiedFrame, FrameCopies
from edgesparse.service.machine import read_memory
from edgesparse.service.tally import Tally
from edgesparse.shadow import ShadowRequest, ShadowResult
from edgesparse.stream.frames import Frame
from edgesparse.stream.zones import Zones
from edgesparse.tiles import Tiles
from edgesparse.wording import short

log = logging.getLogger("edgesparse.service")

MOST_ERRORS = 20
"""Errors after which it is given up."""


class Pace:
    """Admits at most `share` of the frames, and as many as take at most `share` of the time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._offered = self._taken = self._due_ns = 0

    def admits(self, now_ns: int) -> bool:
        """Count a frame. Returns whether it may be taken."""
        self._offered += 1
        return self._taken < self._offered * self._share and now_ns >= self._due_ns

    def taken(self) -> None:
        """Count a frame that is taken."""
        self._taken += 1

    def worked(self, now_ns: int, busy_ns: int) -> None:
        """Wait after work that took `busy_ns` and ended now, until it was no more than the share of the time."""
        self._due_ns = now_ns + int(busy_ns * (1 / self._share - 1))


@dataclass(frozen=True)
class Beside:
    """What a shadow needs to know of the service: the active engine, its tally, the bytes that must stay free, and who
    takes frames on which the two disagree."""

    engine: LoadedEngine
    tally: Tally
    reserve: int
    disagreed: Callable[[CopiedFrame], None]


class ShadowEngine:
    """`offer` is called in the frame loop's thread, everything else in others. Never raises for an engine that fails:
    `result` says why. Release it with `close`.

    The engine is loaded in a thread of its own, where it runs too. `fallback`: run the package's fallback instead of
    its chosen engine.
    """

    def __init__(self, request: ShadowRequest, beside: Beside, fallback: bool = False) -> None:
        self._request, self._beside, settings = request, beside, request.settings
        self._fallback = fallback
        self._pace, self._lock = Pace(settings.share), threading.Lock()
        self._until = time.monotonic() + settings.seconds
        self._loaded: LoadedEngine | None = None
        self._closed = False
        self._result = ShadowResult(id=request.id, state="loading")
        self._cameras = {camera.name: _Selection(camera, beside.engine) for camera in beside.engine.run.all_cameras()}
        self._pairs: list[Pair] = []
        self._took_ns: list[int] = []
        self._classes: NDArray[np.int64] = np.empty(0, np.int64)
        """The active engine's class id of each class; a number that it does not have for those it lacks."""
        self._before = _mean_ms(beside.tally, 0)
        self._first_frame, self._began_ns = beside.tally.frames, 0
        self._copies = FrameCopies("shadow", self._take)

    @property
    def id(self) -> str:
        return self._request.id

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._result.state in ("done", "failed")

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Take the frame if the share allows it. Never waits, never allocates memory of a frame's size."""
        if not self.over and self._pace.admits(time.monotonic_ns()) and self._copies.offer(frame, detections):
            self._pace.taken()

    @property
    def result(self) -> ShadowResult:
        """The state, and what was compared so far."""
        return self._result

    def tick(self) -> None:
        """End it when its time is over. Call it about once per second. Never waits for the engine."""
        if time.monotonic() >= self._until and not self.over and self._lock.acquire(blocking=False):
            try:
                self._end("done")
            finally:
                self._lock.release()

    def close(self) -> None:
        """Stop, and release the engine, at once or when it returns."""
        self._closed = True
        self._copies.close()
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    # The rest runs in its own thread, or under its lock.

    def _take(self, frame: CopiedFrame) -> None:
        with self._lock:
            if self.over or self._closed:
                return
            try:
                loaded = self._loaded or self._load()
                self._compare(frame, loaded)
            except Exception as error:  # an engine may raise anything
                self._failed(error)
            finally:
                if self._closed:
                    self._release()

    def _load(self) -> LoadedEngine:
        """Load the engine beside the active one. Raises EdgeSparseError."""
        (free, resident), beside, settings = read_memory(), self._beside, self._request.settings
        if free is not None and free < beside.reserve:
            raise ConfigError(f"found {free / 1e6:.0f} MB of free memory, needed {beside.reserve / 1e6:.0f} MB")
        package = open_package(Path(self._request.package))
        load = engines.load_beside if self._fallback else engines.load
        loaded = load(package, beside.engine.run)
        self._loaded = loaded
        if loaded.identity.fallback and not self._fallback:
            raise ConfigError(f"the engine cannot be loaded: {loaded.identity.notice}")
        left, now = read_memory()
        took = max(0, (free or 0) - (left or 0), (now or 0) - (resident or 0))
        self._result = self._result.model_copy(
            update={
                "state": "running",
                "package": loaded.identity.package,
                "candidate": loaded.identity.candidate,
                "memory_mb": round(took / 1e6, 1),
            }
        )
        if settings.max_memory is not None and took > settings.max_memory:
            raise ConfigError(f"loading took {took / 1e6:.0f} MB, needed {settings.max_memory / 1e6:.0f} MB at most")
        if left is not None and left < beside.reserve:
            raise ConfigError(f"it leaves {left / 1e6:.0f} MB of memory, needed {beside.reserve / 1e6:.0f} MB")
        names, own = beside.engine.identity.classes, loaded.identity.classes
        self._classes = np.array(
            [names.index(n) if n in names else len(names) + i for i, n in enumerate(own)], np.int64
        )
        self._first_frame, self._began_ns = beside.tally.frames, time.monotonic_ns()
        log.warning("shadow: %s runs beside %s", loaded.identity.package, beside.engine.identity.package)
        return loaded

    def _compare(self, frame: CopiedFrame, loaded: LoadedEngine) -> None:
        selection = self._cameras.get(frame.camera)
        if selection is None:
            return
        begin = time.monotonic_ns()
        try:
            detector = loaded.detector
            detector.submit([frame.image], tiles=[selection.tiles])
            (seen,) = detector.collect()[:1]
        finally:
            end = time.monotonic_ns()
            self._pace.worked(end, end - begin)
        self._took_ns.append(end - begin)
        seen = replace(seen, class_id=self._classes[seen.class_id])
        pair = selection(frame.detections, frame.image.shape), selection(seen, frame.image.shape)
        self._pairs.append(pair)
        self._update()
        if _differ(pair):
            self._beside.disagreed(replace(frame, reasons=("disagreement",)))
        settings, result = self._request.settings, self._result
        if result.frames >= settings.frames and result.boxes >= settings.boxes:
            self._end("done")

    def _update(self) -> None:
        elapsed = max(1, time.monotonic_ns() - self._began_ns)
        changes = {
            "frames": len(self._pairs),
            "boxes": sum(len(active) for active, _ in self._pairs),
            "latency_ms": round(float(np.median(self._took_ns)) / 1e6, 3),
            "active_ms": (self._before, _mean_ms(self._beside.tally, self._first_frame)),
            "busy": round(min(1.0, sum(self._took_ns) / elapsed), 4),
        }
        self._result = self._result.model_copy(update=changes)

    def _failed(self, error: Exception) -> None:
        errors = self._result.errors + 1
        why = short(
            redact_text(f"{'' if isinstance(error, EdgeSparseError) else f'{type(error).__name__}: '}{error}"), 400
        )
        self._result = self._result.model_copy(update={"errors": errors, "why": why})
        if self._result.state == "loading" or isinstance(error, ConfigError) or errors >= MOST_ERRORS:
            self._end("failed")

    def _end(self, state: Literal["done", "failed"]) -> None:
        changes: dict[str, object] = {"state": state}
        if self._result.boxes:
            compared = agreement(self._pairs)
            changes |= {"recall": round(compared.recall, 4), "precision": round(compared.precision, 4)}
        self._result = self._result.model_copy(update=changes)
        log.warning("shadow: %s %s: %s", self._request.package, state, self._result.why or _figures(self._result))
        self._release()

    def _release(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.detector.close()


class _Selection:
    """Which detections of a camera are compared: those that count by themselves, in one of its zones if it has any."""

    def __init__(self, camera: Camera, engine: LoadedEngine) -> None:
        run = engine.run.seen_by(camera)
        self._least = thresholds(run, engine.identity.classes)
        self._zones = Zones(camera.zones) if camera.zones else None
        self.tiles = run.tiles if isinstance(run.tiles, Tiles) else None

    def __call__(self, detections: Detections, shape: tuple[int, ...]) -> Detections:
        known = detections.class_id < len(self._least)
        enough = np.ones(len(detections), bool)
        enough[known] = detections.confidence[known] >= self._least[detections.class_id[known]]
        if self._zones is not None:
            size = np.array([shape[1], shape[0]], np.float32)
            x, y = (np.clip(detections.anchors, 0, size) / size).T.tolist()
            enough &= np.array([bool(zones) for zones in self._zones.containing(x, y)], bool)
        return detections[enough]


def _differ(pair: Pair) -> bool:
    """Whether one of the two has a box that the other lacks."""
    active, shadow = pair
    if not len(active):
        return len(shadow) > 0
    compared = agreement([pair])
    return compared.recall < 1 or compared.extra > 0


def _figures(result: ShadowResult) -> str:
    before, beside = result.active_ms
    return (
        f"{result.frames} frames, {result.boxes} boxes, recall {result.recall}, precision {result.precision}, "
        f"{result.latency_ms} ms, {result.memory_mb} MB; the active engine took {before} ms, beside it {beside} ms"
    )


def _mean_ms(tally: Tally, since: int) -> float | None:
    """Return the mean time in the detector of the newest frames after the first `since`, in milliseconds."""
    latency = tally.recent(since).latency
    return round(float(latency.mean()) / 1e6, 3) if len(latency) else None

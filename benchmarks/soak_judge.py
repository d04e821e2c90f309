"""Evaluates a soak: how soon cameras recovered, how old frames were, and whether the requirements are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rig import FPS

ENGINE_SECONDS = 0.004
PERIOD = 1 / FPS
FAILURES = {
    "kill": 3.0,
    "freeze": 5.0,
    "stall": 4.0,
    "garbage": 3.0,
    "size": 1.0,
    "hold": 1.0,
    "garble": 2.0,
    "cut": 0.0,
}
"""Seconds that each failure lasts."""
BACK = 2.0
"""Seconds within which a camera has to be back."""
PAGE_BACK = 5.0
"""Seconds within which the page has to answer after hostile visitors have left."""


@dataclass
class Failure:
    """Times on the monotonic clock, in seconds."""

    kind: str
    cameras: tuple[int, ...]
    started: float
    over: float = 0.0


Lost = tuple[str, float, str]
"""A camera that was lost: its name, when, and why."""


@dataclass(frozen=True)
class Measured:
    """The measurements of a soak; all times in seconds on one clock."""

    frames: NDArray[np.float64]
    """[n, 4]: camera, time, age since the capture, age since it was sent."""
    samples: NDArray[np.float64]
    """[n, 5]: time, resident megabytes, descriptors, threads, megabytes of the capture processes."""
    lost: Sequence[Lost]
    failures: Sequence[Failure]
    started: float
    switched: float
    """When the slow engine took over."""


def judge(measured: Measured, cameras: int, left: dict[str, int], hostile: dict[str, Any]) -> dict[str, Any]:
    """The result of a soak. `left`: leaked descriptors and threads; `hostile`: the attackers' figures."""
    frames, samples, started, switched = measured.frames, measured.samples, measured.started, measured.switched
    healthy, loaded = frames[frames[:, 1] < switched], frames[frames[:, 1] > switched + 5]
    calm = healthy[undisturbed(healthy, measured.failures)]
    visits = hostile.pop("visits")
    backs = {kind: recovery(kind, measured, healthy) for kind in FAILURES}
    # By then each hostile way has been used twice.
    steady = samples[(samples[:, 0] > started + min(300.0, 0.4 * (switched - started))) & (samples[:, 0] < switched)]
    shares = [int((loaded[:, 0] == n).sum()) for n in range(cameras)]
    overload = {"frames": shares, "least_to_most": round(min(shares) / max(1, *shares), 3), "age": ages(loaded)}
    memory = {"least": round(float(steady[:, 1].min()), 1), "most": round(float(steady[:, 1].max()), 1)}
    # Capture processes end with their cameras' connections, so their peak memory is compared.
    early, late = (round(float(part[:, 4].max()), 1) for part in np.array_split(steady, 2))
    result = {
        "minutes": round((samples[-1, 0] - started) / 60, 2),
        "cameras": cameras,
        "engine_ms": 1e3 * ENGINE_SECONDS,
        "failures": backs,
        "age_while_nothing_fails": ages(calm),
        "age_of_every_frame": ages(healthy),
        "age_limit_ms": 1e3 * (2 * PERIOD + ENGINE_SECONDS),
        "twice_too_many": overload,
        "resident_mb": memory,
        "captures_mb": {"most_in_first_half": early, "most_in_second_half": late},
        "left_over": left,
        "hostile": {**hostile, "age_p99_ms": ages_by_visitor(calm, visits)},
    }
    return {**result, "holds": holds(result)}


def holds(result: dict[str, Any]) -> dict[str, bool]:
    """The requirements, and whether each is met."""
    memory, captures, slow = result["resident_mb"], result["captures_mb"], result["twice_too_many"]
    growth = captures["most_in_second_half"] - captures["most_in_first_half"]
    oldest = 1e3 * (3 * PERIOD + 2 / (result["cameras"] * FPS))
    failures = result["failures"].values()
    return {
        "back_within_two_seconds": all(failure["back_s"]["most"] <= BACK for failure in failures),
        "noticed_within_two_seconds": all(failure["noticed_s"]["most"] <= BACK for failure in failures),
        "age_p99": result["age_while_nothing_fails"]["p99_ms"] <= result["age_limit_ms"],
        "evenly_shared": slow["least_to_most"] >= 0.9,
        "none_grows_old": slow["age"]["p99_ms"] <= oldest,
        "memory_flat": memory["most"] - memory["least"] <= 20 and growth <= 20,
        "nothing_left_over": max(result["left_over"].values()) <= 0,
        "page_back_within_seconds": max(result["hostile"]["back_s"].values()) <= PAGE_BACK,
        "nothing_leaked": result["hostile"]["leaks"] == 0,
    }


def undisturbed(frames: NDArray[np.float64], failures: Sequence[Failure]) -> NDArray[np.bool_]:
    """Frames that arrived while their camera was neither failing nor just recovered."""
    calm = np.ones(len(frames), bool)
    for failure in failures:
        near = (frames[:, 1] > failure.started) & (frames[:, 1] < failure.over + BACK)
        calm &= ~(near & np.isin(frames[:, 0], failure.cameras))
    return calm


def recovery(kind: str, measured: Measured, frames: NDArray[np.float64]) -> dict[str, Any]:
    """For one kind of failure: how often it happened, how long until it was noticed (if it had an effect), and how long
    from its end until the first detections in an image that the camera sent afterwards."""
    noticed: list[float] = []
    back: list[float] = []
    count = 0
    for failure in measured.failures:
        if failure.kind != kind:
            continue
        count += 1
        for number in failure.cameras:
            sent = frames[:, 1] - frames[:, 3]
            own = frames[(frames[:, 0] == number) & (sent > failure.over), 1]
            back.append(float(own[0]) - failure.over if len(own) else float("inf"))
            away = [
                at
                for name, at, _ in measured.lost
                if name == f"cam-{number}" and failure.started < at < failure.over + BACK
            ]
            noticed += [away[0] - failure.started] if away else []
    return {"count": count, "seconds": FAILURES[kind], "noticed_s": spread(noticed), "back_s": spread(back)}


def ages_by_visitor(calm: NDArray[np.float64], visits: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """The p99 of frame ages in milliseconds during each way of visiting, where no camera fails."""
    during: dict[str, list[NDArray[np.float64]]] = {}
    for way, began, over in visits:
        during.setdefault(way, []).append(calm[(calm[:, 1] > began) & (calm[:, 1] < over)])
    return {way: ages(np.concatenate(parts))["p99_ms"] for way, parts in during.items()}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    numbers = np.array(seconds or [0.0])
    return {"median": round(float(np.median(numbers)), 2), "most": round(float(numbers.max()), 2)}


def ages(frames: NDArray[np.float64]) -> dict[str, float]:
    """Milliseconds from sending the image to its detections, and from capturing it to its detections."""
    if not len(frames):
        return {"p50_ms": 0.0, "p99_ms": 0.0, "most_ms": 0.0, "captured_p99_ms": 0.0}
    p50, p99 = 1e3 * np.percentile(frames[:, 3], (50, 99))
    return {
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "most_ms": round(1e3 * float(frames[:, 3].max()), 1),
        "captured_p99_ms": round(1e3 * float(np.percentile(frames[:, 2], 99)), 1),
    }

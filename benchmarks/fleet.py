"""Ten thousand devices that pull, in virtual time: who runs what when, the load on the server, how fast a stop works.

    python benchmarks/fleet.py [--devices 10000] [--bad-share 1] [--seed 1] [--save]

All devices run 1.0. After two hours 1.1 is published for a share of them: a quarter of the devices become unhealthy
with it and roll back. An operator reads the reports every ten minutes and, from the third rollback on, stops it and
calls it back. 1.2, which is good, follows in waves. 5 % of all polls and deploys meet a fault; 1 % of the devices have
a hostile mirror. Metadata, waves, stops and retries are the real client's; downloads, builds and health take the time
of typical ones. --save writes results/fleet.json.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from benchmarks.fleet_mirrors import HOSTILE, Publisher
from edgesparse.fleet.rollout import Attempts, Release, Running, decide

MINUTE, HOUR = 60.0, 3600.0
POLL, JITTER = 15 * MINUTE, 5 * MINUTE
"""deploy/edgesparse-pull.timer."""
HEALTH = 60.0
FAULTS, HOSTILE_SHARE, UNHEALTHY = 0.05, 0.01, 0.25
ROLLBACKS = 3
"""Reported rollbacks at which the operator stops a release."""
GOOD, BAD, NEXT = "1.0", "1.1", "1.2"


@dataclass(frozen=True)
class Plan:
    """Hours, shares and sizes. `waves`: when 1.2 reaches which share."""

    devices: int = 10_000
    bad_share: int = 1
    hours: float = 48
    seed: int = 1
    bundle_bytes: int = 20_000_000
    waves: tuple[tuple[float, int], ...] = ((12, 1), (18, 10), (24, 50), (32, 100))


@dataclass
class Simulated:
    """A device. `mirror`: empty, or what its hostile mirror does. `trying`: the release that it fetches or builds."""

    name: str
    mirror: str
    running: Running
    stored: int = 0
    attempts: Attempts = field(default_factory=Attempts)
    trying: Release | None = None

    def unhealthy_with(self, version: str) -> bool:
        return version == BAD and hashlib.sha256(self.name.encode()).digest()[0] < 256 * UNHEALTHY


@dataclass
class Counts:
    """What is reported at the end."""

    requests: Counter[int] = field(default_factory=Counter)
    bytes: Counter[int] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    versions: dict[int, Counter[str]] = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)
    without_engine: int = 0
    most_bad: int = 0


class Simulation:
    """Events in virtual time, of every device and of who publishes."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.random, self.counts = plan, random.Random(plan.seed), Counts()
        self.begin = self.now = float(round(time.time()))
        self.publisher = Publisher(folder, self.begin)
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        first = Running(GOOD, self.publisher.publish(GOOD, 100))
        hostile = set(self.random.sample(range(plan.devices), max(round(plan.devices * HOSTILE_SHARE), 1)))
        kinds = iter(HOSTILE * (len(hostile) // len(HOSTILE) + 1))
        self.devices = [Simulated(f"esf{i}", next(kinds) if i in hostile else "", first) for i in range(plan.devices)]
        for device in self.devices:
            self._after(self.random.uniform(0, POLL + JITTER), self._poll, device)
        self._after(2 * HOUR, self._publish, BAD, plan.bad_share)
        for hours, share in plan.waves:
            self._after(hours * HOUR, self._publish, NEXT, share)
        for ten in range(1, round(plan.hours * 6)):
            self._after(ten * 10 * MINUTE, self._operate)
        for hour in range(round(plan.hours) + 1):
            self._after(hour * HOUR, self._count, hour)

    def run(self) -> Counts:
        end = self.begin + self.plan.hours * HOUR
        while self._events and self._events[0][0] <= end:
            self.now, _, act, arguments = heapq.heappop(self._events)
            self.publisher.now = self.now
            act(*arguments)
        return self.counts

    def _after(self, seconds: float, act: Any, *arguments: Any) -> None:
        heapq.heappush(
            self._events, (self.now + seconds, len(self._events) + self.random.getrandbits(40), act, arguments)
        )

    def _publish(self, version: str, share: int) -> None:
        self.publisher.publish(version, share)
        if version == BAD:
            self.counts.bad["published"] = self.now

    def _operate(self) -> None:
        """Renew the timestamp twice a day; stop the bad release once enough devices have rolled it back."""
        if round((self.now - self.begin) / MINUTE) % 720 == 0:
            self.publisher.renew()
        if self.counts.results[f"rolled back {BAD}"] >= ROLLBACKS and "stopped" not in self.counts.bad:
            self.publisher.stop(BAD)
            self.counts.bad["stopped"] = self.now

    def _count(self, hour: int) -> None:
        self.counts.versions[hour] = Counter(device.running.version for device in self.devices)

    def _fault(self) -> bool:
        return self.random.random() < FAULTS

    def _next(self, device: Simulated, result: str, delay: float = 0) -> None:
        """End a poll with a result; the next one comes after the timer's pause and jitter."""
        self.counts.results[result] += 1
        device.trying = None
        self._after(delay + POLL + self.random.uniform(0, JITTER), self._poll, device)

    def _consult(self, device: Simulated) -> tuple[str, Release | None]:
        """Read the metadata and decide, as the client does. Returns the action."""
        polled = self.publisher.poll(device.stored, device.mirror, self.now - self.begin)
        device.stored = polled.stored
        if not device.mirror:
            minute = int((self.now - self.begin) // MINUTE)
            self.counts.requests[minute] += polled.requests
            self.counts.bytes[minute] += polled.bytes
        if polled.why:
            self.counts.refused[device.mirror][polled.why.partition("mirror/: ")[2][:90]] += 1
            return "refused", None
        decision = decide(device.name, polled.releases, device.running, device.attempts)
        return decision.action, decision.release

    def _poll(self, device: Simulated) -> None:
        if self._fault():
            self._next(device, "no network")
            return
        action, release = self._consult(device)
        if action == "back" and release is not None:
            self._switch(device, Running(release.version, release.bundle, device.running.bundle))
            self._next(device, "called back", HEALTH)
        elif action == "deploy" and release is not None:
            if device.mirror == "other bundle":
                self._next(device, "refused another bundle")
                return
            device.trying = release
            duration = self.random.uniform(1, 20) * MINUTE
            self._load(device, duration)
            self._after(duration, self._fetched, device)
        else:
            self._next(device, action)

    def _load(self, device: Simulated, duration: float) -> None:
        """Count the download of a bundle, spread over its minutes."""
        if not device.mirror:
            first, minutes = int((self.now - self.begin) // MINUTE), max(round(duration / MINUTE), 1)
            self.counts.requests[first] += 1
            for minute in range(first, first + minutes):
                self.counts.bytes[minute] += self.plan.bundle_bytes // minutes

    def _fetched(self, device: Simulated) -> None:
        """The bundle is there: the client reads the metadata again before it builds, and before it switches."""
        if self._fault():
            self._next(device, "download broke")
        elif self._is_stopped(device):
            self._next(device, "stopped while it was fetched")
        else:
            self._after(self.random.uniform(10, 40) * MINUTE + HEALTH, self._built, device)

    def _is_stopped(self, device: Simulated) -> bool:
        """Read the metadata again, as the client does; what cannot be read stops nothing."""
        action, release = self._consult(device)
        return action != "refused" and release != device.trying

    def _built(self, device: Simulated) -> None:
        release = device.trying
        assert release is not None
        if self._fault():
            if self.random.random() < 0.5:
                self._next(device, "power cut in a build", self.random.uniform(1, 60) * MINUTE)
                return
            device.attempts = device.attempts.failed(release.rollout, final=False)
            self._next(device, "build failed")
        elif self._is_stopped(device):
            self._next(device, "stopped while it was built")
        elif device.unhealthy_with(release.version):
            device.attempts = device.attempts.failed(release.rollout, final=True)
            self._next(device, f"rolled back {release.version}")
        else:
            self._switch(device, Running(release.version, release.bundle, device.running.bundle))
            self._next(device, f"deployed {release.version}")

    def _switch(self, device: Simulated, running: Running) -> None:
        if BAD in (running.version, device.running.version):
            self.counts.bad["last start" if running.version == BAD else "last gone"] = self.now
        device.running = running
        self.counts.without_engine += device.unhealthy_with(running.version)
        if running.version == BAD:
            self.counts.most_bad += 1


def simulate(plan: Plan) -> dict[str, Any]:
    """Run a plan. Returns the figures."""
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(plan, Path(folder))
        counts = simulation.run()
    honest = [device for device in simulation.devices if not device.mirror]
    bad = {name: round((at - counts.bad["published"]) / MINUTE, 1) for name, at in counts.bad.items()}
    minutes = plan.hours * 60
    return {
        "plan": {"devices": plan.devices, "bad_share": plan.bad_share, "hours": plan.hours, "seed": plan.seed},
        "without a working engine": counts.without_engine,
        "minutes after 1.1 was published": bad,
        "devices that kept 1.1 until it was called back": counts.most_bad,
        "results": dict(counts.results.most_common()),
        "requests per minute": {
            "mean": round(counts.requests.total() / minutes),
            "peak": max(counts.requests.values()),
        },
        "MB per second": {
            "mean": round(counts.bytes.total() / minutes / 60e6, 2),
            "peak": round(max(counts.bytes.values()) / 60e6, 2),
        },
        "GB in all": round(counts.bytes.total() / 1e9, 1),
        "versions by hour": {hour: dict(versions) for hour, versions in counts.versions.items()},
        "honest mirrors at the end": dict(Counter(device.running.version for device in honest)),
        "hostile mirrors at the end": {
            kind: dict(Counter(device.running.version for device in simulation.devices if device.mirror == kind))
            for kind in HOSTILE
        },
        "refused": {kind or "honest": dict(reasons) for kind, reasons in counts.refused.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--bad-share", type=int, default=1, help="Percent that gets the bad release at once.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    begin = time.monotonic()
    result = simulate(Plan(arguments.devices, arguments.bad_share, seed=arguments.seed))
    seconds = round(time.monotonic() - begin)
    name = "fleet" if arguments.bad_share == Plan.bad_share else f"fleet_bad_{arguments.bad_share}"
    save(name, {**machine(), "seconds": seconds, **result}, arguments.save)


if __name__ == "__main__":
    main()

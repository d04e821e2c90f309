#!/usr/bin/env python3
"""Faults of the machine under a running service: promises are kept, no secret leaks, every camera recovers.

    python tests/attack/faults.py --count 500 [--seed 0] [--kind disk] [--frozen 20]

Needs root, for small disks and cgroups. The service has four cameras, MQTT to a real broker, a webhook, JSON lines and
a page, each with a secret. Faults happen one after another, in random order, each kind equally often; kinds that are
not possible on this machine are skipped, and the first line lists the possible ones. A fault is judged BACK seconds
after its end, or after READY=1 if the process was killed and restarted, as systemd would. Every frame in the JSON lines
must also have reached the broker, except those of the last LOST seconds before a kill, as docs/guide/service.md allows.
Prints figures per kind as JSON; exit code 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "service")]

import packages
from broker import Broker, Subscriber
from camera import NetworkCamera
from machine import COMPILER, Machine, cgroup, mounts
from running import Running

BACK, LOST = 2.0, 3.0
HOLD, WAIT, ARRIVE = 1.0, 15.0, 30.0
"""Seconds: duration of a fault, time after which a camera counts as lost for good, and time for messages to arrive."""
SECRETS = {name: f"Planted-{name}-0123456789" for name in ("camera", "web", "mqtt", "hook")}
DEADLY = ("kill", "restart loop", "cgroup memory")
"""Kinds that may end the process."""


@dataclass
class Kind:
    """Figures of one kind of fault."""

    count: int = 0
    back: list[float] = field(default_factory=list)
    restarts: int = 0
    broken: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.back) or [0.0]
        back = {"median": round(ordered[len(ordered) // 2], 2), "most": round(ordered[-1], 2)}
        return {"count": self.count, "back_s": back, "restarts": self.restarts, "broken": self.broken}


class Victim:
    """The service and its environment. `kills`: when it was killed, on the monotonic clock."""

    def __init__(self, folder: Path, machine: Machine, stack: ExitStack) -> None:
        self.folder, self.machine = folder, machine
        self.kills: list[float] = []
        self.texts: list[bytes] = []
        self.broker = Broker(folder)
        stack.callback(self.broker.off)
        self.subscriber = Subscriber(self.broker.port)
        stack.callback(self.subscriber.close)
        self._cameras = [NetworkCamera(10), NetworkCamera(10)]
        for camera in self._cameras:
            stack.callback(camera.off)
        for name in ("web", "mqtt", "hook"):
            (folder / name).touch(0o600)
            (folder / name).write_text(SECRETS[name])
        boxes = [[[float(value)] * 84 for value in (32, 32, 16, 16, 0.9, 0.0)]]
        tensors = {"images": [1, 3, 64, 64], "output0": [1, 6, 84]}
        inputs, outputs = ([[name, shape, "float32"]] for name, shape in tensors.items())
        plan = {"inputs": inputs, "outputs": outputs, "values": {"output0": boxes}}
        environment = {**machine.environment, "EDGESPARSE_STATE": str(machine.disk / "state")}
        (machine.disk / "state").mkdir(mode=0o700)
        # The package is sealed with the key in this folder; afterwards other tests have their own folder again.
        stack.enter_context(mock.patch.dict(os.environ, EDGESPARSE_STATE=environment["EDGESPARSE_STATE"]))
        self._package = packages.stored(folder / "engines", text=json.dumps(plan))
        self._environment = environment
        self.start()
        stack.callback(lambda: self.running.close())

    def start(self) -> None:
        """Start the service as systemd does; its log and state are kept."""
        self.running = Running(self.folder, self._package, self._settings(), **self._environment)
        self.machine.adopt(self.running.process.pid)

    def _settings(self) -> dict[str, Any]:
        sources: list[dict[str, Any]]
        addresses = [camera.url.replace("//", f"//user:{SECRETS['camera']}@") for camera in self._cameras]
        sources = [{"name": f"net-{n}", "source": address} for n, address in enumerate(addresses)]
        sources += [{"name": f"demo-{n}", "source": f"demo:{n}", "size": "160x120", "rate": 10} for n in range(2)]
        hook = f"http://127.0.0.1:9/{SECRETS['hook']}"
        return {
            "run": {"cameras": sources},
            "service": {
                "web": {"token_file": "web"},
                "mqtt": {"host": "127.0.0.1", "port": self.broker.port, "username": "u", "password_file": "mqtt"},
                "webhook": {"url": hook, "token_file": "hook", "queue": 20},
                "events": [{"name": "any", "pause": 1}],
                "jsonl": {"file": str(self.machine.disk / "rows.jsonl"), "most": "1 GB"},
            },
        }

    def up(self) -> None:
        """Wait until the service reports that it is ready."""
        try:
            self.running.notify.until("READY=1", 60)
        except AssertionError:
            code, log = self.running.process.poll(), self.running._log.read_text()
            raise AssertionError(f"not ready after 60 s; exit code {code}; log: {log[-2000:]}") from None

    @property
    def dead(self) -> bool:
        return self.running.process.poll() is not None

    def kill(self) -> None:
        self.kills.append(time.monotonic())
        self.running.close()

    def stop(self) -> None:
        """Stop it as systemd does."""
        self.running.stop()
        self.texts.append(self.running.ended().encode())
        self.running.close()

    def again(self) -> None:
        """Restart it after it has ended."""
        self.kills.append(time.monotonic())
        self.texts.append(self.running.ended().encode())
        self.running.close()
        self.start()
        self.up()

    def frames(self) -> dict[str, int]:
        """Frame count of each live camera; empty if the page does not answer."""
        status: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            code, body = self.running.get("/status.json", Authorization=f"Bearer {SECRETS['web']}")
            status = json.loads(body) if code == 200 else {}
            self.texts[1000:] = [body]
        cameras = status.get("cameras", [])
        return {camera["name"]: int(camera["frames"]) for camera in cameras if camera["state"] == "live"}

    def back(self, since: float) -> float:
        """Seconds from `since` until every camera is live and has delivered another frame."""
        first: dict[str, int] = {}
        while time.monotonic() - since < WAIT and not self.dead:
            now = self.frames()
            for name, count in now.items():
                first.setdefault(name, count)
            if len(now) == 4 and all(now[name] > first[name] for name in now):
                return time.monotonic() - since
            time.sleep(0.05)
        return float("inf")


def inject(kind: str, victim: Victim, rng: random.Random, seconds: float) -> None:
    """Cause one fault and end it."""
    if kind == "kill":
        victim.kill()
    elif kind == "restart loop":
        victim.kill()
        victim.start()
        time.sleep(rng.uniform(0.0, 2 * HOLD))
        victim.kill()
    elif kind == "kill capture":
        os.kill(rng.choice(victim.machine.captures()), signal.SIGKILL)
    elif kind == "broker":
        victim.broker.off()
        time.sleep(seconds)
        victim.broker.on()
    elif kind == "frozen":
        os.kill(victim.running.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(victim.running.process.pid, signal.SIGCONT)
    else:
        with victim.machine.fault(kind, rng):
            time.sleep(seconds)


def suffer(kind: str, victim: Victim, rng: random.Random, frozen: float, figures: Kind) -> None:
    """Cause one fault and check the promises."""
    inject(kind, victim, rng, frozen if kind == "frozen" else HOLD)
    figures.count += 1
    back = victim.back(time.monotonic())
    if victim.dead:
        if kind not in DEADLY:
            last = victim.running.ended().strip().rpartition("\n")[2]
            figures.broken.append(f"the service ended with {victim.running.process.returncode}: {last[:200]}")
        figures.restarts += 1
        victim.again()
        back = victim.back(time.monotonic())
    figures.back.append(back)
    if back > BACK:
        figures.broken.append(f"a camera was back after {back:.1f} s")


def lost(victim: Victim) -> dict[str, int]:
    """Frames in the JSON lines that never reached the broker, and lines that are not JSON."""
    lines = (victim.machine.disk / "rows.jsonl").read_bytes().splitlines()
    rows = [row for line in lines if (row := _parsed(line)) is not None]
    keys = {(row["camera"], row["monotonic_ns"]) for row in rows if not _excepted(victim, row["monotonic_ns"] / 1e9)}
    end = time.monotonic() + ARRIVE
    while missing := keys - {(row["camera"], row["monotonic_ns"]) for row in victim.subscriber.records("detections")}:
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    return {"frames": len(rows), "lost": len(missing), "damaged_lines": len(lines) - len(rows)}


def _parsed(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        row: dict[str, Any] = json.loads(line)
        return row
    return None


def _excepted(victim: Victim, at: float) -> bool:
    return any(kill - LOST < at < kill + 0.5 for kill in victim.kills)


def leaks(victim: Victim) -> list[str]:
    """Secrets in any output: logs, state, page, messages."""
    texts = [*victim.texts, *(message for _, message, _ in victim.subscriber.received)]
    files = [*victim.folder.glob("log-*"), *(victim.folder / "runtime").iterdir(), *victim.machine.disk.rglob("*")]
    texts += [path.read_bytes() for path in files if path.is_file() and path.suffix != ".key"]
    return [name for name, secret in SECRETS.items() if any(secret.encode() in text for text in texts)]


@contextmanager
def victim_of(folder: Path) -> Iterator[Victim]:
    """Run the service with its small disks until the end of the block."""
    with ExitStack() as stack:
        machine = stack.enter_context(Machine(folder))
        victim = Victim(folder, machine, stack)
        victim.up()
        assert victim.back(time.monotonic()) < WAIT, "the cameras work before any fault"
        yield victim


def run(folder: Path, kinds: Sequence[str], count: int, seed: int, frozen: Sequence[float]) -> dict[str, Any]:
    """Cause `count` faults of `kinds` and return the figures. `frozen`: seconds of each freeze, in turn."""
    rng = random.Random(seed)
    order = [kinds[n % len(kinds)] for n in range(count)]
    rng.shuffle(order)
    figures = {kind: Kind() for kind in kinds}
    with victim_of(folder) as victim:
        for kind in order:
            seconds = frozen[figures["frozen"].count % len(frozen)] if kind == "frozen" else 0.0
            suffer(kind, victim, rng, seconds, figures[kind])
            print(f"{kind}: {figures[kind].back[-1]:.2f} s", file=sys.stderr)
        victim.stop()
        victim.start()  # what the last fault kept from the broker is on disk, and is sent now
        victim.up()
        kept = lost(victim)
        victim.stop()
        out = leaks(victim)
    broken = sum(len(kind.broken) for kind in figures.values()) + kept["lost"] + len(out)
    by_kind = {name: kind.figures() for name, kind in figures.items()}
    return {"faults": count, "seed": seed, "kinds": by_kind, "kept": kept, "leaks": out, "broken": broken}


def possible() -> list[str]:
    """The kinds that are possible on this machine."""
    here = ["kill", "restart loop", "kill capture", "broker", "frozen", "descriptors", "memory", "disk", "tmp", "home"]
    here += ["threads"] if cgroup("pids") else []
    here += ["cgroup memory"] if cgroup("memory") else []
    return here + (["clock"] if COMPILER is not None else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="number of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="only this one; may be repeated")
    parser.add_argument("--frozen", type=float, default=20.0, help="seconds of every fifth freeze; the others take 2")
    options = parser.parse_args()
    here = possible()
    print(f"faults: {', '.join(here)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        if not mounts(Path(folder)):
            print("faults: this process may not mount small disks: run it as root", file=sys.stderr)
            return 3
        frozen = (options.frozen, 2.0, 2.0, 2.0, 2.0)
        result = run(Path(folder), options.kind or here, options.count, options.seed, frozen)
    print(json.dumps(result, indent=1))
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

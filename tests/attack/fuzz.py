#!/usr/bin/env python3
"""Read damaged files of every kind: no traceback, hang, signal or half-written file.

    python tests/attack/fuzz.py --count 10000 [--seed 0] [--target onnx] [--jobs 2]

Each input is read in a child process with limits on memory and time. A child that crashes or takes too long is a
finding, and is replaced. An input depends only on its target and number, so a finding can be reproduced with --target,
--seed and --count 1. Prints figures per target; exit code 1 if there are findings.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]

from targets import TARGETS

from edgesparse.errors import EdgeSparseError

SECONDS = 20.0
"""Time limit per input, in seconds."""
MEMORY = 6 << 30
"""Address space limit of a child, in bytes."""
LEFTOVERS = ("*.part", ".*.part", "*.tmp")


@dataclass(frozen=True)
class Outcome:
    """`kind`: read, refused, or the finding: traceback, message, half-written, hang, signal."""

    target: str
    seed: int
    kind: str
    text: str = ""

    @property
    def bad(self) -> bool:
        return self.kind not in ("read", "refused")


def read_damaged(target: str, seed: int, sound: Path, folder: Path) -> Outcome:
    """Damage a file and read it, in this process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    chosen = TARGETS[target]
    chosen.damage(random.Random(f"{target} {seed}"), sound, folder)
    try:
        chosen.read(folder)
        kind, text = "read", ""
    except EdgeSparseError as error:
        text = str(error)
        one_line = text.strip() and "\n" not in text and len(text) < 2000
        kind = "refused" if one_line and not _leaked(text, folder) else "message"
    except Exception:
        kind, text = "traceback", traceback.format_exc()
    left = [path.name for pattern in LEFTOVERS for path in folder.rglob(pattern)]
    return Outcome(target, seed, "half-written", str(left)) if left else Outcome(target, seed, kind, text)


def _leaked(text: str, folder: Path) -> bool:
    """Whether a message holds the password of the file that was read: the word `secret`, in whatever place, unless the
    damage left none of it behind its user, so that nothing tells it from any other word.
    """
    files = [path.read_bytes() for path in folder.rglob("*.yaml")]
    return "secret" in text and any(b":secret" in content for content in files)


def _child(wire: Connection, sound: Path, folder: Path) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while (case := wire.recv()) is not None:
        target, seed = case
        wire.send(read_damaged(target, seed, sound / target, folder))
        if seed % 50 == 0:
            gc.collect()


class Child:
    """A process that reads inputs one after another; restarted after it has ended or was killed."""

    def __init__(self, sound: Path, folder: Path) -> None:
        self._arguments = sound, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._wire, theirs = context.Pipe()
        self._process: Any = context.Process(target=_child, args=(theirs, *self._arguments), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: the child uses none of them
            self._process.start()
        theirs.close()

    def begin(self, target: str, seed: int) -> None:
        self._case, self._until = (target, seed), time.monotonic() + SECONDS
        self._wire.send(self._case)

    def outcome(self) -> Outcome | None:
        """The outcome of the current input; None while it is being read."""
        try:
            if self._wire.poll(0.002):
                outcome: Outcome = self._wire.recv()
                return outcome
            if time.monotonic() < self._until:
                return None
            self._process.kill()
            outcome = Outcome(*self._case, "hang", f"more than {SECONDS} s")
        except (EOFError, OSError):
            self._process.join(5)
            outcome = Outcome(*self._case, "signal", f"the process ended with {self._process.exitcode}")
        self._wire.close()
        self._start()
        return outcome

    def close(self) -> None:
        self._process.kill()
        self._process.join(5)
        self._wire.close()


def fuzz(cases: Iterable[tuple[str, int]], jobs: int) -> Iterator[Outcome]:
    """Read every input, with `jobs` children in parallel."""
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "sound"
        for name, target in TARGETS.items():
            (sound / name).mkdir(parents=True)
            target.write(sound / name)
        children = [Child(sound, Path(scratch) / f"child-{n}") for n in range(jobs)]
        waiting, busy = iter(cases), set[Child]()
        try:
            while True:
                for child in set(children) - busy:
                    if (case := next(waiting, None)) is not None:
                        child.begin(*case)
                        busy.add(child)
                if not busy:
                    return
                for child in list(busy):
                    if (outcome := child.outcome()) is not None:
                        busy.discard(child)
                        yield outcome
        finally:
            for child in children:
                child.close()


def cases_of(names: Iterable[str], seed: int, count: int) -> Iterator[tuple[str, int]]:
    """The inputs of a run: targets round-robin, numbers from `seed` on."""
    names = list(names)
    return ((names[n % len(names)], seed + n // len(names)) for n in range(count))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="children at once")
    options = parser.parse_args()
    begin, counts = time.monotonic(), Counter[tuple[str, str]]()
    bad = 0
    for outcome in fuzz(cases_of(options.target or TARGETS, options.seed, options.count), options.jobs):
        counts[outcome.target, outcome.kind] += 1
        if outcome.bad:
            bad += 1
            print(f"--target {outcome.target} --seed {outcome.seed} --count 1: {outcome.kind}\n{outcome.text}\n")
    for name in TARGETS:
        figures = ", ".join(f"{count} {kind}" for (target, kind), count in sorted(counts.items()) if target == name)
        print(f"{name:9} {figures}")
    print(f"{options.count} inputs in {time.monotonic() - begin:.0f} s, {bad} findings")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())

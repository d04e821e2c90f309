#!/usr/bin/env python3
"""What a disk with a cache of its own may hold after a power cut at any of its writes: each such disk is checked.

    python tests/vm/prefixes.py --count 1000 --scenario deploy --scenario spool

QEMU logs each write and flush of a scenario's work in the emulated machine, as dm-log-writes does. Of the writes after
the last flush, any may be missing or torn. This machine's kernel then mounts the disk, and the scenario's promises are
checked here. Prints a JSON object; exit code 1 if a promise was broken. Needs what power.py needs, and loop devices.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    rooms = ("..", "", "crash", "fleet", "service")
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in rooms]

from make_image import make_image
from payload import make_wheelhouse
from power import ARCH, WORK_SECONDS, Writer, make_writer
from qemu import Disks, copy_disk
from scenarios import SCENARIOS
from write_log import Write, apply, read_log, survivors

from benchmarks import common

MEMORY = Path("/dev/shm")


def record(writer: Writer, scenario: str, folder: Path) -> list[Write]:
    """Do a scenario's work in the machine, and return what it wrote to the disk."""
    log = folder / "writes"
    log.unlink(missing_ok=True)
    machine = writer.machine(folder / "vm", Disks(writer.base, writer.host, log))
    try:
        copy_disk(writer.prepared(scenario), machine.data)
        machine.start(writer.state)
        machine.check(f"work {scenario} 0", WORK_SECONDS)
    finally:
        machine.close()
    return list(read_log(log))


def check(writer: Writer, scenario: str, count: int, folder: Path) -> dict[str, Any]:
    """Check `count` disks, each after a cut at another write, drawn at random. Returns figures and what was broken."""
    writes, rng, broken = record(writer, scenario, folder), random.Random(scenario), []
    for _ in range(count):
        moment = rng.randrange(len(writes) + 1)
        disk = folder / "cut.ext4"
        copy_disk(writer.prepared(scenario), disk)
        apply(survivors(writes, moment, rng), disk)
        try:
            with mounted(disk, folder / "mount") as place:
                SCENARIOS[scenario].check(place, False)
        except Exception as error:
            broken.append(f"after write {moment}: {type(error).__name__}: {error}")
    return {"writes": len(writes), "flushes": sum(write.flush for write in writes), "checked": count, "broken": broken}


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    before = os.environ.get("EDGESPARSE_STATE")
    os.environ["EDGESPARSE_STATE"] = str(place / "state")
    # As a board does at boot: the two sectors of ext4's superblock may be torn, which its kernel refuses to mount.
    repaired = subprocess.run(["e2fsck", "-p", str(disk)], check=False, capture_output=True).returncode < 4
    if not repaired:
        subprocess.run(["e2fsck", "-y", str(disk)], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)
        os.environ.pop("EDGESPARSE_STATE")
        if before is not None:
            os.environ["EDGESPARSE_STATE"] = before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="disks to check, over all scenarios")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--save", action="store_true", help="write the result to benchmarks/results/write_prefixes.json"
    )
    options = parser.parse_args()
    writer = make_writer(make_image(ARCH, make_wheelhouse(ARCH) / "wheels"))
    names, results, began = options.scenario or list(SCENARIOS), {}, time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        for number, name in enumerate(names, 1):
            results[name] = check(writer, name, -(-options.count // len(names)), Path(folder))
            left = (time.monotonic() - began) / number * (len(names) - number)
            print(f"{name}: {results[name]}, {left:.0f} s left", file=sys.stderr, flush=True)
    total = {key: sum(each[key] for each in results.values()) for key in ("writes", "flushes", "checked")}
    broken = sum(len(each["broken"]) for each in results.values())
    common.save(
        "write_prefixes", {**common.machine(), "scenarios": results, "total": {**total, "broken": broken}}, options.save
    )
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())

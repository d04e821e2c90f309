#!/usr/bin/env python3
"""Cut the power of an emulated machine in the middle of its work, and check what its disk then holds, until it is done.

    python tests/vm/power.py --cuts 15 --results cuts.jsonl
    python tests/vm/power.py --each --scenario deploy --scenario rollback --save

Each cut is SIGKILL to QEMU: before an operation on a file, or at a random moment; then the kernel mounts the disk
again, and the scenario's promises are checked (writer.py). A line of JSON per cut is added to the results, and those
that are there are not repeated. Prints a summary, and with --save writes it to benchmarks/results; exit code 1 if
something was lost. Needs what make_image.py needs.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

if __name__ == "__main__":
    rooms = ("..", "", "crash", "fleet", "service")
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in rooms]

from make_image import CACHE, ROOT, Image, make_image
from payload import SETTINGS, VERSIONS, edgesparse, make_bundle, make_wheelhouse
from qemu import DATA, Disks, Machine, MachineFailed, copy_disk, quietly
from writer import ALL, CUT

from benchmarks import common

ARCH = "aarch64"
HELPERS = ("bundles.py", "packages.py", "crash/scenarios.py", "fleet/https.py", "service/samples.py")
SOFTWARE = ("edgesparse", "deploy", "tests/vm/writer.py", "tests/vm/cameras.py", *(f"tests/{name}" for name in HELPERS))
WORK_SECONDS = 900.0
OPTIONS = "program=/host/tests/vm/writer.py init_on_free=1"
"""Freed memory is zeroed, so that a suspended machine is small and continues quickly."""
EAGER = "sysctl -q vm.dirty_writeback_centisecs=5 vm.dirty_expire_centisecs=5 2>/dev/null"
"""Half of the cuts: the kernel writes at once what it would else keep for up to 30 seconds."""


FEWEST = 10
"""Operations that writer.py sees, below which all cuts are at moments: SQLite does the others."""


@dataclass(frozen=True)
class Cut:
    """`at`: the operation before which the power was cut, or seconds after the start; 0 and `ended`: after the end."""

    scenario: str
    number: int
    kind: str
    at: float
    where: str
    ended: bool
    eager: bool
    lost: str
    seconds: float


class Writer:
    """The suspended machine in which writer.py has loaded everything, and the disks that scenarios start from."""

    def __init__(self, image: Image, folder: Path) -> None:
        self.image, self.folder = image, folder
        self.host, self.base = folder / "host.ext4", folder / "root.qcow2"
        self.state: Path | None = folder / "state"

    def machine(self, folder: Path, disks: Disks | None = None) -> Machine:
        disks = disks or Disks(self.base, self.host)
        return Machine(self.image, disks, folder, memory=512, options=OPTIONS)

    def suspend(self) -> None:
        """Boot, wait until everything is loaded, and suspend."""
        assert self.state is not None
        machine = self.machine(self.folder / "first", Disks(self.image.disk, self.host))
        try:
            machine.start()
            user = "useradd --system --user-group --home-dir /var/lib/edgesparse --shell /usr/sbin/nologin edgesparse"
            assert machine.run(f"sh {user} && sync && echo 3 > /proc/sys/vm/drop_caches").code == 0
            machine.suspend(self.state)
            machine.overlay.rename(self.base)
        finally:
            machine.close()

    def prepared(self, scenario: str) -> Path:
        """Return the disk that a scenario's work starts from."""
        disk = self.folder / f"{scenario.replace(' ', '-')}.ext4"
        if not disk.exists():
            machine = self.machine(self.folder / "prepare")
            try:
                machine.start(self.state)
                machine.check(f"prepare {scenario} 0", WORK_SECONDS)
            finally:
                machine.close()
            machine.data.rename(disk)
        return disk


def make_writer(image: Image) -> Writer:
    """Return the suspended machine for this software, made if the cache has none."""
    folder = CACHE / f"power-{image.folder.name}-{_software()}"
    if not (folder / "root.qcow2").exists():
        for old in CACHE.glob(f"power-*-{image.arch}-*"):
            shutil.rmtree(old)
        folder.mkdir(parents=True)
        writer = Writer(image, folder)
        _make_host(writer.host, folder / "host")
        writer.suspend()
    return Writer(image, folder)


def _software() -> str:
    sums = hashlib.sha256(f"{DATA} {OPTIONS}".encode())
    for path in _files():
        sums.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return sums.hexdigest()[:12]


def _files() -> Iterator[Path]:
    for name in SOFTWARE:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                yield file


def _make_host(disk: Path, folder: Path) -> None:
    """Write the disk with the software, compiled, and with bundles."""
    for path in _files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    compileall.compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    if not (CACHE / "fleet.key").exists():
        edgesparse(CACHE, "keys", "new", "fleet")
    shutil.copy(CACHE / "fleet.pub", folder)
    (folder / "device.yaml").write_text(SETTINGS)
    for version in VERSIONS:
        make_bundle(folder / "contents", folder / f"{version}.esb", version)
    (folder / "contents" / "images").rename(folder / "images")
    quietly("mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(disk), "96M")
    shutil.rmtree(folder)


@dataclass
class Campaign:
    """Cuts of one scenario after the other; `folder` is for the machine that is cut."""

    writer: Writer
    folder: Path

    def measured(self, scenario: str) -> tuple[int, float]:
        """Return how many operations and seconds the work takes without a cut."""
        file = self.writer.prepared(scenario).with_suffix(".json")
        if not file.exists():
            machine = self.writer.machine(self.folder)
            try:
                copy_disk(self.writer.prepared(scenario), machine.data)
                machine.start(self.writer.state)
                began = time.monotonic()
                operations = int(machine.check(f"work {scenario} 0", WORK_SECONDS))
                file.write_text(json.dumps([operations, time.monotonic() - began]))
            finally:
                machine.close()
        operations, seconds = json.loads(file.read_text())
        return operations, seconds

    def cut(self, scenario: str, number: int) -> Cut:
        """Cut the power once. Even numbers are the operations, each once, in random order; all others are moments."""
        rng, began = random.Random(f"{scenario} {number}"), time.monotonic()
        operations, seconds = self.measured(scenario)
        order = random.Random(scenario).sample(range(1, operations + 1), operations) if operations >= FEWEST else []
        kind = "moment" if number % 2 or number // 2 >= len(order) else "operation"
        eager = rng.random() < 0.5
        at = order[number // 2] if kind == "operation" else round(rng.uniform(0, seconds * 1.1), 3)
        machine = self.writer.machine(self.folder)
        try:
            copy_disk(self.writer.prepared(scenario), machine.data)
            machine.start(self.writer.state)
            if eager:
                machine.run(f"sh {EAGER}")
            where, ended = _work(machine, scenario, kind, at)
            machine.power_cut()
            lost = self._lost(machine, f"check {scenario} {int(ended)}")
        finally:
            machine.close()
        return Cut(scenario, number, kind, at, where, ended, eager, lost, round(time.monotonic() - began, 1))

    def _lost(self, machine: Machine, check: str) -> str:
        """Return what the check found broken, empty if nothing."""
        machine.start(self.writer.state)
        done = machine.run(check, WORK_SECONDS)
        return done.output[-1500:] if done.code else ""


def _work(machine: Machine, scenario: str, kind: str, at: float) -> tuple[str, bool]:
    """Let the machine work up to the cut; returns where that was, and whether the work had ended."""
    machine.send(f"work {scenario} {int(at) if kind == 'operation' else 0}", WORK_SECONDS)
    try:
        done = machine.result(WORK_SECONDS if kind == "operation" else at)
    except MachineFailed:
        if not machine.running:
            raise
        return "", False
    assert done.code in (0, CUT), done.output
    return (done.output, False) if done.code == CUT else ("after the end", True)


def finished(results: Path) -> list[dict[str, Any]]:
    """Return the cuts that a file of results holds."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def summary(results: Path) -> dict[str, Any]:
    """Return the number of cuts, by scenario, and what was lost."""
    cuts = finished(results)
    scenarios = {
        cut["scenario"]: _counts([each for each in cuts if each["scenario"] == cut["scenario"]]) for cut in cuts
    }
    lost = [cut for cut in cuts if cut["lost"]]
    return {
        **_counts(cuts),
        "scenarios": scenarios,
        "lost": lost,
        "seconds": round(sum(cut["seconds"] for cut in cuts)),
    }


def _counts(cuts: list[dict[str, Any]]) -> dict[str, int]:
    kinds = Counter(cut["kind"] for cut in cuts)
    places = {"at operations": kinds["operation"], "at moments": kinds["moment"]}
    return {"cuts": len(cuts), **places, "after the end": sum(cut["ended"] for cut in cuts)}


def run(campaign: Campaign, plan: list[tuple[str, int]], results: Path) -> None:
    """Make these cuts, each a scenario and a number, and add them to the results, unless they are there."""
    have = {(cut["scenario"], cut["number"]) for cut in finished(results)}
    left, began = [each for each in plan if each not in have], time.monotonic()
    for done, (name, number) in enumerate(left, 1):
        cut = campaign.cut(name, number)
        with results.open("a") as file:
            file.write(json.dumps(asdict(cut)) + "\n")
        seconds = (time.monotonic() - began) / done * (len(left) - done)
        lost = ": LOST" if cut.lost else ""
        print(
            f"{done}/{len(left)} {name} {cut.at} {cut.where}{lost}, {seconds:.0f} s left", file=sys.stderr, flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=15, help="cuts per scenario")
    parser.add_argument("--each", action="store_true", help="in place of --cuts, one at each operation on a file")
    parser.add_argument("--scenario", action="append", choices=ALL, help="only this one; may be repeated")
    parser.add_argument("--results", type=Path, default=Path("cuts.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/edgesparse-power"))
    parser.add_argument("--save", action="store_true", help="write the summary to benchmarks/results/power_cuts.json")
    options = parser.parse_args()
    image = make_image(ARCH, make_wheelhouse(ARCH) / "wheels")
    campaign, names = Campaign(make_writer(image), options.folder), options.scenario or list(ALL)
    if options.each:
        plan = [(name, 2 * number) for name in names for number in range(campaign.measured(name)[0])]
    else:
        plan = [(name, number) for number in range(options.cuts) for name in names]
    run(campaign, plan, options.results)
    result = summary(options.results)
    common.save("power_cuts", {**common.machine(), **result}, options.save)
    return bool(result["lost"])


if __name__ == "__main__":
    sys.exit(main())

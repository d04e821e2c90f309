#!/opt/edgesparse/bin/python
"""In the machine, in place of systemd: works on a disk until the power is cut, and checks what the disk then holds.

power.py sends the commands over a virtio port and cuts the power. The scenarios are those of tests/crash, and
provisioning's files, and deploys that build with ONNX Runtime. Everything is loaded before the machine is suspended,
so that each cut continues from there within seconds. The disk is mounted only by a command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("crash", "fleet", "service", "vm")]

import cameras
from scenarios import SCENARIOS, Scenario

from deploy.provision import account
from deploy.provision.steps import Options
from deploy.provision.system import System
from edgesparse import api
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.fetch import LocalFile
from edgesparse.fleet.keys import trusted
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.fleet.status import status

TESTS = Path(__file__).parents[1]
DISK, FOLDER = "LABEL=data", Path("/run/power")
CUT = 99
"""The code of an answer that asks for the power to be cut: the process waits for it."""


def real_device(folder: Path) -> Device:
    return Device(Root(folder / "disk"), ServiceControl())


def real_deploy(version: str) -> Callable[[Path], object]:
    return lambda folder: real_device(folder).deploy(LocalFile(Path(f"/host/{version}.esb"), trusted(Path("/host"))))


def real_two(folder: Path) -> None:
    real_deploy("1.0")(folder)
    real_deploy("1.1")(folder)


def detects(folder: Path, ended: bool) -> None:
    """Before recovery and after it, the engine that `current` names detects what the image shows."""
    device = real_device(folder)
    for _ in range(2):
        answer = status(device.root, device.service)
        assert answer["damaged"] == [], answer
        with api.load(str(folder / "disk" / "current" / "package")) as detector:
            assert len(detector("/host/images/red.png")) == 1
        device.recover()
    assert device.root.journal() is None


PLACES = ("/etc/edgesparse", "/etc/systemd/system", "/var/lib/edgesparse")
MINE = Options(any_machine=True, keys=[Path("/host/fleet.pub")], settings=Path("/host/device.yaml"))
STEPS = (
    account.folders,
    lambda system: account.keys(system, MINE.keys, MINE.force),
    lambda system: account.settings(system, MINE.settings, MINE.force),
    account.unit,
)


def provision(folder: Path) -> None:
    """Run the steps that write files, with the disk in the places where they write."""
    for place in PLACES:
        inside = folder / "disk" / place.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(inside), place], check=True)
    try:
        for step in STEPS:
            for change in step(System()):
                change.make()
    finally:
        for place in PLACES:
            subprocess.run(["umount", place], check=True)


def check_provision(folder: Path, ended: bool) -> None:
    """Each file is whole or absent; a second run completes them all, and a third one finds nothing to do."""
    disk = folder / "disk"
    whole = {
        disk / "etc/edgesparse/trusted/fleet.pub": Path("/host/fleet.pub"),
        disk / "etc/edgesparse/device.yaml": Path("/host/device.yaml"),
        disk / "etc/systemd/system/edgesparse.service": TESTS.parent / "deploy" / "edgesparse.service",
    }
    for path, source in whole.items():
        assert not path.exists() or path.read_text() == source.read_text(), path
    provision(folder)
    assert all(path.read_text() == source.read_text() for path, source in whole.items())
    written = {path: path.stat().st_mtime_ns for path in whole}
    provision(folder)
    assert written == {path: path.stat().st_mtime_ns for path in whole}
    assert [path.name for path in (disk / "etc/edgesparse").iterdir() if path.name.startswith(".")] == []


MORE = {
    "provisioning": Scenario(lambda _: None, provision, check_provision),
    "deploy that builds": Scenario(real_deploy("1.0"), real_deploy("1.1"), detects),
    "rollback of a build": Scenario(real_two, lambda folder: real_device(folder).rollback(), detects),
}
ALL = {**SCENARIOS, **MORE}


class Operations:
    """Counts the operations on the disk's files, and at one of them asks for the power to be cut."""

    def __init__(self) -> None:
        self.count, self.at = 0, 0
        self.cut: Callable[[str], None] = lambda _: None
        sys.addaudithook(self._audit)
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._synced(getattr(os, name)))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            self._before(f"{event} {arguments[0]}")

    def _synced(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def synced(descriptor: int) -> None:
            self._before("fsync")
            sync(descriptor)

        return synced

    def _before(self, what: str) -> None:
        self.count += 1
        if self.count == self.at:
            self.cut(what)
            threading.Event().wait()


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
"""Audit events of Python that change files. What libraries write (SQLite, OpenCV) is cut at random moments only."""


def answer(port: BinaryIO, operations: Operations, request: dict[str, Any]) -> None:
    """Answer a request: `true`, `prepare NAME`, `work NAME AT`, `check NAME ENDED`, `sh COMMAND`, and
    `camera FUNCTION ARGUMENT...`, which answers with JSON.
    """

    def reply(code: int, output: str) -> None:
        message = {"number": request["number"], "code": code, "seconds": round(time.monotonic() - began, 2)}
        port.write(json.dumps({**message, "output": output}).encode() + b"\n")

    began = time.monotonic()
    verb, _, rest = request["command"].partition(" ")
    try:
        if verb == "sh":
            done = subprocess.run(["sh", "-c", rest], capture_output=True, text=True, check=False)
            return reply(done.returncode, done.stdout + done.stderr)
        if verb == "camera":
            name, *arguments = rest.split()
            return reply(0, json.dumps(getattr(cameras, name)(*arguments)))
        if verb != "true":
            name, _, number = rest.rpartition(" ")
            subprocess.run(["mount", DISK, str(FOLDER)], check=True, capture_output=True)
            operations.count, operations.at, operations.cut = 0, 0, lambda what: reply(CUT, what)
            run(verb, ALL[name], int(number), operations)
        reply(0, str(operations.count))
    except BaseException as error:
        reply(1, "".join(traceback.format_exception(error)))


def run(verb: str, scenario: Scenario, number: int, operations: Operations) -> None:
    os.environ["EDGESPARSE_STATE"] = str(FOLDER / "state")
    if verb == "prepare":
        (FOLDER / "disk").mkdir()
        scenario.prepare(FOLDER)
        subprocess.run(["umount", str(FOLDER)], check=True)
    elif verb == "work":
        operations.at = number
        scenario.work(FOLDER)
    else:
        scenario.check(FOLDER, bool(number))


def main() -> None:
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LANG="C.UTF-8")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    FOLDER.mkdir()
    operations = Operations()
    (name,) = Path("/sys/class/virtio-ports").iterdir()
    with Path("/dev", name.name).open("r+b", buffering=0) as port:
        text = b""
        while True:
            part = os.read(port.fileno(), 65536)
            if not part:  # nobody is connected yet
                time.sleep(0.05)
            *lines, text = (text + part).split(b"\n")
            for line in lines:
                answer(port, operations, json.loads(line))


if __name__ == "__main__":
    main()

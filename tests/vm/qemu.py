"""A virtual machine: QEMU by emulation, commands over a virtio port, a disk with files of the host, and power cuts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_image import Image

MACHINES = {
    "aarch64": ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a76"],
    "x86_64": ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max"],
}
CONSOLES = {"aarch64": "ttyAMA0", "x86_64": "ttyS0"}
KERNEL = "loglevel=5 panic=-1 systemd.show_status=no"
BOOT_SECONDS = 600.0
DATA = "192M"


class MachineFailed(Exception):
    """The machine ended, or did not answer in time; the text has the end of its console."""


@dataclass(frozen=True)
class Result:
    """A command's exit code, its output (both streams) and its duration in seconds of the machine's clock."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Disks:
    """`base` is the root, raw or qcow2, which is not changed; `host` is mounted read-only at /host. None where the
    image shares folders in place of them.
    """

    base: Path | None = None
    host: Path | None = None
    log: Path | None = None
    """File in which QEMU logs every write and flush of the third disk (`Machine.data`), as dm-log-writes does."""
    speed: int = 0
    """Bytes per second that the third disk reads and writes at most, as a slow SD card; 0: no limit."""


class Machine:
    """A machine on a fresh overlay of a disk; `close` always ends it.

    `folder` keeps the overlay, the console and `data`: an empty ext4 file system, not mounted.

    `power_cut` is SIGKILL to QEMU: what the guest had not written to its disk, and what QEMU had not written of the
    overlay's tables, is lost. `start` then boots the same disk again. QEMU ends with this process too. `options` are
    added to the kernel's command line. A connection to `port` of this machine's loopback reaches the guest's SSH
    server; it has no other network.
    """

    def __init__(
        self, image: Image, disks: Disks, folder: Path, *, memory: int = 1024, options: str = "", port: int = 0
    ) -> None:
        self._image, self._disks, self._memory, self._options, self._ssh = image, disks, memory, options, port
        folder.mkdir(parents=True, exist_ok=True)
        self.overlay, self.console = folder / "disk.qcow2", folder / "console.log"
        # Addresses of UNIX sockets are short, and folders of tests are not.
        self._address = Path("/tmp") / f"edgesparse-vm-{os.getpid()}-{id(self):x}"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._text, self._number = b"", 0
        self.data = folder / "data.ext4"
        self._cover()
        quietly("mke2fs", "-q", "-t", "ext4", "-L", "data", str(self.data), DATA)

    @property
    def running(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def start(self, state: Path | None = None) -> float:
        """Boot, or continue from where `suspend` wrote that file, on the root as it was then; what was changed on it
        since is gone. Returns the seconds until commands run.
        """
        began = time.monotonic()
        if state is not None:
            self._cover()
        with self.console.open("ab") as console:
            self._qemu = subprocess.Popen(
                self._command(state), stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            self._port, self._text = self._connect(self._address, began + BOOT_SECONDS), b""
            self.send("true")
            self.result(began + BOOT_SECONDS - time.monotonic())
        except BaseException:
            self.power_cut()
            raise
        return time.monotonic() - began

    def _command(self, state: Path | None) -> list[str]:
        pairs = {
            "-smp": "2",
            "-m": str(self._memory),
            "-kernel": str(self._image.kernel),
            "-initrd": str(self._image.initrd),
            "-append": f"console={CONSOLES[self._image.arch]} {KERNEL} {self._options}",
            "-chardev": f"socket,id=port,path={self._address},server=on,wait=off",
            "-qmp": f"unix:{self._monitor},server=on,wait=off",
        }
        options = ["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-monitor", "none"]
        options += [word for pair in pairs.items() for word in pair]
        for device in ("virtio-rng-pci", "virtio-serial-pci", "virtserialport,chardev=port,name=edgesparse"):
            options += ["-device", device]
        if self._ssh:
            options += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._ssh}-:22"]
            options += ["-device", "virtio-net-pci,netdev=net,romfile="]
        if self._disks.speed:
            options += ["-object", f"throttle-group,id=slow,x-bps-total={self._disks.speed}"]
        for tag, folder in self._image.shared.items():
            shared = f"local,path={folder},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"
            options += ["-virtfs", shared]
        disks = {"data": self._data()}
        if self._disks.base:
            disks = {
                "root": f"driver=qcow2,file.driver=file,file.filename={self.overlay}",
                "host": f"driver=file,filename={self._disks.host},read-only=on",
                **disks,
            }
        for name, disk in disks.items():  # the machine names them vda, vdb, vdc in this order
            options += ["-blockdev", f"{disk},node-name={name}", "-device", f"virtio-blk-pci,drive={name}"]
        options += ["-incoming", f"exec:cat {state}"] if state else []
        return ["setpriv", "--pdeathsig", "KILL", *MACHINES[self._image.arch], *options]

    def _cover(self) -> None:
        if self._disks.base:
            overlay(self._disks.base, self.overlay)

    def _data(self) -> str:
        disk, log = f"driver=file,filename={self.data}", self._disks.log
        if self._disks.speed:
            return f"driver=throttle,throttle-group=slow,file.driver=file,file.filename={self.data}"
        if log is None:
            return disk
        log.touch()
        return f"driver=blklogwrites,file.driver=file,file.filename={self.data},log.driver=file,log.filename={log}"

    @property
    def _monitor(self) -> Path:
        return self._address.with_name(self._address.name + ".qmp")

    def _connect(self, address: Path, end: float) -> socket.socket:
        while True:
            port = socket.socket(socket.AF_UNIX)
            try:
                port.connect(str(address))
                return port
            except OSError:
                port.close()
                self._alive(end)
                time.sleep(0.05)

    def run(self, command: str, seconds: float = 120.0) -> Result:
        """Run a shell command as root and wait for its end. Raises MachineFailed."""
        self.send(command, seconds)
        return self.result(seconds + 60)

    def check(self, command: str, seconds: float = 120.0) -> str:
        """Run a command that must end with 0, and return its output."""
        done = self.run(command, seconds)
        assert done.code == 0, f"`{command}` ended with {done.code}: {done.output[-2000:]}"
        return done.output

    def send(self, command: str, seconds: float = 120.0) -> None:
        """Start a command without waiting; `result` waits for it."""
        assert self._port is not None
        self._number += 1
        message = {"number": self._number, "command": command, "timeout": seconds}
        try:
            self._port.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error

    def result(self, seconds: float) -> Result:
        """Wait for the end of the last command. Raises MachineFailed."""
        end = time.monotonic() + seconds
        while True:
            message = self._receive(end)
            if message["number"] == self._number:
                return Result(message["code"], message["output"], message["seconds"])

    def until(self, command: str, seconds: float = 120.0) -> float:
        """Repeat a command until it ends with 0; returns the seconds that took."""
        began = time.monotonic()
        while True:
            done = self.run(command)
            if done.code == 0:
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"`{command}` fails after {seconds} s: {done.output[-2000:]}"
            time.sleep(0.3)

    def _receive(self, end: float) -> dict[str, Any]:
        assert self._port is not None
        while b"\n" not in self._text:
            self._alive(end)
            self._port.settimeout(max(0.001, min(1.0, end - time.monotonic())))
            try:
                part = self._port.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._ended() from error
            if not part:
                raise self._ended()
            self._text += part
        line, _, self._text = self._text.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _ended(self) -> MachineFailed:
        """Return the error for a connection that QEMU has closed, which it may do a moment before it ends."""
        assert self._qemu is not None
        with suppress(subprocess.TimeoutExpired):
            self._qemu.wait(10)
        return MachineFailed(f"qemu ended with {self._qemu.returncode}:\n{self.tail()}")

    def _alive(self, end: float) -> None:
        assert self._qemu is not None
        if self._qemu.poll() is not None:
            raise MachineFailed(f"qemu ended with {self._qemu.returncode}:\n{self.tail()}")
        if time.monotonic() > end:
            raise MachineFailed(f"no answer in time:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of the console, which has the journal too."""
        return self.console.read_text(errors="replace")[-4000:]

    def journal(self, *options: str) -> str:
        return self.run(f"journalctl --no-pager -o short-monotonic {' '.join(options)}").output

    def suspend(self, state: Path) -> None:
        """Write memory and devices to a file, and end; `start(state)` continues on an overlay of the same disk."""
        with self._connect(self._monitor, time.monotonic() + 30) as port, port.makefile("rwb") as monitor:
            ask(monitor, "qmp_capabilities")
            ask(monitor, "migrate-set-parameters", {"max-bandwidth": 1 << 40})
            ask(monitor, "migrate", {"uri": f"exec:cat > {state}"})
            while (status := ask(monitor, "query-migrate")["status"]) != "completed":
                if status in ("failed", "cancelled"):
                    raise MachineFailed(f"cannot suspend: {status}")
                time.sleep(0.2)
        self.power_cut()

    def power_cut(self) -> None:
        """End the machine at once, as by pulling the plug."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        if self._port is not None:
            self._port.close()
        self._qemu = self._port = None
        for address in (self._address, self._monitor):
            address.unlink(missing_ok=True)

    def power_off(self, seconds: float = 180.0) -> None:
        """Shut down in order, as before an overlay is kept."""
        assert self._qemu is not None
        self.send("systemctl --no-block poweroff")
        self._qemu.wait(seconds)
        self.power_cut()

    def reboot(self) -> float:
        """Shut down in order and boot again."""
        self.power_off()
        return self.start()

    def close(self) -> None:
        self.power_cut()
        self.overlay.unlink(missing_ok=True)


def ask(monitor: Any, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a command to QEMU's monitor (QMP) and return its answer."""
    monitor.write(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
    monitor.flush()
    for line in monitor:
        message = json.loads(line)
        if "error" in message:
            raise MachineFailed(f"{command}: {message['error']['desc']}")
        if "return" in message:
            answer: dict[str, Any] = message["return"]
            return answer
    raise MachineFailed(f"{command}: no answer")


def overlay(disk: Path, out: Path) -> None:
    """Write an empty qcow2 on top of a raw or qcow2 disk, which is not changed."""
    kind = "qcow2" if disk.suffix == ".qcow2" else "raw"
    quietly("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", kind, str(out))


def copy_disk(disk: Path, out: Path) -> None:
    quietly("cp", "--sparse=always", str(disk), str(out))


def quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def missing(arch: str) -> str | None:
    """Return what this machine lacks to emulate one of `arch`, or None."""
    for program in (MACHINES[arch][0], "qemu-img", "setpriv"):
        if shutil.which(program) is None:
            return f"needs {program}: apt install qemu-system-arm qemu-system-x86 qemu-utils ipxe-qemu"
    return None

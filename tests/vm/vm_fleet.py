"""Virtual machines as a fleet of Ansible, which reaches them by SSH only."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fake_jetson import sign_wheelhouse
from make_image import CACHE
from qemu import Machine, quietly

NAMES = tuple(f"board{number + 1}" for number in range(int(os.environ.get("EDGESPARSE_VM_BOARDS", "2"))))
"""Four take an hour where two cores are shared with others."""
NETWORK = "ip link set lo up; ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0"
SETTINGS = """\
run:
  cameras:
    - {name: gate, source: /dev/video0, size: 320x180, rate: 1}
service:
  limits: {memory: 50 MB}
"""
"""Slower than a board's: the machines share this one's cores."""

Make = Callable[[int], Machine]
"""Makes a machine whose SSH server is at that port of the loopback."""


class Fleet:
    """The machines by name, and in `folder` what Ansible needs: an inventory, a key, settings per host."""

    def __init__(self, folder: Path, make: Make) -> None:
        self.folder, self.inventory = folder, folder / "inventory.yml"
        # Its threads stay: QEMU ends with the thread that started it.
        self._starters = ThreadPoolExecutor(len(NAMES))
        self._ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.machines = {name: make(port) for name, port in self._ports.items()}
        quietly("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
        (folder / "settings").mkdir()
        for name in NAMES:
            (folder / "settings" / f"{name}.yaml").write_text(SETTINGS)
        self.inventory.write_text(json.dumps(self._inventory()))

    def _inventory(self) -> dict[str, object]:
        options = f"-o UserKnownHostsFile={self.folder}/known_hosts -o ConnectTimeout=60"
        login = {"ansible_user": "root", "ansible_ssh_private_key_file": str(self.folder / "key")}
        hosts = {name: {"ansible_host": "127.0.0.1", "ansible_port": port} for name, port in self._ports.items()}
        sites = {"north": {"hosts": hosts}}
        canary: dict[str, object] = {"hosts": {NAMES[0]: {}}}
        variables = {**login, "ansible_ssh_common_args": options, "ansible_timeout": 60}
        return {"all": {"vars": variables, "children": {"sites": {"children": sites}, "canary": canary}}}

    def start(self, *names: str) -> None:
        """Boot these machines, by default all, at the same time, and let Ansible in."""
        list(self._starters.map(self._start, names or NAMES))

    def close(self) -> None:
        for machine in self.machines.values():
            machine.close()
        self._starters.shutdown()

    def _start(self, name: str) -> None:
        machine = self.machines[name]
        machine.start()
        public = (self.folder / "key.pub").read_text().strip()
        machine.check(f"mkdir -p -m 700 /root/.ssh; echo '{public}' > /root/.ssh/authorized_keys; {NETWORK}")
        machine.check("systemctl start ssh; sync")
        kind, key = machine.check("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
        with (self.folder / "known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{self._ports[name]} {kind} {key}\n")


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def small_wheelhouse(wheelhouse: Path, out: Path) -> Path:
    """Return a wheelhouse without the wheels that the machines have already: Ansible takes seconds for each file."""
    shutil.copytree(wheelhouse, out)
    build = re.findall(r"^([\w-]+)==", (out / "deploy" / "locks" / "build.txt").read_text(), re.M)
    for wheel in (out / "wheels").iterdir():
        if wheel.name.partition("-")[0] not in ("edgesparse", *build):
            wheel.unlink()
    sign_wheelhouse(out, CACHE / "fleet.key")
    return out

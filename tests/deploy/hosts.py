"""Hosts on this machine: each is a network namespace with an SSH server and its own copy of a device's files.

    python tests/deploy/hosts.py FOLDER [COUNT]     # starts them, writes FOLDER/inventory.yml, waits for Ctrl-C

A host has its own address, host name, /etc/edgesparse, /var/lib/edgesparse, /run/edgesparse and /var/cache/edgesparse
(bound over the machine's in a mount namespace). It shares everything else, including /opt/edgesparse, which is this
checkout's environment. systemd does not run in it: `SYSTEMCTL` replaces `systemctl restart edgesparse`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

OWN = ("/etc/edgesparse", "/var/lib/edgesparse", "/run/edgesparse", "/var/cache/edgesparse")
BRIDGE, NETWORK = "esfleet", "10.213.0"
ENVIRONMENT = Path("/opt/edgesparse")

SYSTEMCTL = """\
#!/bin/sh
# Replaces systemctl where systemd does not run: supports `restart edgesparse` only.
[ "$*" = "restart edgesparse" ] || exit 1
if [ -e /etc/edgesparse/die ]; then
  rm /etc/edgesparse/die
  for pid in $(ip netns pids {name}); do [ "$pid" = $$ ] || kill -9 "$pid"; done
  exit 1
fi
pid=$(cat /run/edgesparse/pid 2>/dev/null) && kill "$pid" 2>/dev/null
export EDGESPARSE_STATE=/var/lib/edgesparse RUNTIME_DIRECTORY=/run/edgesparse
setsid /opt/edgesparse/bin/edgesparse run --service --settings /etc/edgesparse/device.yaml \\
  /var/lib/edgesparse/current/package >{folder}/service.log 2>&1 </dev/null &
echo $! > /run/edgesparse/pid
"""
"""Restarts the unit's command. On a host with a file /etc/edgesparse/die it kills everything, the SSH server included,
in the middle of a deploy."""

DEVICE = """\
run:
  cameras:
    - {{name: camera, source: {source}, rate: 2}}
"""


class Host:
    """One host. `kill` is a power cut, `start` restores power, `unplug` disconnects its network."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name, self.address = f"esf{number}", f"{NETWORK}.{number + 10}"
        self.folder = folder / self.name
        for name in OWN:
            (self.folder / name.lstrip("/")).mkdir(parents=True)
        (self.folder / "systemctl").write_text(SYSTEMCTL.format(folder=self.folder, name=self.name))
        (self.folder / "systemctl").chmod(0o755)
        self.camera("demo")
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", self.name, "master", BRIDGE, "up")
        for command in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            run("ip", "-n", self.name, *command.split())
        self._configure(folder)

    def _configure(self, folder: Path) -> None:
        key = self.folder / "hostkey"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        with (folder / "known_hosts").open("a") as known:
            known.write(f"{self.address} {' '.join(key.with_suffix('.pub').read_text().split()[:2])}\n")
        (self.folder / "sshd_config").write_text(
            f"HostKey {key}\nPidFile {self.folder}/sshd.pid\nAuthorizedKeysFile {folder}/key.pub\nStrictModes no\n"
            f"UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nListenAddress {self.address}\n"
            f"AcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\n"
        )

    def file(self, name: str) -> Path:
        """Return the path, outside the host, of one of its own files."""
        return self.folder / name.lstrip("/")

    def camera(self, source: str) -> None:
        """Set the service's only camera; takes effect at its next start."""
        self.file("/etc/edgesparse/device.yaml").write_text(DEVICE.format(source=source))

    def start(self) -> None:
        binds = [f"mount --bind {self.folder}{name} {name}" for name in OWN]
        binds += [f"mount --bind {self.folder}/systemctl /usr/bin/systemctl", f"hostname {self.name}"]
        (self.folder / "sshd.pid").unlink(missing_ok=True)
        inside = " && ".join([*binds, f"exec /usr/sbin/sshd -f {self.folder}/sshd_config -E {self.folder}/sshd.log"])
        run("ip", "netns", "exec", self.name, "unshare", "--uts", "--mount", "sh", "-c", inside)
        deadline = time.monotonic() + 20
        while not (self.folder / "sshd.pid").exists():
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "sshd.log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        kill(self.name)

    def unplug(self, out: bool = True) -> None:
        run("ip", "link", "set", self.name, "down" if out else "up")


class Hosts:
    """`count` hosts on one bridge, with a key for root, and an inventory of two sites and a canary."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
        Path("/run/sshd").mkdir(exist_ok=True)
        self._lock = only_one()
        remove()  # what a run left that was killed
        self.created = [path for name in OWN if create(path := Path(name))]
        if not ENVIRONMENT.exists():
            ENVIRONMENT.symlink_to(Path(sys.executable).parents[1])
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        self.hosts: list[Host] = []
        try:
            for number in range(1, count + 1):
                self.hosts.append(Host(folder, number))
                self.hosts[-1].start()
        except BaseException:
            self.close()
            raise
        (folder / "inventory.yml").write_text(self.inventory())

    def inventory(self) -> str:
        """Return an inventory of the sites north and south; the first host of north is the canary."""
        north, south = self.hosts[: len(self.hosts) // 2], self.hosts[len(self.hosts) // 2 :]
        options = f"-o UserKnownHostsFile={self.folder}/known_hosts -o ConnectTimeout=5"
        lines = ["all:", "  vars:", "    ansible_user: root", f"    ansible_ssh_private_key_file: {self.folder}/key"]
        lines += [f'    ansible_ssh_common_args: "{options}"', "  children:", "    sites:", "      children:"]
        for site, hosts in (("north", north), ("south", south)):
            lines += [f"        {site}:", "          hosts:"]
            lines += [f"            {host.name}: {{ansible_host: {host.address}}}" for host in hosts]
        return "\n".join([*lines, "    canary:", "      hosts:", f"        {north[0].name}:", ""])

    def close(self) -> None:
        remove()
        for path in reversed(self.created):
            with suppress(OSError):  # something else on this machine uses it
                path.rmdir()
        os.close(self._lock)


def only_one() -> int:
    """Return the descriptor of the lock that these hosts hold: names and addresses are the machine's."""
    lock = os.open("/run/edgesparse-hosts.lock", os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RuntimeError("other hosts are running on this machine: wait until their tests have ended") from None
    return lock


def remove() -> None:
    """Remove all hosts, their bridge and the link to an environment."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for name in re.findall(r"^esf\d+", names, re.M):
        kill(name)
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)
    if ENVIRONMENT.is_symlink():
        ENVIRONMENT.unlink()


def kill(name: str) -> None:
    """Kill everything that runs on a host."""
    output = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in output.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def create(path: Path) -> bool:
    """Create a mount point. Returns False if it exists."""
    exists = path.exists()
    path.mkdir(parents=True, exist_ok=True)
    return not exists


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def possible() -> str:
    """Return the reason why hosts cannot be created here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    absent = [name for name in ("ip", "/usr/sbin/sshd", "ssh", "unshare") if shutil.which(name) is None]
    return f"needs {', '.join(absent)}: apt install openssh-server iproute2" if absent else ""


if __name__ == "__main__":
    if why := possible():
        sys.exit(f"hosts: {why}")
    hosts = Hosts(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
    print(f"ansible-playbook -i {hosts.folder}/inventory.yml ...; Ctrl-C stops them", file=sys.stderr)
    try:
        signal.pause()
    except KeyboardInterrupt:
        hosts.close()

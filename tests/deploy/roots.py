"""A Debian root in place of a Jetson's file system, created once by debootstrap; each use writes to an overlay.

Stand-ins for parts of a Jetson that are not available here: STAND_INS below, and Debian's Python 3.11 instead of
JetPack 6's 3.10. Everything else is real: apt, useradd, venv, pip, systemctl in a root that is not booted. arm64 runs
under qemu-user through binfmt_misc.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from emulation import emulates

CACHE = Path(os.environ.get("EDGESPARSE_ROOTS", Path.home() / ".cache" / "edgesparse" / "roots"))
DEBIAN = ["bookworm", "http://deb.debian.org/debian"]
PACKAGES = "ca-certificates,python3,python3-venv,systemd"
ARCHS = {"x86_64": "amd64", "aarch64": "arm64"}

STAND_INS = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 0, BOARD: generic, EABI: aarch64\n",
    "usr/lib/python3/dist-packages/tensorrt/__init__.py": "__version__ = '10.3.0'\n",
    "usr/lib/python3/dist-packages/pycuda/__init__.py": "VERSION_TEXT = '2026.1'\n",
    "usr/lib/python3/dist-packages/pycuda/driver.py": "",
    "usr/local/cuda/bin/nvcc": "#!/bin/sh\nexit 1\n",
    "usr/bin/nvidia-smi": "#!/bin/sh\necho 'Orin (nvgpu), 8.7, 540.4.0'\n",
    "usr/sbin/nvpmodel": "#!/bin/sh\necho 'NV Power Mode: 15W'\necho 0\n",
}
"""Files and their contents. A module without functions can only be imported, as provisioning does."""


def skip_unless_possible(arch: str) -> None:
    """Needs root, debootstrap, overlays, and qemu-user for another machine's programs."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for debootstrap")
    if shutil.which("debootstrap") is None:
        pytest.skip("needs debootstrap: apt install debootstrap")
    if arch != platform.machine() and not emulates(arch):
        pytest.skip(f"needs qemu-user for {arch}: apt install qemu-user-static, and binfmt_misc")


def base(arch: str) -> Path:
    """Return the cached root; creating it takes half a minute, and some minutes under qemu."""
    root = CACHE / f"bookworm-{arch}"
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    suite, mirror = DEBIAN
    command = [
        "debootstrap",
        f"--arch={ARCHS[arch]}",
        "--variant=minbase",
        f"--include={PACKAGES}",
        suite,
        str(root),
        mirror,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"debootstrap failed: {done.stdout[-300:]}{done.stderr[-300:]}")
    (root / "complete").touch()
    return root


MOUNT = """\
set -e
root=$0 upper=$1 work=$2 base=$3
mount -t overlay overlay -o "lowerdir=$base,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node" && mount --bind "/dev/$node" "$root/dev/$node"
done
shift 3
exec chroot "$root" "$@"
"""
"""Everything is mounted in a namespace that ends with the command: no other program sees it or has to clean it up."""


class Root:
    """An overlay on the cached root: `place` adds files, `run` runs a command in it."""

    def __init__(self, arch: str, scratch: Path) -> None:
        self._base, self._scratch = base(arch), scratch
        for name in ("root", "upper", "work"):
            (scratch / name).mkdir(parents=True)
        self.place("etc/resolv.conf", Path("/etc/resolv.conf").read_text())
        done = self.run("true")
        if done.returncode:
            pytest.skip(f"needs overlay mounts in a namespace: {done.stderr}")

    def path(self, name: str) -> Path:
        """Return the path, outside the root, of a file that was placed in it."""
        return self._scratch / "upper" / name.lstrip("/")

    def place(self, name: str, source: str | Path) -> None:
        """Add text, or a copy of a file or folder, readable by everybody."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, str):
            path.write_text(source)
        elif source.is_dir():
            shutil.copytree(source, path)
        else:
            shutil.copy(source, path)
            return
        if path.is_file():
            path.chmod(0o755 if "bin/" in name else 0o644)

    def stand_in(self) -> None:
        for name, text in STAND_INS.items():
            self.place(name, text)

    def trust_the_same(self) -> None:
        """Have the root's pip use this machine's package index and certificates."""
        for name in ("etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
            if Path("/", name).exists():
                self.place(name, Path("/", name))

    def run(self, *command: str, network: bool = True) -> subprocess.CompletedProcess[str]:
        isolation = [] if network else ["--net"]
        folders = [str(self._scratch / name) for name in ("root", "upper", "work")]
        inside = ["sh", "-c", MOUNT, *folders, str(self._base), *command]
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", *isolation, *inside],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
            capture_output=True,
            text=True,
            check=False,
            timeout=3000,
        )

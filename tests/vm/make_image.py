#!/usr/bin/env python3
"""Make a Debian root for a virtual machine, from Debian's packages and a wheelhouse: kernel, initrd and an ext4 disk.

    python tests/vm/make_image.py --arch aarch64 --wheels WHEELHOUSE/wheels

It has systemd, Python, V4L2's driver `vivid`, and the packages that edgesparse requires in /opt/edgesparse: unpacking
and compiling them takes half an hour by emulation. edgesparse itself is not in it. Needs root, mmdebstrap, a mirror,
this Python in Debian's version, and qemu-user for another machine's packages. Cached in ~/.cache/edgesparse/vm or
EDGESPARSE_VM by the hash of what goes into it; older ones are removed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from emulation import emulates

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("EDGESPARSE_VM", Path.home() / ".cache" / "edgesparse" / "vm"))
ARCHS = {"aarch64": "arm64", "x86_64": "amd64"}
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PYTHON = "3.11"
"""Debian 12's."""
LOCK = ROOT / "deploy" / "locks" / "pip-opencv.txt"
VENV = "opt/edgesparse"
PACKAGES = (
    "busybox-static ca-certificates dbus iproute2 kmod openssh-server openssl procps python3 python3-venv systemd"
    " systemd-sysv systemd-timesyncd tzdata udev v4l-utils"
)
UNUSED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
NO_DRIVERS = ("gpu", "infiniband", "net/ethernet", "net/wireless", "scsi", "staging", "usb", "iio", "hwmon")
FIRST_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio-rng", "crc32c_generic", "ext4")
"""Modules that find the root and the host; udev loads the others from it."""
DISK = "3G"

KERNEL = """\
set -e
cd "$1/boot"
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
kernel=$(apt-cache depends "linux-image-$DEBIAN" | sed -n 's/^ *Depends: \\(linux-image-[^ ]*\\).*/\\1/p' | head -1)
apt-get download "$kernel"
dpkg-deb --fsys-tarfile linux-image-*.deb | tar --extract --keep-directory-symlink --directory "$1"
rm linux-image-*.deb
"""
"""Only unpacked: installing it would bring initramfs-tools, whose initrd takes long to load."""

INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "/$module"; done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -o rw,errors=remount-ro /dev/vda /root
/bin/busybox umount /proc
[ -n "$program" ] || exec /bin/busybox switch_root /root /sbin/init
/bin/busybox mount -t proc proc /root/proc
/bin/busybox mount -t sysfs sysfs /root/sys
/bin/busybox mount -t devtmpfs dev /root/dev
for folder in run tmp; do /bin/busybox mount -t tmpfs tmpfs "/root/$folder"; done
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/host
exec /bin/busybox switch_root /root $program
"""
"""`program=...` on the kernel's command line, without spaces, runs a program of /host in place of systemd."""

CAMERA = "options vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x00\n"
"""One capture device, with the discrete sizes and rates of a webcam."""

FILES = {
    "etc/hostname": "board\n",
    "etc/hosts": "127.0.0.1 localhost board\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/fstab": """\
/dev/vda / ext4 defaults,errors=remount-ro 0 0
/dev/vdb /host ext4 ro,x-systemd.device-timeout=600 0 0
""",
    "host/empty": "",
    "etc/modprobe.d/camera.conf": CAMERA,
    "etc/modules-load.d/camera.conf": "vivid\n",
    "etc/systemd/system/vm-agent.service": """\
[Unit]
Description=Commands from the host
[Service]
ExecStart=/usr/local/sbin/vm-agent
Restart=always
OOMScoreAdjust=-1000
OOMPolicy=continue
[Install]
WantedBy=multi-user.target
""",
    "etc/systemd/journald.conf.d/vm.conf": "[Journal]\nForwardToConsole=yes\nStorage=persistent\n",
}
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "getty.target", "systemd-binfmt.service", "systemd-logind.service"),
)
"""What a test does not need and what slows a boot."""
STOPPED = ("multi-user.target.wants/ssh.service", "sshd.service", "sysinit.target.wants/systemd-timesyncd.service")
"""Started only by the tests that need them."""


@dataclass(frozen=True)
class Image:
    """What a virtual machine boots: `disk` is the raw ext4 root, used as the backing file of overlays."""

    arch: str
    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "root.ext4"

    @property
    def shared(self) -> dict[str, Path]:
        """Folders of this computer that the machine may read through 9p, by their tags."""
        return {}


class CannotMake(Exception):
    """This machine lacks something that an image needs."""


def image_name(arch: str) -> str:
    """Return the name of the image in the cache, which changes with whatever goes into it."""
    inputs = b"".join(path.read_bytes() for path in (Path(__file__), HERE / "guest.py", LOCK))
    return f"{SUITE}-{arch}-{hashlib.sha256(inputs).hexdigest()[:12]}"


def make_image(arch: str, wheels: Path) -> Image:
    """Return the image for `arch` (aarch64 or x86_64), made if the cache has none.

    `wheels` is a folder with those that deploy/locks pins. Raises CannotMake.
    """
    folder = CACHE / image_name(arch)
    if not folder.is_dir():
        _need(arch)
        for old in CACHE.glob(f"{SUITE}-{arch}-*"):
            shutil.rmtree(old)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            unfinished = Path(scratch) / "image"
            unfinished.mkdir()
            _make(Path(scratch) / "root", Image(arch, unfinished), wheels)
            unfinished.rename(folder)
    return Image(arch, folder)


def _need(arch: str) -> None:
    if os.geteuid() != 0:
        raise CannotMake("making an image needs root")
    for program in ("mmdebstrap", "bsdtar", "depmod", "mke2fs"):
        if shutil.which(program) is None:
            raise CannotMake(f"{program} is missing: apt install mmdebstrap libarchive-tools kmod e2fsprogs")
    if "{}.{}".format(*sys.version_info[:2]) != PYTHON:
        raise CannotMake(f"this Python must be {PYTHON}, like Debian's: its compiled modules go into the image")
    if arch != platform.machine() and not emulates(arch):
        raise CannotMake(f"cannot run programs for {arch}: apt install qemu-user-static, and mount binfmt_misc")


def _make(root: Path, image: Image, wheels: Path) -> None:
    _install(root, image.arch)
    _configure(root)
    _unpack(root, image.arch, wheels)
    (version,) = [path.name for path in (root / "lib/modules").iterdir()]
    for name in NO_DRIVERS:
        shutil.rmtree(root / f"lib/modules/{version}/kernel/drivers/{name}", ignore_errors=True)
    run("depmod", "--basedir", str(root), version)
    modules = root / "lib/modules" / version
    write_initrd(modules, closure((modules / "modules.dep").read_text()), root / "bin/busybox", INIT, image.initrd)
    (root / f"boot/vmlinuz-{version}").rename(image.kernel)
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image.disk), DISK)


def _install(root: Path, arch: str) -> None:
    hook = root.with_name("kernel.sh")
    hook.write_text(KERNEL)
    options = [word for path in UNUSED for word in ("--dpkgopt", f"path-exclude={path}")]
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--arch={ARCHS[arch]}", *options]
    command += [f"--include={PACKAGES.replace(' ', ',')}", f'--customize-hook=DEBIAN={ARCHS[arch]} sh {hook} "$1"']
    run(*command, SUITE, str(root), MIRROR)


def _unpack(root: Path, arch: str, wheels: Path) -> None:
    """Install what edgesparse requires as an earlier release would have, natively: compiled modules are portable."""
    run("chroot", str(root), "python3", "-m", "venv", "--system-site-packages", f"/{VENV}")
    wheelhouse = runpy.run_path(str(ROOT / "scripts" / "wheelhouse"))
    pinned = root.with_name("pinned.txt")
    pinned.write_text("".join(wheelhouse["pins"](LOCK.read_text(), PYTHON, arch).values()))
    target = root / VENV / "lib" / f"python{PYTHON}" / "site-packages"
    options = ["--quiet", "--no-deps", "--no-index", "--require-hashes", "--find-links", str(wheels)]
    options += ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    options += [word for name in wheelhouse["PLATFORMS"][arch] for word in ("--platform", name)]
    run(sys.executable, "-m", "pip", "install", *options, "--target", str(target), "-r", str(pinned))
    shutil.rmtree(target / "bin", ignore_errors=True)  # its programs name this machine's Python


def _configure(root: Path) -> None:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    agent = root / "usr/local/sbin/vm-agent"
    shutil.copy(HERE / "guest.py", agent)
    agent.chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/vm-agent.service").symlink_to("/etc/systemd/system/vm-agent.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    for name in STOPPED:
        (units / name).unlink(missing_ok=True)
    for name in ("etc/resolv.conf", "var/lib/dbus/machine-id"):
        (root / name).unlink(missing_ok=True)


def write_initrd(modules: Path, names: list[str], busybox: Path, init: str, out: Path) -> None:
    """Write an initrd of busybox, the program `init`, and these modules, in the order in which they load."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        tree = Path(scratch)
        for name in ("bin", "proc", "dev", "root"):
            (tree / name).mkdir()
        shutil.copy(busybox, tree / "bin/busybox")
        for name in names:
            shutil.copy(modules / name, tree / Path(name).name)
        (tree / "modules").write_text("\n".join(Path(name).name for name in names))
        (tree / "init").write_text(init)
        (tree / "init").chmod(0o755)
        run("bsdtar", "--create", "--format=newc", "--file", str(out), "--directory", str(tree), ".")


def closure(dependencies: str, names: Sequence[str] = FIRST_MODULES) -> list[str]:
    """Return the paths of these modules and what they need, from modules.dep: what is needed comes first."""
    table = {path: needed.split() for path, _, needed in (line.partition(":") for line in dependencies.splitlines())}
    paths: list[str] = []
    for name in names:
        (module,) = [path for path in table if Path(path).stem == name]
        paths += [path for path in [*reversed(table[module]), module] if path not in paths]
    return paths


def run(*command: str, folder: Path | None = None) -> None:
    """Run a program, in that folder. Raises CannotMake with the end of its output if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=3000)
    if done.returncode:
        raise CannotMake(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", choices=sorted(ARCHS), default="aarch64")
    parser.add_argument("--wheels", type=Path, required=True, help="a folder that scripts/wheelhouse has filled")
    options = parser.parse_args()
    try:
        print(make_image(options.arch, options.wheels).folder)
    except CannotMake as error:
        print(f"make_image: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

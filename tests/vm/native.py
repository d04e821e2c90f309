"""A virtual machine of this computer's architecture, on this computer's own files: it boots in seconds, with no image.

Its kernel is Debian's. The root is that of this computer, read through 9p and never changed: an overlay in memory takes
what is written. Needs QEMU, busybox-static, kmod, bsdtar, and a Debian whose mirror has the kernel.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from make_image import ARCHS, FIRST_MODULES, ROOT, CannotMake, Image, closure, run, write_initrd
from power import Writer
from qemu import Disks, Machine

ARCH = platform.machine()
MODULES = (*FIRST_MODULES, "9pnet_virtio", "9p", "overlay")
DRIVERS = (*MODULES, "vivid")
BUSYBOX = Path("/bin/busybox")

INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "/$module"; done
for tag in computer added; do
  /bin/busybox mkdir /$tag
  /bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 $tag /$tag
done
/bin/busybox mkdir /memory
/bin/busybox mount -t tmpfs tmpfs /memory
/bin/busybox mkdir /memory/new /memory/work
/bin/busybox mount -t overlay -o lowerdir=/added:/computer,upperdir=/memory/new,workdir=/memory/work overlay /root
/bin/busybox umount /proc
/bin/busybox mount -t proc proc /root/proc
/bin/busybox mount -t sysfs sysfs /root/sys
/bin/busybox mount -t devtmpfs dev /root/dev
/bin/busybox mount -t tmpfs tmpfs /root/run
exec /bin/busybox switch_root /root $program
"""


@dataclass(frozen=True)
class NativeImage(Image):
    """`added` is laid over this computer's root: modules, /host for this checkout, /opt/edgesparse for this Python."""

    @property
    def added(self) -> Path:
        return self.folder / "added"

    @property
    def shared(self) -> dict[str, Path]:
        return {"computer": Path("/"), "added": self.added}


class NativeWriter(Writer):
    """writer.py in a native machine, which boots each time: a machine that reads through 9p cannot be suspended."""

    def __init__(self, image: NativeImage) -> None:
        super().__init__(image, image.folder)
        self.state = None

    def machine(self, folder: Path, disks: Disks | None = None) -> Machine:
        return super().machine(folder, disks or Disks())


def make_native(folder: Path) -> NativeImage:
    """Write kernel, initrd and `added` into a new folder. Raises CannotMake."""
    for program in ("bsdtar", "depmod", "dpkg-deb", "apt-get"):
        if shutil.which(program) is None:
            raise CannotMake(f"{program} is missing: apt install libarchive-tools kmod, on Debian")
    if not BUSYBOX.exists():
        raise CannotMake("busybox is missing: apt install busybox-static")
    image = NativeImage(ARCH, folder)
    folder.mkdir(parents=True)
    unpacked = _fetch_kernel(folder)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.move(kernel, image.kernel)
    version = kernel.name.removeprefix("vmlinuz-")
    modules = image.added / "usr" / "lib" / "modules" / version
    _copy_modules(unpacked / "lib" / "modules" / version, modules)
    write_initrd(modules, closure((modules / "modules.dep").read_text(), MODULES), BUSYBOX, INIT, image.initrd)
    shutil.rmtree(unpacked)
    (image.added / "host").symlink_to(ROOT)
    (image.added / "opt").mkdir()
    (image.added / "opt" / "edgesparse").symlink_to(sys.prefix)
    return image


def _fetch_kernel(folder: Path) -> Path:
    """Download Debian's kernel and unpack it, which needs no root and changes nothing on this computer."""
    general = f"linux-image-{ARCHS[ARCH]}"
    text = subprocess.run(["apt-cache", "depends", general], capture_output=True, text=True, check=False).stdout
    names = [line.split()[-1] for line in text.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise CannotMake(f"apt knows no {general}: apt-get update, on Debian")
    run("apt-get", "download", names[0], folder=folder)
    (package,) = folder.glob("linux-image-*.deb")
    run("dpkg-deb", "--extract", str(package), str(folder / "unpacked"))
    package.unlink()
    return folder / "unpacked"


def _copy_modules(source: Path, target: Path) -> None:
    """Copy DRIVERS and what they need, and write the index that modprobe reads."""
    base = source.parents[2]
    run("depmod", "--basedir", str(base), source.name)
    for name in closure((source / "modules.dep").read_text(), DRIVERS):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)
    run("depmod", "--basedir", str(target.parents[2]), source.name)

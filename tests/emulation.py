"""Programs of another architecture, which qemu-user runs through binfmt_misc."""

from __future__ import annotations

import subprocess
from pathlib import Path

BINFMT = Path("/proc/sys/fs/binfmt_misc")


def emulates(arch: str) -> bool:
    """Whether this kernel runs that architecture's programs with qemu, which is registered if possible."""
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], capture_output=True, check=False)
    entry = Path(f"/usr/lib/binfmt.d/qemu-{arch}.conf")
    if not (BINFMT / f"qemu-{arch}").exists() and entry.exists() and (BINFMT / "register").exists():
        (BINFMT / "register").write_text(entry.read_text().strip())
    return (BINFMT / f"qemu-{arch}").exists()

"""What a virtual machine gets from the host: a signed wheelhouse, a key, settings, and bundles of a real detector."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import squares
from make_image import CACHE, PYTHON, ROOT

SOFTWARE = ("edgesparse", "deploy", "scripts/provision", "scripts/wheelhouse", "apps/detect.py", "tests/vm/inside")
VERSIONS = ("1.0", "1.1")
SETTINGS = """\
run:
  cameras:
    - {name: gate, source: /dev/video0, size: 320x180, fps: 5}
service:
  limits: {memory: 50 MB}
"""
# Emulation is slow: frames and their detections are older than on a board.
DEPLOY = {"max_age_ms": 60_000, "images": "images"}


def software() -> str:
    """Return a hash of all that the payload is made of."""
    sums = hashlib.sha256(Path(__file__).read_bytes())
    for name in SOFTWARE:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                sums.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return sums.hexdigest()[:12]


def make_wheelhouse(arch: str) -> Path:
    """Fill the folder that provisioning installs from, unless an earlier run filled it with this same software.

    Raises subprocess.CalledProcessError where wheels cannot be fetched.
    """
    folder, key = CACHE / f"wheelhouse-{arch}", CACHE / "fleet.key"
    stamp, contents = CACHE / f"wheelhouse-{arch}.software", software()
    if stamp.exists() and stamp.read_text() == contents:
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    if not key.exists():
        edgesparse(CACHE, "keys", "new", "fleet")
    stamp.unlink(missing_ok=True)
    program = [sys.executable, str(ROOT / "scripts" / "wheelhouse"), str(folder)]
    command = [*program, "--key", str(key), "--arch", arch, "--python", PYTHON]
    subprocess.run(command, check=True, capture_output=True, text=True)
    stamp.write_text(contents)
    return folder


def make_disk(wheelhouse: Path, arch: str) -> Path:
    """Return the ext4 image that machines mount at /host, of wheelhouse, key, settings, bundles and programs."""
    disk, folder = CACHE / f"host-{arch}-{software()}.ext4", CACHE / f"host-{arch}"
    if disk.exists():
        return disk
    for old in CACHE.glob(f"host-{arch}-*.ext4"):
        old.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(wheelhouse, folder / "wheelhouse")
    shutil.copy(CACHE / "fleet.pub", folder)
    (folder / "device.yaml").write_text(SETTINGS)
    for version in VERSIONS:
        make_bundle(folder / "contents", folder / f"{version}.esb", version)
    (folder / "apps").mkdir()
    shutil.copy(ROOT / "apps" / "detect.py", folder / "apps")
    shutil.copytree(Path(__file__).with_name("inside"), folder / "inside")
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    size = sum(path.stat().st_size for path in folder.rglob("*")) * 12 // 10 + (32 << 20)
    unfinished = disk.with_suffix(".part")
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(unfinished), f"{size >> 10}k"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(folder)
    return unfinished.rename(disk)


def make_bundle(contents: Path, out: Path, version: str) -> None:
    """Write a signed bundle of a detector of red and green squares, which ONNX Runtime builds and runs."""
    (contents / "images").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(contents / "images" / "red.png"), squares.image([(3, 3, 0)]))
    model = squares.detector(contents / "squares.onnx", shift=float(version.partition(".")[2]) / 100)
    recipe = {"model": model.name, "classes": list(squares.NAMES), "deploy": DEPLOY}
    recipe["build"] = {"backend": "onnxruntime", "candidates": ["fp32"]}
    (contents / "squares.yaml").write_text(json.dumps(recipe))
    options = ("--key", str(CACHE / "fleet.key"), "--images", "images", "--version", version)
    edgesparse(contents, "bundle", "squares.yaml", "-o", str(out), *options)


def edgesparse(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "edgesparse", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)

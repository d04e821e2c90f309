"""Software: Debian packages, the virtual environment with edgesparse and pycuda, and whether TensorRT loads."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .system import Change, StepFailed, System, sha256
from .wheelhouse import AGAIN

HERE = Path(__file__).resolve().parents[2]
"""The checkout, or a folder written by scripts/wheelhouse, which has the same layout."""

VENV = "/opt/edgesparse"
STAMP = f"{VENV}/provisioned.json"
"""Written last: a record of what is installed, so that it is not installed again."""
UNFINISHED = "{}"
"""What it holds while pip installs. After a kill or a power cut, pip believes that a package with empty files is
installed."""
EXTRAS = ("eval", "service", "fleet")
LOCKS = "deploy/locks"
"""Pinned versions with hashes; scripts/lock writes them."""
PIP_OPENCV, SYSTEM_OPENCV = "pip-opencv", "system-opencv"
"""The two lock files. JetPack 6 built its OpenCV against NumPy 1."""
CUDA = "/usr/local/cuda"
PYTHON = "/usr/bin/python3"

APT = ("python3-venv",)
COMPILER = ("python3-dev", "g++")
"""Debian packages that are always needed, and those needed to compile pycuda."""

JETPACK_PARTS = {
    "python3-libnvinfer": "/usr/lib/python3*/dist-packages/tensorrt/__init__.py",
    "nvidia-cuda-dev": f"{CUDA}/bin/nvcc",
}
"""JetPack packages, each with a file that shows that it is installed: a minimal image has neither."""


def apt(system: System, offline: Path | None) -> Iterator[Change]:
    """Install Debian packages, unless they are already installed; offline, from the folder's debs/."""
    jetson = bool(system.facts.get("l4t"))
    names = list(APT)
    if jetson:
        names += COMPILER if _pycuda(system) is None else ()
        names += [name for name in JETPACK_PARTS if not _present(system, name)]
    absent = [name for name in names if not _installed(system, name)]
    if not absent:
        return
    if offline is None:
        remedy = "see apt's output above; try sudo apt-get update and sudo apt --fix-broken install"
        yield Change(f"install {', '.join(absent)} by apt", lambda: _apt_get(system, absent, remedy))
        return
    files = sorted(str(file) for file in (offline / "debs").glob("*.deb"))
    remedy = (
        f"with a network: apt-get install --download-only {' '.join(absent)}; copy the .deb files into {offline}/debs"
    )
    if not files:
        raise StepFailed(f"not installed, and not in {offline}/debs: {', '.join(absent)}", remedy)
    yield Change(
        f"install {', '.join(absent)} from {len(files)} files", lambda: _apt_get(system, files, remedy, "--no-download")
    )


def _present(system: System, part: str) -> bool:
    return any(system.root.glob(JETPACK_PARTS[part].lstrip("/")))


def _pending(system: System, part: str) -> bool:
    """Whether an earlier step would install this part of JetPack: only true during a check."""
    return not _present(system, part) and not _installed(system, part)


def _installed(system: System, name: str) -> bool:
    return (system.output("dpkg-query", "--show", "--showformat=${db:Status-Status}", name) or "") == "installed"


def _apt_get(system: System, names: list[str], remedy: str, *options: str) -> None:
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if not options:
        system.run("apt-get", "update", remedy=remedy, **quiet)
    system.run("apt-get", "install", "-y", "--no-install-recommends", *options, *names, remedy=remedy, **quiet)


def venv(system: System) -> Iterator[Change]:
    """Create a virtual environment with the system's Python and access to its packages, such as TensorRT's bindings."""
    folder = system.path(VENV)
    settings = system.read(f"{VENV}/pyvenv.cfg")
    version = re.search(r"^version\s*=\s*(\d+\.\d+)", settings, re.M)
    here = "{}.{}".format(*sys.version_info[:2])
    remedy = f"sudo rm -r {folder}, then run this again"
    if folder.exists() or folder.is_symlink():
        with system.folder(folder):  # its programs run as root
            pass
    if not settings:
        if folder.exists() and any(folder.iterdir()):
            raise StepFailed(f"{folder} is not empty and not a virtual environment", remedy)
        yield Change(f"create {VENV} with Python {here}", lambda: _create(system, folder, remedy))
    elif version is None or version[1] != here:
        raise StepFailed(f"{folder} has Python {version[1] if version else 'unknown'}, the system's is {here}", remedy)
    elif not re.search(r"^include-system-site-packages\s*=\s*true", settings, re.M):
        raise StepFailed(f"{folder} does not see the system's packages, which TensorRT needs", remedy)
    elif system.read(STAMP) in ("", UNFINISHED) and _in_venv(system, "import pip._internal.cli.main") is None:
        what = f"create {VENV} again, in which pip does not load"
        yield Change(what, lambda: _create(system, folder, remedy, "--clear"))


def _create(system: System, folder: Path, remedy: str, *options: str) -> None:
    system.run(PYTHON, "-m", "venv", "--system-site-packages", *options, str(folder), remedy=remedy)
    system.sync()


def packages(system: System, offline: Path | None) -> Iterator[Change]:
    """Install edgesparse and its requirements, again only when the source or a requirement has changed."""
    own_opencv = _jetpack_opencv(system)
    system.facts["opencv"] = "JetPack's, with GStreamer" if own_opencv else "pip's"
    stamp = json.dumps({"source": _source(offline), "opencv": system.facts["opencv"], "extras": EXTRAS})
    if system.read(STAMP) == stamp:
        return
    yield Change(
        f"install edgesparse {_version(offline)} into {VENV}", lambda: _install(system, offline, own_opencv, stamp)
    )


def _jetpack_opencv(system: System) -> bool:
    """Whether the system's OpenCV can open CSI cameras, which pip's cannot."""
    output = system.output(PYTHON, "-c", "import cv2; print(cv2.getBuildInformation())") or ""
    return re.search(r"GStreamer:\s+YES", output) is not None


def _wheel(offline: Path) -> Path:
    """Return edgesparse's wheel in the folder, which `wheelhouse.verify` has checked against its signed list."""
    try:
        listing = json.loads((offline / "wheelhouse.json").read_text())
    except (OSError, ValueError) as error:
        raise StepFailed(f"{offline} was not written by scripts/wheelhouse: {error}", AGAIN, 2) from None
    here = "{}.{}".format(*sys.version_info[:2])
    if here not in listing["python"]:
        raise StepFailed(
            f"{offline} has wheels for Python {', '.join(listing['python'])}, this machine has {here}", AGAIN
        )
    return offline / "wheels" / str(listing["edgesparse"])


def _source(offline: Path | None) -> str:
    """Return a hash of what would be installed."""
    folder = offline or HERE
    if offline is not None:
        files = [_wheel(offline)]
    else:
        files = [HERE / "setup.cfg", *sorted(path for path in (HERE / "edgesparse").rglob("*") if path.is_file())]
    if not files[0].is_file():
        raise StepFailed(
            f"{HERE} is not a checkout of edgesparse", f"pass --offline {HERE} if scripts/wheelhouse wrote it", 2
        )
    files += sorted((folder / LOCKS).glob("*.txt"))
    parts = (f"{path.relative_to(folder)} {sha256(path)}\n" for path in files if "__pycache__" not in path.parts)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _version(offline: Path | None) -> str:
    if offline is not None:
        return _wheel(offline).name.split("-")[1]
    match = re.search(r'VERSION = "([^"]+)"', (HERE / "edgesparse" / "version.py").read_text())
    return match[1] if match else ""


def _install(system: System, offline: Path | None, own_opencv: bool, stamp: str) -> None:
    """Install the pinned requirements, then the wheel without requirements. OpenCV may be JetPack's, which pip's would
    hide. What an interrupted run may have left half-written is installed again.
    """
    again = ("--force-reinstall",) if system.read(STAMP) == UNFINISHED else ()
    system.write(STAMP, UNFINISHED)
    pinned(system, "build", offline, *again)
    pinned(system, SYSTEM_OPENCV if own_opencv else PIP_OPENCV, offline, *again)
    if offline is not None:
        wheel = _wheel(offline)
    else:
        folder = system.path(f"{VENV}/wheel")
        pip(system, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(HERE), offline=None)
        wheel = max(folder.glob("edgesparse-*.whl"), key=lambda path: path.stat().st_mtime)
    pip(system, "install", "--force-reinstall", "--no-deps", str(wheel), offline=offline)
    if own_opencv:
        pip(system, "uninstall", "--yes", "opencv-python", "opencv-python-headless", offline=None)
    system.sync()
    system.write(STAMP, stamp)


def pinned(system: System, lock: str, offline: Path | None, *arguments: str, **environment: str) -> None:
    """Install what a lock file pins: these versions, only files with these hashes. Installing wheels runs no code."""
    file = (offline or HERE) / LOCKS / f"{lock}.txt"
    options = ("--require-hashes", "--only-binary=:all:", *arguments, "-r", str(file))
    pip(system, "install", *options, offline=offline, **environment)


def pip(system: System, verb: str, *arguments: str, offline: Path | None, **environment: str) -> None:
    """Run the environment's pip; offline, only with the folder's wheels."""
    if offline is None:
        where, remedy = (
            [],
            "check the network; without one, run scripts/wheelhouse elsewhere, then pass --offline FOLDER here",
        )
    else:
        where = ["--no-index", "--find-links", str(offline / "wheels")]
        remedy = AGAIN
    program = str(system.path(f"{VENV}/bin/python"))
    options = ("--disable-pip-version-check", "--no-input")
    system.run(program, "-m", "pip", verb, *options, *where, *arguments, remedy=remedy, **environment)


def pycuda(system: System, offline: Path | None) -> Iterator[Change]:
    """Install pycuda, which has no wheels: CUDA's nvcc compiles it here, which takes a few minutes."""
    if not system.facts.get("l4t"):
        return
    version = _pycuda(system)
    if version is not None:
        system.facts["pycuda"] = version
        return
    if not _present(system, "nvidia-cuda-dev") and not _pending(system, "nvidia-cuda-dev"):
        raise StepFailed(f"no {CUDA}/bin/nvcc to compile pycuda with", "sudo apt install nvidia-jetpack")
    path = {"PATH": f"{CUDA}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CUDA_ROOT": CUDA}
    # It is built with what the lock file `build` has installed; what does not load may be there, half-written.
    source = ("--no-binary=pycuda", "--no-build-isolation", "--force-reinstall")
    yield Change("compile pycuda (takes a few minutes)", lambda: pinned(system, "pycuda", offline, *source, **path))


def _pycuda(system: System) -> str | None:
    return _in_venv(system, "import pycuda.driver, pycuda; print(pycuda.VERSION_TEXT)")


def tensorrt(system: System) -> Iterator[Change]:
    """Check whether JetPack's TensorRT loads in the environment. Changes nothing."""
    if not system.facts.get("l4t") or _pending(system, "python3-libnvinfer"):
        return iter(())
    version = _in_venv(system, "import tensorrt; print(tensorrt.__version__)")
    if version is None:
        error = (
            _in_venv(system, "try:\n import tensorrt\nexcept BaseException as error:\n print(error)") or "it crashes"
        )
        remedy = (
            "sudo apt install nvidia-l4t-dla-compiler" if "nvdla" in error else "sudo apt install python3-libnvinfer"
        )
        raise StepFailed(f"TensorRT does not load in {VENV}: {error}", remedy)
    system.facts["tensorrt"] = version
    expected = system.facts.get("tensorrt_expected", "")
    if not version.startswith(expected):
        system.facts["note"] = (
            f"TensorRT {version} is not JetPack's {expected}: engines are built for the installed one"
        )
    return iter(())


def _in_venv(system: System, code: str) -> str | None:
    """Return the output of the environment's Python, or of the system's before that exists; None if it fails."""
    python = system.path(f"{VENV}/bin/python")
    output = system.output(str(python) if python.exists() else PYTHON, "-c", code)
    return output.strip() if output is not None else None

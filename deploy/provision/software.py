"""What is installed: Debian packages, the virtual environment, edgesparse in it, pycuda, and whether TensorRT loads."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .system import Change, Failed, System, sha256

HERE = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that scripts/wheelhouse filled: both have the same places."""

VENV = "/opt/edgesparse"
STAMP = f"{VENV}/provisioned.json"
"""Written last: what is installed, so that it is not installed again."""
EXTRAS = ("eval", "service", "fleet")
CUDA = "/usr/local/cuda"
PYTHON = "/usr/bin/python3"

APT = ("python3-venv",)
COMPILER = ("python3-dev", "g++")
"""Debian packages, and those that pycuda is compiled with, until it is."""

JETPACK_PARTS = {
    "python3-libnvinfer": "/usr/lib/python3*/dist-packages/tensorrt/__init__.py",
    "nvidia-cuda-dev": f"{CUDA}/bin/nvcc",
}
"""JetPack's own packages, and the file that tells that one is there: a thin image has neither."""


def apt(system: System, offline: Path | None) -> Iterator[Change]:
    """Debian packages. Offline they come from DEBS in the folder, or are there already."""
    jetson = bool(system.found.get("l4t"))
    wanted = list(APT)
    if jetson:
        wanted += COMPILER if _pycuda(system) is None else ()
        wanted += [name for name in JETPACK_PARTS if not _there(system, name)]
    absent = [name for name in wanted if not _installed(system, name)]
    if not absent:
        return
    if offline is None:
        remedy = "look at what apt said above; sudo apt-get update, and sudo apt --fix-broken install"
        yield Change(f"install {', '.join(absent)} by apt", lambda: _apt_get(system, absent, remedy))
        return
    files = sorted(str(file) for file in (offline / "debs").glob("*.deb"))
    remedy = (
        f"with a network: apt-get install --download-only {' '.join(absent)}; copy the .deb files into {offline}/debs"
    )
    if not files:
        raise Failed(f"not installed, and not in {offline}/debs: {', '.join(absent)}", remedy)
    yield Change(
        f"install {', '.join(absent)} from {len(files)} files", lambda: _apt_get(system, files, remedy, "--no-download")
    )


def _there(system: System, part: str) -> bool:
    return any(system.root.glob(JETPACK_PARTS[part].lstrip("/")))


def _comes(system: System, part: str) -> bool:
    """Whether a part of JetPack is what the step before installs: only a check comes here without it."""
    return not _there(system, part) and not _installed(system, part)


def _installed(system: System, name: str) -> bool:
    return (system.ask("dpkg-query", "--show", "--showformat=${db:Status-Status}", name) or "") == "installed"


def _apt_get(system: System, names: list[str], remedy: str, *options: str) -> None:
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if not options:
        system.run("apt-get", "update", remedy=remedy, **quiet)
    system.run("apt-get", "install", "-y", "--no-install-recommends", *options, *names, remedy=remedy, **quiet)


def venv(system: System) -> Iterator[Change]:
    """A virtual environment of the system's Python that sees the system's packages, TensorRT's bindings among them."""
    folder = system.path(VENV)
    settings = system.read(f"{VENV}/pyvenv.cfg")
    version = re.search(r"^version\s*=\s*(\d+\.\d+)", settings, re.M)
    here = "{}.{}".format(*sys.version_info[:2])
    remedy = f"sudo rm -r {folder}, then run this again"
    if not settings:
        if folder.exists() and any(folder.iterdir()):
            raise Failed(f"{folder} holds something that is no virtual environment", remedy)
        yield Change(
            f"make {VENV} with Python {here}",
            lambda: system.run(PYTHON, "-m", "venv", "--system-site-packages", str(folder), remedy=remedy),
        )
    elif version is None or version[1] != here:
        raise Failed(f"{folder} is of Python {version[1] if version else 'unknown'}, the system's is {here}", remedy)
    elif not re.search(r"^include-system-site-packages\s*=\s*true", settings, re.M):
        raise Failed(f"{folder} does not see the system's packages, so neither TensorRT", remedy)


def packages(system: System, offline: Path | None) -> Iterator[Change]:
    """edgesparse and what it needs, in the environment; again only when the source or a requirement changed."""
    own_opencv = _jetpack_opencv(system)
    system.found["opencv"] = "JetPack's, with GStreamer" if own_opencv else "pip's"
    stamp = json.dumps({"source": _source(offline), "opencv": system.found["opencv"], "extras": EXTRAS})
    if system.read(STAMP) == stamp:
        return
    yield Change(
        f"install edgesparse {_version(offline)} into {VENV}", lambda: _install(system, offline, own_opencv, stamp)
    )


def _jetpack_opencv(system: System) -> bool:
    """Whether the system has an OpenCV that opens CSI cameras, which pip's does not."""
    said = system.ask(PYTHON, "-c", "import cv2; print(cv2.getBuildInformation())") or ""
    return re.search(r"GStreamer:\s+YES", said) is not None


def _wheel(offline: Path) -> Path:
    """edgesparse's own wheel in the folder, which must hold what scripts/wheelhouse wrote down, byte for byte."""
    remedy = "run scripts/wheelhouse again where there is a network, and copy the whole folder"
    try:
        listed = json.loads((offline / "wheelhouse.json").read_text())
    except (OSError, ValueError) as error:
        raise Failed(f"{offline} is no folder of scripts/wheelhouse: {error}", remedy, 2) from None
    for name, digest in listed["sha256"].items():
        file = offline / "wheels" / name
        if not file.is_file() or sha256(file) != digest:
            raise Failed(f"{file} is {'damaged' if file.is_file() else 'missing'}", remedy)
    here = "{}.{}".format(*sys.version_info[:2])
    if here not in listed["python"]:
        raise Failed(f"{offline} has wheels for Python {', '.join(listed['python'])}, this machine has {here}", remedy)
    return offline / "wheels" / str(listed["edgesparse"])


def _source(offline: Path | None) -> str:
    """What would be installed, as a hash."""
    if offline is not None:
        return sha256(_wheel(offline))
    files = [HERE / "setup.cfg", *sorted(path for path in (HERE / "edgesparse").rglob("*") if path.is_file())]
    if not files[0].is_file():
        raise Failed(
            f"{HERE} is no checkout of edgesparse", f"pass --offline {HERE} where scripts/wheelhouse filled it", 2
        )
    parts = (f"{path.relative_to(HERE)} {sha256(path)}\n" for path in files if "__pycache__" not in path.parts)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _version(offline: Path | None) -> str:
    if offline is not None:
        return _wheel(offline).name.split("-")[1]
    found = re.search(r'VERSION = "([^"]+)"', (HERE / "edgesparse" / "version.py").read_text())
    return found[1] if found else ""


def _install(system: System, offline: Path | None, own_opencv: bool, stamp: str) -> None:
    """The wheel without its requirements, then those, of which OpenCV may be JetPack's: pip's would hide that."""
    if offline is not None:
        wheel = _wheel(offline)
    else:
        folder = system.path(f"{VENV}/wheel")
        pip(system, "wheel", "--no-deps", "--wheel-dir", str(folder), str(HERE), offline=None)
        wheel = max(folder.glob("edgesparse-*.whl"), key=lambda path: path.stat().st_mtime)
    names = requirements(wheel, own_opencv)
    pip(system, "install", "--upgrade", "--upgrade-strategy", "only-if-needed", *names, offline=offline)
    pip(system, "install", "--force-reinstall", "--no-deps", str(wheel), offline=offline)
    if own_opencv:
        pip(system, "uninstall", "--yes", "opencv-python", "opencv-python-headless", offline=None)
    system.write(STAMP, stamp)


def requirements(wheel: Path, own_opencv: bool) -> list[str]:
    """What a wheel of edgesparse needs with EXTRAS. OpenCV: the one without windows, or none beside the system's."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    found = []
    for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M):
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if extra is None or extra[1] in EXTRAS:
            found.append(requirement.strip().replace("opencv-python", "opencv-python-headless"))
    if own_opencv:
        # JetPack 6 built its OpenCV against NumPy 1.
        found = [name for name in found if not name.startswith("opencv")] + ["numpy<2"]
    return found


def pip(system: System, verb: str, *arguments: str, offline: Path | None, **environment: str) -> None:
    """The environment's pip, offline from the folder's wheels alone."""
    if offline is None:
        where, remedy = [], "is there a network? Without one: scripts/wheelhouse elsewhere, then --offline FOLDER here"
    else:
        where = ["--no-index", "--find-links", str(offline / "wheels")]
        remedy = "run scripts/wheelhouse again where there is a network, and copy the whole folder"
    program = str(system.path(f"{VENV}/bin/python"))
    options = ("--disable-pip-version-check", "--no-input")
    system.run(program, "-m", "pip", verb, *options, *where, *arguments, remedy=remedy, **environment)


def pycuda(system: System, offline: Path | None) -> Iterator[Change]:
    """pycuda, which has no wheels: compiled here by CUDA's nvcc, which takes some minutes."""
    if not system.found.get("l4t"):
        return
    version = _pycuda(system)
    if version is not None:
        system.found["pycuda"] = version
        return
    if not _there(system, "nvidia-cuda-dev") and not _comes(system, "nvidia-cuda-dev"):
        raise Failed(f"no {CUDA}/bin/nvcc to compile pycuda with", "sudo apt install nvidia-jetpack")
    path = {"PATH": f"{CUDA}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CUDA_ROOT": CUDA}
    yield Change("compile pycuda (some minutes)", lambda: pip(system, "install", "pycuda", offline=offline, **path))


def _pycuda(system: System) -> str | None:
    return _in_venv(system, "import pycuda.driver, pycuda; print(pycuda.VERSION_TEXT)")


def tensorrt(system: System) -> Iterator[Change]:
    """Whether JetPack's TensorRT loads in the environment; nothing is changed."""
    if not system.found.get("l4t") or _comes(system, "python3-libnvinfer"):
        return iter(())
    version = _in_venv(system, "import tensorrt; print(tensorrt.__version__)")
    if version is None:
        said = _in_venv(system, "try:\n import tensorrt\nexcept BaseException as error:\n print(error)") or "it crashed"
        remedy = (
            "sudo apt install nvidia-l4t-dla-compiler" if "nvdla" in said else "sudo apt install python3-libnvinfer"
        )
        raise Failed(f"TensorRT does not load in {VENV}: {said}", remedy)
    system.found["tensorrt"] = version
    expected = system.found.get("tensorrt_expected", "")
    if not version.startswith(expected):
        system.found["note"] = (
            f"TensorRT {version} is not JetPack's {expected}: engines are built for the one that is here"
        )
    return iter(())


def _in_venv(system: System, code: str) -> str | None:
    """What the environment's Python prints, or the system's while there is none; None where it fails."""
    python = system.path(f"{VENV}/bin/python")
    said = system.ask(str(python) if python.exists() else PYTHON, "-c", code)
    return said.strip() if said is not None else None

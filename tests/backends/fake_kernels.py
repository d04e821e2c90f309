"""The kernels of the frame path, built for the CPU: their library, names and arguments."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from edgesparse.backends.cuda.kernels import SOURCES
from edgesparse.backends.cuda.layouts import IMAGE, IMAGES


@lru_cache(1)
def host_kernels() -> Any:
    """The kernels' sources as a library for the CPU. Skips the test if there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    here, folder = Path(__file__).parent, Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "kernels.so"
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = ["g++", "-std=c++17", "-O2", "-pthread", *checks, "-shared", "-fPIC", "-I", str(SOURCES)]
    subprocess.run([*command, str(here / "host_kernels.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def arguments_of(function: int, pointers: Any) -> list[bytes]:
    """A kernel's arguments: pointers, except the letterbox's images."""
    sizes = [8] * 7 if KERNELS[function - 1].startswith((b"compact", b"maps")) else [8, IMAGES * IMAGE.itemsize, 8, 8]
    return [ctypes.string_at(pointers[i], size) for i, size in enumerate(sizes)]


IMAGE_TYPES = ("float32", "float16", "int8", "uint8", "float16x8", "int8x4", "int8x32")
KERNELS = [f"{kind}_{dtype}".encode() for kind in ("letterbox", "crop") for dtype in IMAGE_TYPES]
KERNELS += [b"compact_float32", b"maps_float32"]

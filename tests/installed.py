"""edgesparse installed from a wheel, in an environment of its own that borrows the dependencies of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from markdown_blocks import ROOT


def make_wheel(folder: Path) -> None:
    """Build the wheel into a new folder, as `pip wheel` does, without a network."""
    source = folder.with_name("source")
    shutil.copytree(ROOT / "edgesparse", source / "edgesparse", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, timeout=120)


def make_environment(folder: Path) -> Path:
    """Create a virtual environment that has everything but edgesparse. Returns its folder of programs."""
    venv.create(folder, symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for path in sys.path:
        if path.endswith("site-packages"):
            for item in Path(path).iterdir():
                if "edgesparse" not in item.name and not item.name.endswith(".pth") and not (own / item.name).exists():
                    (own / item.name).symlink_to(item)
    programs = folder / "bin"
    pip = programs / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{programs}/python" -m pip "$@"\n')
    pip.chmod(0o755)
    return programs


def offline(programs: Path, wheels: Path, **environ: str) -> dict[str, str]:
    """Return the environment variables with which pip takes edgesparse from a folder of wheels."""
    path = f"{programs}:{os.environ['PATH']}"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**os.environ, **pip, "PATH": path, "PYTHONNOUSERSITE": "1", **environ}

"""`pip install` installs every data file that edgesparse reads."""

from __future__ import annotations

import configparser
import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_data_file_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [word.strip() for word in setup["options.package_data"]["edgesparse"].replace("\n", ",").split(",")]
    package = ROOT / "edgesparse"
    data = [
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    ]
    left = [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns if pattern)]
    assert data and left == []

"""The source distribution and the wheel: metadata, and the files that documentation names."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from markdown_blocks import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NAMED = re.compile(r"(?<![\w/.-])(?:apps|benchmarks|calib_data|deploy|edgesparse|examples|scripts|tests)/[\w./-]*\w")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the source distribution, built from the files that git has."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/fuzz/", "docs/images/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    program = "import setuptools.build_meta as build; build.build_sdist('.')"
    subprocess.run([sys.executable, "-c", program], cwd=folder / "source", check=True, capture_output=True)
    (path,) = (folder / "source").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_source_distribution_has_what_the_documentation_names(sdist: set[str]) -> None:
    named = {name for page in PAGES for name in NAMED.findall(page.read_text()) if (ROOT / name).exists()}
    assert len(named) > 30 and named - sdist == set()


def test_the_wheel_has_its_data_and_complete_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        headers = email.message_from_bytes(archive.read(metadata))
        unit = archive.read("edgesparse/service/edgesparse.service")
    assert unit == (ROOT / "deploy" / "edgesparse.service").read_bytes()
    data = [path for path in (ROOT / "edgesparse").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in data if path.suffix not in (".pyc",)} - names == set()
    assert wheel.name.endswith("-py3-none-any.whl"), "no compiler is needed"
    assert headers["Requires-Python"] == ">=3.10" and headers["Description-Content-Type"] == "text/markdown"
    assert {line.partition(",")[0] for line in headers.get_all("Project-URL", [])} >= {
        "Documentation",
        "Source",
        "Issues",
    }
    assert all(headers[key] for key in ("Author", "Keywords", "Summary", "Classifier"))

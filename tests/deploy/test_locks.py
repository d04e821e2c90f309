"""The pinned requirements: complete, with hashes, and consistent with setup.cfg."""

from __future__ import annotations

import configparser
import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.provision.software import EXTRAS, PIP_OPENCV, SYSTEM_OPENCV

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "locks"
PROGRAM = runpy.run_path(str(ROOT / "scripts" / "wheelhouse"))


def pins(lock: str, version: str = "3.10", arch: str = "aarch64") -> dict[str, str]:
    pinned: dict[str, str] = PROGRAM["pins"]((LOCKS / f"{lock}.txt").read_text(), version, arch)
    return pinned


@pytest.mark.parametrize("lock", [path.stem for path in sorted(LOCKS.glob("*.txt"))])
def test_every_entry_has_one_version_and_hashes(lock: str) -> None:
    text = (LOCKS / f"{lock}.txt").read_text()
    assert not re.search(r"https?://|^-", text, re.M), "neither an index nor an option"
    for arch in ("aarch64", "x86_64"):
        entries = pins(lock, "3.12", arch)
        assert entries
        for name, entry in entries.items():
            head, *hashes = entry.rstrip().split(" \\\n")
            assert re.fullmatch(rf"{re.escape(name)}==[\w.+-]+", head)
            assert hashes and all(re.fullmatch(r" *--hash=sha256:[0-9a-f]{64}", line) for line in hashes)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", [PIP_OPENCV, SYSTEM_OPENCV])
def test_what_setup_cfg_requires_is_pinned_as_it_allows(lock: str, version: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in EXTRAS)]
    entries = {
        canonicalize_name(name): Requirement(entry.partition(" ")[0]) for name, entry in pins(lock, version).items()
    }
    for line in "\n".join(lines).split():
        needed = Requirement(line.replace("opencv-python", "opencv-python-headless"))
        if needed.name.startswith("opencv") and lock == SYSTEM_OPENCV:
            assert needed.name not in entries
            continue
        (pin,) = entries[canonicalize_name(needed.name)].specifier
        assert pin.version in needed.specifier, f"{pin} is not {needed}: run scripts/lock"
    if lock == SYSTEM_OPENCV:
        assert str(entries[canonicalize_name("numpy")].specifier).startswith("==1.")


def test_markers_hold_for_the_target_and_not_for_this_machine() -> None:
    """pip itself evaluates markers for the Python that runs it."""
    assert "exceptiongroup" in pins(PIP_OPENCV, "3.10") and "exceptiongroup" not in pins(PIP_OPENCV, "3.12")
    assert pins(PIP_OPENCV, "3.10")["numpy"] != pins(PIP_OPENCV, "3.12")["numpy"]
    assert not any(name.startswith("pyreadline") for name in pins(PIP_OPENCV)), "Windows"


def test_only_the_named_sources_are_built_from_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip needs to build a source comes as wheels: `:all:` would compile NumPy and the tools of its build."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setitem(PROGRAM["fetch"].__globals__, "pip", lambda *arguments: calls.append(arguments))
    PROGRAM["fetch"](tmp_path, "3.10", "aarch64", "pycuda")
    wheels, sources = calls
    assert "--only-binary=:all:" in wheels and "--no-binary=pycuda" in sources and "--no-binary=:all:" not in sources

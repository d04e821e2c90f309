"""Shared fixtures, and the real models, images and videos next to a checkout, read by path."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import hypothesis
import pytest
import squares
from installed import make_wheel
from own_process import OwnProcess
from skips import (  # noqa: F401, hooks of pytest
    pytest_collection_modifyitems,
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)

from edgesparse import redaction

# No time limits, which a busy machine exceeds. In CI the same inputs every time: a new finding must not fail somebody
# else's change.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("tests")

MEASURED = ("cli", "fleet", "service", "stream")
"""Folders whose tests start processes that run what no test runs in its own. Not those of a build: its children end
by os._exit, so that nothing that was measured in them is kept."""
UNMEASURED = (
    "cli/test_build_options.py",
    "cli/test_fit_verb.py",
    "cli/test_fleet_killed.py",
    "fleet/test_power_cuts.py",
    "fleet/test_real_service.py",
    "fleet/test_slot_build.py",
    "service/monitor/test_fallback_check.py",
    "service/test_camera_changes.py",
    "service/test_five_commands.py",
    "service/test_page.py",
    "service/test_page_access.py",
    "service/test_web.py",
    "stream/test_soak.py",
)
"""Files there whose processes are killed, are those of a build, or run what processes of other files run too."""
REAL = Path(os.environ.get("EDGESPARSE_REAL", Path(__file__).parents[2] / "shared" / "real"))


@pytest.hookimpl(specname="pytest_collection_modifyitems")
def pytest_long_files_first(items: list[pytest.Item]) -> None:
    """With several processes, files with a test marked `long` start first: at the end, no process waits for one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        long = {item.path for item in items if item.get_closest_marker("long")}
        items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data; tests that need it skip if it is absent."""
    if not (REAL / "models" / "yolox_nano.onnx").is_file():
        pytest.skip(f"no real data in {REAL}")
    return REAL


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of real-world inputs; tests that need it skip if it is absent."""
    folder = REAL.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder for the tests, so that they do not use the user's own keys and caches."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["EDGESPARSE_STATE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """A test that leaves another state folder behind fails: later ones would use that."""
    before = os.environ.get("EDGESPARSE_STATE", "")
    yield
    left, os.environ["EDGESPARSE_STATE"] = os.environ.get("EDGESPARSE_STATE"), before
    assert left == before, f"the test left EDGESPARSE_STATE at {left}"


@pytest.fixture(autouse=True)
def no_secrets(own_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of other tests, which may be common words, are not replaced in this one's texts."""
    monkeypatch.setattr(redaction, "_known", redaction._Known())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, alone in its folder, built once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    with (folder.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            make_wheel(folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_process() -> Iterator[OwnProcess]:
    yield (process := OwnProcess())
    process.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Child processes are measured only below MEASURED: to trace one takes half of its time again."""
    path = item.path.relative_to(Path(__file__).parent)
    measured = path.parts[0] in MEASURED and path.as_posix() not in UNMEASURED
    names = [name for name in os.environ if name.startswith("COVERAGE_") and not measured]
    removed = {name: os.environ.pop(name) for name in names}
    result = yield
    os.environ.update(removed)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests with the marker in another process, with the values of their fixtures."""
    if pyfuncitem.get_closest_marker("own_process") is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    process = cast(OwnProcess, pyfuncitem.funcargs["own_process"])
    process.run(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make builds spend no time on timing engines."""
    monkeypatch.setattr("edgesparse.builder.build.TIMING_SECONDS", 0.0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of four images of squares, with their annotations."""
    folder = tmp_path / "images"
    folder.mkdir()
    squares.coco_annotations(folder)
    return folder


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount an empty file system of this many megabytes; skip if this process may not mount one."""
    disk = tmp_path / "disk"

    def mount(megabytes: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs root, to mount a small tmpfs")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A file system of 3 MB."""
    return mount_disk(3)

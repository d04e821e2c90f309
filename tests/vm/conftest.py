"""Virtual machines for the tests with the marker `vm`, which run only where it is requested: they take minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / room) for room in ("crash", "deploy", "fleet", "service"))

from make_image import CACHE, CannotMake, Image, make_image
from payload import make_disk, make_wheelhouse
from power import Writer, make_writer
from provisioned import Boot, Provisioned, Start, prepare
from qemu import Disks, Machine, missing

ARCH = os.environ.get("EDGESPARSE_VM_ARCH", "aarch64")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "vm" not in str(config.getoption("-m")):
        for item in items:
            if item.get_closest_marker("vm"):
                item.add_marker(pytest.mark.skip("takes minutes: scripts/test-vm"))


@pytest.fixture(scope="session")
def wheelhouse() -> Path:
    if why := missing(ARCH):
        pytest.skip(why)
    try:
        return make_wheelhouse(ARCH)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot make the wheelhouse: {error.stderr[-300:]}")


@pytest.fixture(scope="session")
def image(wheelhouse: Path) -> Image:
    try:
        return make_image(ARCH, wheelhouse / "wheels")
    except CannotMake as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host(wheelhouse: Path) -> Path:
    """The disk that machines mount at /host."""
    return make_disk(wheelhouse, ARCH)


@pytest.fixture(scope="session")
def provisioned(image: Image, host: Path) -> Provisioned:
    """Provisioned once; kept until the image or the software changes."""
    folder = CACHE / f"provisioned-{image.folder.name}-{host.stem}"
    if not Provisioned(folder).complete:
        for old in CACHE.glob(f"provisioned-*-{ARCH}-*"):
            shutil.rmtree(old)
        folder.mkdir()
        prepare(Machine(image, Disks(image.disk, host), folder), Provisioned(folder))
    return Provisioned(folder)


@pytest.fixture(scope="session")
def writer(image: Image) -> Writer:
    return make_writer(image)


@pytest.fixture
def boot(image: Image, host: Path, tmp_path: Path) -> Iterator[Boot]:
    machines: list[Machine] = []

    def make(base: Path | None = None, log: Path | None = None) -> Machine:
        machines.append(Machine(image, Disks(base or image.disk, host, log), tmp_path / f"vm-{len(machines)}"))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def start(boot: Boot, provisioned: Provisioned) -> Start:
    def resume() -> Machine:
        machine = boot(provisioned.disk)
        machine.start(provisioned.state)
        return machine

    return resume

"""scripts/provision, run as a user would, in a Debian root: offline, twice, with a first bundle. Marker `debootstrap`.

Last run: 2026-11-28 on Debian 12, amd64: passed; 2026-11-25 on arm64 (qemu 7.2), with unsigned wheelhouses: passed. Not
in CI, since it needs minutes and a mirror. roots.py lists the stand-ins.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import roots
from fake_jetson import sign_wheelhouse

ROOT = Path(__file__).parents[2]
HERE = "/opt/wheelhouse"

pytestmark = [pytest.mark.debootstrap, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["x86_64", "aarch64"])
def arch(request: pytest.FixtureRequest) -> str:
    roots.skip_unless_possible(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def wheelhouse(arch: str, bundle: Path) -> Path:
    """The output of scripts/wheelhouse for Debian's Python; for arm64 it is the same as for a Jetson, except the
    version."""
    out = roots.CACHE / f"wheelhouse-{arch}"
    key = ("--key", str(bundle / "fleet.key"))
    command = [sys.executable, str(ROOT / "scripts" / "wheelhouse"), str(out), *key, "--arch", arch, "--python", "3.11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default detector, signed, next to the key that a device trusts."""
    folder = tmp_path_factory.mktemp("bundle")
    model = ROOT / "edgesparse" / "demo" / "parts_2to4.onnx"
    (folder / "parts.yaml").write_text(f"model: {model}\nbuild:\n  backend: onnxruntime\n")
    edgesparse(folder, "demo", "export", "images", "--count", "4")
    edgesparse(folder, "keys", "new", "fleet")
    edgesparse(folder, "bundle", "parts.yaml", "-o", "parts.esb", "--key", "fleet.key", "--images", "images/images")
    return folder


def edgesparse(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgesparse", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def root(arch: str, wheelhouse: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> roots.Root:
    result = roots.Root(arch, tmp_path_factory.mktemp("root"))
    result.stand_in()
    result.place(HERE, wheelhouse)
    table = result.path(f"{HERE}/deploy/provision/board.py")
    # Debian's Python replaces JetPack's.
    table.write_text(table.read_text().replace('"6.1 or 6.2", (3, 10)', '"6.1 or 6.2", (3, 11)'))
    sign_wheelhouse(result.path(HERE), bundle / "fleet.key")
    for name in ("parts.esb", "fleet.pub"):
        result.place(f"srv/{name}", bundle / name)
        result.path(f"srv/{name}").chmod(0o644)
    return result


def provision(root: roots.Root, *arguments: str) -> dict[str, Any]:
    """Run provisioning without any network and return its report."""
    done = root.run(f"{HERE}/scripts/provision", "--offline", HERE, "--json", *arguments, network=False)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"], report
    return report


def test_a_root_is_provisioned_once(root: roots.Root, arch: str) -> None:
    """Checked, provisioned, provisioned again: the announced changes are made, and then none remain."""
    options = ("--key", "/srv/fleet.pub", *(("--bundle", "/srv/parts.esb") if deploys(arch) else ()))
    before = listing(root)
    check = provision(root, "--check", *options)
    assert check["changed"] and listing(root) == before
    run = provision(root, *options)
    assert [step["changes"] for step in run["steps"]] == [step["changes"] for step in check["steps"]]
    again = provision(root, *options)
    assert not again["changed"], again
    assert again["machine"]["tensorrt"] == "10.3.0" and again["machine"]["power_mode"] == "15W"


def deploys(arch: str) -> bool:
    """Not under qemu, where ONNX Runtime had not timed an engine after 25 minutes."""
    return arch == platform.machine()


def listing(root: roots.Root) -> str:
    return root.run("find", "/opt", "/etc", "/var/lib", "/usr/local", "-newer", "/srv/parts.esb").stdout


def test_the_service_has_a_user_and_a_package(root: roots.Root, arch: str) -> None:
    """The service's user can import TensorRT, read the package, and owns the build."""
    user = ("runuser", "-u", "edgesparse", "--")
    groups = root.run("id", "-nG", "edgesparse").stdout.split()
    assert "video" in groups
    modules = root.run(*user, "/opt/edgesparse/bin/python", "-c", "import tensorrt, cv2; print(tensorrt.__file__)")
    assert "/usr/lib/python3/dist-packages/tensorrt" in modules.stdout, modules.stderr
    assert root.run("systemctl", "is-enabled", "edgesparse").stdout.strip() == "enabled"
    if not deploys(arch):
        return
    status = json.loads(root.run("/opt/edgesparse/bin/edgesparse", "status", "--json").stdout)
    assert status["running"]["name"] and status["last"]["result"] == "deployed"
    package, state = "/var/lib/edgesparse/current/package", ("env", "EDGESPARSE_STATE=/var/lib/edgesparse")
    bench = root.run(*user, *state, "/opt/edgesparse/bin/edgesparse", "bench", package, "--frames", "20")
    assert bench.returncode == 0, bench.stderr
    assert root.run("stat", "-c", "%U", "/var/lib/edgesparse/current/").stdout.strip() == "edgesparse"


def test_missing_packages_are_installed_from_files(root: roots.Root, bundle: Path) -> None:
    """Without a network a missing package is listed; with its files next to the wheels, apt installs it."""
    root.run("dpkg", "--purge", "--force-depends", "python3-venv")
    done = root.run(f"{HERE}/scripts/provision", "--offline", HERE, "--json", network=False)
    (failed,) = [step for step in json.loads(done.stdout)["steps"] if step["state"] == "failed"]
    assert done.returncode == 3 and "--download-only python3-venv" in failed["remedy"]
    root.run("apt-get", "update")
    root.run("sh", "-c", f"mkdir -p {HERE}/debs && cd {HERE}/debs && apt-get download python3-venv")
    sign_wheelhouse(root.path(HERE), bundle / "fleet.key")
    report = provision(root)
    assert next(step for step in report["steps"] if step["step"] == "apt packages")["state"] == "changed"
    assert not provision(root)["changed"]

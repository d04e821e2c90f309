"""The x86 image of deploy/docker, built by buildah and run as far as it goes without a GPU. Marker `buildah`.

Stand-ins: a Debian root in place of NVIDIA's image, which no registry is asked for, with the modules of roots.py in
place of TensorRT and pycuda. buildah isolates by chroot, so compose.yaml's limits do not apply: a read-only root, no
capabilities, NVIDIA's runtime.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import roots

ROOT = Path(__file__).parents[2]
MODULES = {
    "usr/lib/python3/dist-packages/tensorrt/__init__.py": "__version__ = '10.3.0'\n",
    "usr/lib/python3/dist-packages/pycuda/__init__.py": "VERSION_TEXT = '2026.1'\n",
    "usr/lib/python3/dist-packages/pycuda-2026.1.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: pycuda\nVersion: 2026.1\n"
    ),
}
PORT = 18080
SETTINGS = f"""\
run:
  cameras:
    - {{name: gate, source: demo, rate: 5}}
service:
  web: {{port: {PORT}}}
"""

pytestmark = [pytest.mark.buildah, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Buildah:
    """buildah with a store of its own."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        store = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        return ["buildah", *store, "--storage-driver", "overlay", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)

    def check(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout[-2000:] + done.stderr[-2000:])
        return done.stdout.strip()

    def base(self) -> str:
        """Make the base image, and return its name with its digest."""
        container = self.check("from", "scratch")
        root = Path(self.check("mount", container))
        subprocess.run(["cp", "--archive", f"{roots.base('x86_64')}/.", root], check=True)
        for name, text in MODULES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for trusted in ("etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
            if Path("/", trusted).exists():
                shutil.copy(Path("/", trusted), root / trusted)
        self.check("umount", container)
        self.check("commit", "--rm", container, "localhost/base")
        return f"localhost/base@{self.config('localhost/base')['FromImageDigest']}"

    def config(self, image: str) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.check("inspect", "--type", "image", image))
        return config


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """With the image localhost/edgesparse, built as docs/guide/containers.md says, from a base of its own."""
    roots.skip_unless_possible("x86_64")
    if shutil.which("buildah") is None:
        pytest.skip("needs buildah: apt install buildah")
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        options = ("--isolation", "chroot", "--layers=false", "--pull-never", "--format", "docker")
        file = ("-f", "deploy/docker/Dockerfile.x86", "--build-arg", f"BASE={buildah.base()}")
        buildah.check("bud", *options, *file, "-t", "localhost/edgesparse", ".")
        yield buildah
    finally:
        buildah.run("rm", "--all")
        buildah.run("rmi", "--all", "--force")


@dataclass(frozen=True)
class Container:
    """A container of the image, with settings, a trusted key and a bundle mounted as compose.yaml does."""

    buildah: Buildah
    name: str
    mounts: tuple[str, ...]

    def command(self, *arguments: str) -> list[str]:
        return self.buildah.command("run", "--isolation", "chroot", *self.mounts, self.name, "--", *arguments)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> Container:
    folder = tmp_path_factory.mktemp("mounts")
    model = ROOT / "edgesparse" / "demo" / "parts_2to4.onnx"
    (folder / "parts.yaml").write_text(f"model: {model}\nbuild:\n  backend: onnxruntime\n")
    for arguments in (
        "demo export images --count 2",
        "keys new factory",
        "bundle parts.yaml -o parts.esb --key factory.key --images images/images --version 1.0",
    ):
        subprocess.run([sys.executable, "-m", "edgesparse", *arguments.split()], cwd=folder, check=True)
    (folder / "trusted").mkdir()
    shutil.copy(folder / "factory.pub", folder / "trusted")
    (folder / "device.yaml").write_text(SETTINGS)
    for path in (folder / "device.yaml", folder / "trusted", folder / "trusted" / "factory.pub"):
        os.chown(path, 10001, 10001)
    targets = {"device.yaml": "/etc/edgesparse/device.yaml", "trusted": "/etc/edgesparse/trusted"}
    targets["parts.esb"] = "/parts.esb"
    mounts = [word for name, target in targets.items() for word in ("-v", f"{folder / name}:{target}:ro")]
    return Container(buildah, buildah.check("from", "--pull-never", "localhost/edgesparse"), tuple(mounts))


def test_the_image_has_what_its_dockerfile_says(buildah: Buildah) -> None:
    config = buildah.config("localhost/edgesparse")["Docker"]["config"]
    assert config["User"] == "10001:10001" and config["Entrypoint"] == ["edgesparse"]
    assert config["Healthcheck"]["Test"] == ["CMD", "ready"] and config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/var/lib/edgesparse"]


def test_its_user_can_write_the_state_only(container: Container) -> None:
    assert container.run("id", "-u").stdout.strip() == "10001"
    for folder, writable in {"/var/lib/edgesparse": True, "/run/edgesparse": True, "/tmp": True}.items():
        assert (container.run("touch", f"{folder}/x").returncode == 0) is writable, folder
    for folder in ("/etc/edgesparse", "/opt/edgesparse/bin", "/usr/local/bin", "/"):
        assert container.run("touch", f"{folder}/x").returncode == 1, folder
    assert container.run("which", "g++", "nvcc").returncode == 1, "compilers stay in the first stage"


def test_doctor_names_what_the_container_was_not_passed(container: Container) -> None:
    done = container.run("edgesparse", "doctor", "--json")
    parts = {part["what"]: part for part in json.loads(done.stdout)["findings"]}
    assert parts["container: GPU"]["remedy"] == "--gpus all" and parts["container: state"]["state"] == "ok"
    assert parts["[service]"]["state"] == parts["[fleet]"]["state"] == "ok"


def test_a_bundle_is_deployed_and_the_service_becomes_ready(container: Container) -> None:
    """The image's own command; its health check; a stop by its signal."""
    done = container.run("edgesparse", "deploy", "/parts.esb", "--restart", "")
    assert done.returncode == 0 and "deployed: parts_2to4 1.0 in slot a" in done.stdout, done.stdout + done.stderr
    config = container.buildah.config("localhost/edgesparse")["Docker"]["config"]
    command = container.command(*config["Entrypoint"], *config["Cmd"])
    check = ("env", f"EDGESPARSE_READYZ=http://127.0.0.1:{PORT}/readyz", *config["Healthcheck"]["Test"][1:])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as service:
        try:
            end = time.monotonic() + 120
            while (ready := container.run(*check)).returncode:
                assert time.monotonic() < end and service.poll() is None, ready.stderr
            state = json.loads(container.run("cat", "/run/edgesparse/status.json").stdout)
            assert state["healthy"] and state["frames"] > 0
            os.kill(state["pid"], getattr(signal, config["StopSignal"]))
            assert service.wait(60) == 0
        finally:
            service.kill()

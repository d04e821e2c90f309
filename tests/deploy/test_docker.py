"""The container's files, to the extent that they can be tested without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import roots
import yaml

from deploy.provision.board import JETPACKS, X86_IMAGE

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = ("Dockerfile.jetson", "Dockerfile.x86")


def instructions(name: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions in order, without comments."""
    lines = re.sub(r"\\\n", " ", (DOCKER / name).read_text()).splitlines()
    return [(word, rest) for line in lines if line and line[0] != "#" for word, _, rest in [line.partition(" ")]]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_has_an_unprivileged_user_and_a_health_check(name: str) -> None:
    steps = instructions(name)
    last = dict(steps)
    assert last["USER"] == "10001:10001" and steps.index(("USER", "10001:10001")) > max(
        index for index, (word, _) in enumerate(steps) if word == "RUN"
    )
    assert last["HEALTHCHECK"].endswith('CMD ["ready"]')
    assert json.loads(last["ENTRYPOINT"]) == ["edgesparse"] and json.loads(last["CMD"])[:2] == ["run", "--service"]
    assert "ADD" not in last and not re.search(r"curl|wget|sudo", (DOCKER / name).read_text())


def test_copied_files_exist_and_are_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in DOCKERFILES:
        for word, rest in instructions(name):
            for source in rest.split()[:-1] if word == "COPY" and "--from" not in rest else ():
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def test_the_two_images_differ_only_in_their_base() -> None:
    jetson, x86 = ((DOCKER / name).read_text().split("\n\n", 1)[1] for name in DOCKERFILES)
    assert jetson != x86 and jetson.replace("-jetson", "-x86") == x86


def test_the_unit_and_the_container_run_the_same() -> None:
    (start,) = re.findall(r"^ExecStart=\S+ (.+)$", (ROOT / "deploy" / "edgesparse.service").read_text(), re.M)
    assert json.loads(dict(instructions("Dockerfile.jetson"))["CMD"]) == start.split()


class Compose(yaml.SafeLoader):
    """A loader that knows the tags with which one file overrides another."""


Compose.add_multi_constructor("!", lambda loader, tag, node: None)


def test_the_compose_file_passes_only_what_is_needed() -> None:
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["edgesparse"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "privileged" not in service
    assert service["user"] == "10001:10001" and service["security_opt"] == ["no-new-privileges:true"]
    assert service["runtime"] == "nvidia" and service["devices"] == ["/dev/video0:/dev/video0"]
    binds = {mount["target"]: mount for mount in service["volumes"]}
    assert binds["/tmp/argus_socket"]["type"] == "bind" and binds["/var/lib/edgesparse"]["type"] == "volume"
    assert binds["/etc/edgesparse/trusted"]["read_only"] and binds["/etc/edgesparse/device.yaml"]["read_only"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp", "/run/edgesparse"]
    x86 = yaml.load((DOCKER / "compose.x86.yaml").read_text(), Compose)["services"]["edgesparse"]
    assert x86["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.compose
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("needs docker-compose: apt install docker-compose")
    folder = tmp_path / "deploy" / "docker"
    shutil.copytree(DOCKER, folder)
    (folder / "device.yaml").touch()
    (folder / "trusted").mkdir()
    done = subprocess.run(
        [program, "-f", folder / "compose.yaml", "config"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"]["edgesparse"]["read_only"] is True


DIGEST = f"sha256:{'0' * 64}"


def base(folder: Path, argument: str, docker: str = "exit 1") -> subprocess.CompletedProcess[str]:
    """Run a copy of deploy/docker/base, with a shell script in place of Docker."""
    if not (folder / "deploy").exists():
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "deploy" / "docker" / "digests.json").write_text("{}")
    (folder / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (folder / "docker").chmod(0o755)
    command = [sys.executable, str(folder / "deploy" / "docker" / "base"), argument]
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("argument", "image"),
    [("36.3.0", "l4t-tensorrt:r8.6.2-devel"), ("36.4.7", "r10.3.0-devel"), ("--x86", "tensorrt:26.04-py3")],
)
def test_the_base_image_has_its_digest_which_is_recorded(tmp_path: Path, argument: str, image: str) -> None:
    done = base(tmp_path, argument, f"echo {DIGEST}")
    assert done.returncode == 0 and done.stdout.strip().endswith(f"{image}@{DIGEST}")
    assert base(tmp_path, argument).stdout == done.stdout, "Docker is not asked again"


@pytest.mark.parametrize("docker", ["exit 1", "echo", "echo sha256:12", "echo latest"])
def test_a_digest_that_cannot_be_looked_up_is_not_made_up(tmp_path: Path, docker: str) -> None:
    done = base(tmp_path, "36.4.7", docker)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("base: no digest of nvcr.io/") and "docker buildx imagetools inspect" in done.stderr
    assert json.loads((tmp_path / "deploy" / "docker" / "digests.json").read_text()) == {}


@pytest.mark.parametrize("l4t", ["35.4.1", "38.2.0", "99.1"])
def test_a_board_without_an_image_is_refused(tmp_path: Path, l4t: str) -> None:
    done = base(tmp_path, l4t)
    assert done.returncode == 1 and done.stderr.startswith(f"base: no image for L4T {l4t}") and not done.stdout


def test_a_release_is_refused_until_the_digest_of_every_image_is_recorded(tmp_path: Path) -> None:
    done = base(tmp_path, "--check")
    assert done.returncode == 1 and not done.stdout
    assert all(image in done.stderr for image in (X86_IMAGE, "r8.6.2-devel", "r10.3.0-devel")), done.stderr
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "audit", tmp_path / "scripts")
    audit = subprocess.run([tmp_path / "scripts" / "audit", "--release"], capture_output=True, text=True, check=False)
    assert (audit.returncode, audit.stderr) == (1, done.stderr), "before anything is installed"
    assert len(base(tmp_path, "--all", f"echo {DIGEST}").stdout.split()) == 3
    assert base(tmp_path, "--check").returncode == 0


def test_recorded_digests_are_of_images_in_the_table() -> None:
    images = {known.image for known in JETPACKS.values()} | {X86_IMAGE}
    for image, digest in json.loads((DOCKER / "digests.json").read_text()).items():
        assert image in images and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)


@pytest.mark.parametrize("image", ["", "nvcr.io/nvidia/tensorrt:26.04-py3", "x@sha256:12"])
@pytest.mark.parametrize("step", ["build-x86", "runtime-x86", "build-jetson", "runtime-jetson"])
def test_an_image_by_its_tag_is_refused(image: str, step: str) -> None:
    command = ["sh", str(DOCKER / "steps"), step]
    done = subprocess.run(command, env={"BASE": image}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "needed one by its digest" in done.stderr
    assert "BASE: ${BASE:-}\n" in (DOCKER / "compose.yaml").read_text(), "no default"


class Readyz(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    headers_seen: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        self.headers_seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"ready": true}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Readyz) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/readyz"
        server.shutdown()
        thread.join()


def ready(url: str, token: Path) -> subprocess.CompletedProcess[str]:
    environment = {"EDGESPARSE_READYZ": url, "EDGESPARSE_WEB_TOKEN": str(token)}
    return subprocess.run(
        [sys.executable, DOCKER / "ready"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_requests_readyz(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    monkeypatch.setattr(Readyz, "status", status)
    Readyz.headers_seen.clear()
    assert ready(web, tmp_path / "none").returncode == code
    (tmp_path / "token").write_text("secret\n")
    assert ready(web, tmp_path / "token").returncode == code
    assert Readyz.headers_seen == [("/readyz", None), ("/readyz", "Bearer secret")]


def test_no_service_is_not_ready(tmp_path: Path) -> None:
    done = ready("http://127.0.0.1:1/readyz", tmp_path / "none")
    assert done.returncode == 1 and done.stderr.startswith("not ready: ") and "Traceback" not in done.stderr


STAND_IN = "usr/lib/python3/dist-packages/pycuda-2026.1.dist-info/METADATA"


@pytest.mark.debootstrap
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["jetson", "x86"])
def test_the_install_steps_in_a_debian_root(kind: str, tmp_path: Path) -> None:
    """Both stages' steps in one root in place of NVIDIA's image. TensorRT's and pycuda's modules are stand-ins."""
    roots.skip_unless_possible("x86_64")
    root = roots.Root("x86_64", tmp_path)
    root.stand_in()
    root.trust_the_same()
    root.place(STAND_IN, "Metadata-Version: 2.1\nName: pycuda\nVersion: 2026.1\n")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "edgesparse"):
        root.place(f"src/{name}", ROOT / name)
    for file in (DOCKER / "steps", *(ROOT / "deploy" / "locks").iterdir()):
        root.place(f"src/{file.name}", file)
    model = "/opt/edgesparse/lib/python3.11/site-packages/edgesparse/demo/parts_2to4.onnx"
    root.place("srv/parts.yaml", f"model: {model}\nbuild:\n  backend: onnxruntime\n")
    for stage in ("build", "runtime"):
        done = root.run("env", f"BASE=image@{DIGEST}", "/src/steps", f"{stage}-{kind}")
        assert done.returncode == 0, done.stdout + done.stderr
    user = ("runuser", "-u", "edgesparse", "--", "env", "EDGESPARSE_STATE=/var/lib/edgesparse")
    bench = root.run(*user, "sh", "-c", "cd /tmp && /opt/edgesparse/bin/edgesparse bench /srv/parts.yaml --frames 5")
    assert bench.returncode == 0, bench.stderr
    assert root.run("id", "-u", "edgesparse").stdout.strip() == "10001"
    if kind == "jetson":
        code = "import cv2; print(cv2.__file__, cv2.getBuildInformation())"
        output = root.run("/opt/edgesparse/bin/python", "-c", code).stdout
        assert output.startswith("/usr/lib/python3") and re.search(r"GStreamer:\s+YES", output)

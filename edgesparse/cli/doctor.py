"""`doctor`: what this machine has, what it lacks, and how to get that."""

from __future__ import annotations

import importlib
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from edgesparse import device
from edgesparse.backends.cuda.kernels import nvcc
from edgesparse.backends.tensorrt.driver import import_remedy
from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, table
from edgesparse.errors import MACHINE_LACKS, BackendUnavailable

ENOUGH = 1e9
"""Bytes of memory and of disk below which nothing can be built."""


@dataclass(frozen=True)
class Finding:
    """One part of the machine. `state`: `ok`, `missing` (optional) or `needed` (edgesparse cannot work without)."""

    part: str
    state: str
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return JSON-compatible values."""
        return {"what": self.part, "state": self.state, "found": self.detail, "remedy": self.remedy}


@click.command(cls=Verb)
@options.as_json
def doctor(as_json: bool) -> int:
    """Check what this machine has and lacks, and how to get it."""
    machine, findings = device.probe(), examine()
    if as_json:
        emit_json({"machine": asdict(machine), "findings": [finding.as_dict() for finding in findings]})
    else:
        memory = {"memory": f"{machine.memory / 1e9:.1f} GB"} if machine.memory else {}
        table("machine", ("", ""), (machine.named() | memory).items())
        click.echo()
        table("parts", ("part", "state", "found", "remedy"), ((f.part, f.state, f.detail, f.remedy) for f in findings))
    return MACHINE_LACKS if any(finding.state == "needed" for finding in findings) else 0


def examine() -> list[Finding]:
    """Return a finding per part of this machine."""
    required = [_module(name, package) for name, package in REQUIRED.items()]
    extras = (
        _extra("eval", "pycocotools"),
        _extra("service", "prometheus_client", "paho.mqtt", "starlette", "uvicorn"),
        _extra("otel", "opentelemetry.sdk"),
        _extra("fleet", "cryptography", "tuf", "zstandard"),
    )
    return [
        *required,
        _gstreamer(),
        _h264(),
        *extras,
        *_gpu(),
        _cameras(),
        *_container(),
        _display(),
        _memory(),
        _disk(),
    ]


REQUIRED = {
    "numpy": "numpy",
    "cv2": "opencv-python",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
}


def _module(name: str, package: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Finding(package, "needed", str(error), f"pip install {package}")
    return Finding(package, "ok", str(getattr(module, "__version__", "installed")))


def _extra(extra: str, *modules: str) -> Finding:
    """Check an extra by the modules that it installs; the first missing module is named."""
    findings = [_module(name, extra) for name in modules]
    missing = next((finding for finding in findings if finding.state != "ok"), None)
    if missing is None:
        return Finding(f"[{extra}]", "ok", ", ".join(modules))
    return Finding(f"[{extra}]", "missing", missing.detail, f"pip install 'edgesparse[{extra}]'")


def _gstreamer() -> Finding:
    part = "GStreamer"
    try:
        import cv2
    except ImportError:
        return Finding(part, "missing", "no OpenCV", "pip install opencv-python")
    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        return Finding(part, "ok", "OpenCV's, for CSI cameras")
    from edgesparse.stream.pygobject import gstreamer

    try:
        gstreamer()
    except ImportError as error:
        remedy = (
            "on a Jetson use JetPack's own OpenCV: a venv with --system-site-packages and no opencv-python from pip"
        )
        return Finding(part, "missing", f"OpenCV has none, and {error}", f"CSI cameras only: {remedy}")
    return Finding(part, "ok", "PyGObject's, for CSI cameras")


def _h264() -> Finding:
    """What videos are encoded with, by encoding an image."""
    part = "H.264 encoder"
    try:
        from edgesparse.stream.recording.h264 import REMEDY, h264_here
    except ImportError as error:  # without OpenCV
        return Finding(part, "missing", str(error), "pip install opencv-python")
    name, reason = h264_here()
    if name:
        return Finding(part, "ok", f"{name}: .mp4 videos and clips have H.264")
    detail = f"{reason.partition(': sudo')[0]}; .mp4 videos get VP8, clips are .webm"
    return Finding(part, "missing", detail, f"{REMEDY}, and use the system's own Python")


def _gpu() -> list[Finding]:
    machine = device.probe()
    if not machine.gpu:
        return [Finding("GPU", "missing", "none", "none needed: ONNX Runtime runs on the CPU")]
    findings = [Finding("GPU", "ok", f"{machine.gpu}, compute capability {machine.sm or 'unknown'}")]
    tensorrt, pycuda = _module("tensorrt", "tensorrt"), _module("pycuda.driver", "pycuda")
    for finding, remedy in ((tensorrt, import_remedy(tensorrt.detail)), (pycuda, "pip install 'edgesparse[jetson]'")):
        missing = Finding(finding.part, "missing", finding.detail, remedy)
        findings.append(finding if finding.state == "ok" else missing)
    return [*findings, _compiler()]


def _compiler() -> Finding:
    try:
        return Finding("nvcc", "ok", nvcc())
    except BackendUnavailable as error:
        reason, _, remedy = str(error).partition(": ")
        return Finding("nvcc", "missing", f"{reason}: the CPU prepares frames and decodes boxes", remedy)


def _cameras() -> Finding:
    nodes = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not nodes:
        return Finding("cameras", "missing", "no /dev/video*", "plug one in, or use a file, rtsp:// or demo as source")
    closed = [path for path in nodes if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding("cameras", "missing", f"no permission to open {', '.join(closed)}", "usermod -aG video $USER")
    return Finding("cameras", "ok", ", ".join(nodes))


def _container() -> list[Finding]:
    """In a container, return findings on what the host did not pass through, as far as that is visible from inside."""
    if not device.container():
        return []
    return passed_through(Path("/"), device.tegra_kernel())


def passed_through(root: Path, jetson: bool) -> list[Finding]:
    """Return the findings of a container whose files are in `root`, on the kernel of a Jetson or of another machine."""
    group = "--group-add of the host's group that owns it: its number is {}"
    toolkit = "with NVIDIA's container toolkit on the host: --runtime nvidia" if jetson else "--gpus all"
    patterns = ("nvhost-gpu", "nvhost-ctrl-gpu", "nvgpu/*/*") if jetson else ("nvidia[0-9]*",)
    cameras = sorted(path.name for path in (root / "sys/class/video4linux").glob("video*"))
    findings = [_nodes("container: GPU", root / "dev", patterns, toolkit, group)]
    if jetson:
        findings.append(_nodes("container: /dev/nvmap", root / "dev", ("nvmap",), toolkit, group))
    if cameras:
        device_options = " ".join(f"--device /dev/{name}" for name in cameras)
        findings.append(_nodes("container: cameras", root / "dev", tuple(cameras), device_options, group))
    if jetson:
        findings += [_argus(root / "tmp/argus_socket"), _release(root / "etc/nv_tegra_release")]
    return [*findings, _state()]


def _nodes(part: str, dev: Path, patterns: tuple[str, ...], pass_through: str, group: str) -> Finding:
    """Check whether device nodes exist and may be opened: for each pattern for cameras, for any pattern for the GPU."""
    nodes = {pattern: sorted(dev.glob(pattern)) for pattern in patterns}
    absent = [pattern for pattern, paths in nodes.items() if not paths]
    if len(absent) == len(patterns) or (part.endswith("cameras") and absent):
        return Finding(part, "missing", f"no /dev/{', /dev/'.join(absent)} in the container", pass_through)
    present = [node for paths in nodes.values() for node in paths]
    closed = [node for node in present if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        owner = group.format(closed[0].stat().st_gid)
        return Finding(part, "missing", f"no permission to open {closed[0]}", owner)
    return Finding(part, "ok", ", ".join(map(str, present)))


def _argus(socket: Path) -> Finding:
    if socket.is_socket():
        return Finding("container: nvargus", "ok", str(socket))
    remedy = f"-v {socket}:{socket}, with nvargus-daemon running on the host"
    return Finding("container: nvargus", "missing", f"no socket {socket}", f"CSI cameras only: {remedy}")


def _release(file: Path) -> Finding:
    if file.is_file():
        return Finding("container: L4T", "ok", str(file))
    return Finding("container: L4T", "missing", f"no {file}, which engines depend on", f"-v {file}:{file}:ro")


def _state() -> Finding:
    folder = device.state_folder()
    if os.access(folder, os.W_OK):
        return Finding("container: state", "ok", str(folder))
    return Finding("container: state", "missing", f"cannot write {folder}", f"a volume: -v edgesparse:{folder}")


def _display() -> Finding:
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display:
        return Finding("display", "ok", display)
    return Finding("display", "missing", "none", "needed for --show only")


def _memory() -> Finding:
    return _space("memory", device.available_memory(), "available", "stop other programs")


def _disk() -> Finding:
    return _space("disk", shutil.disk_usage(Path.cwd()).free, "free here", "delete files")


def _space(part: str, free: float, where: str, remedy: str) -> Finding:
    text = f"{free / 1e9:.1f} GB {where}"
    return Finding(part, "ok", text) if free > ENOUGH else Finding(part, "missing", text, remedy)

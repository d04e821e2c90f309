"""`doctor`: what this machine has, what is missing, how to get it."""

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
from edgesparse.cli.show import emit_json, table
from edgesparse.errors import MACHINE_LACKS, BackendUnavailable


@dataclass(frozen=True)
class Finding:
    """`state` is `ok`, `missing` (something optional) or `needed` (edgesparse does not work without)."""

    what: str
    state: str
    found: str
    remedy: str = ""


@click.command()
@options.as_json
def doctor(as_json: bool) -> int:
    """Check what this machine has, what is missing, and how to get it."""
    machine, findings = device.probe(), examine()
    if as_json:
        emit_json({"machine": asdict(machine), "findings": [asdict(finding) for finding in findings]})
    else:
        table("machine", ("", ""), machine.named().items())
        click.echo()
        table("parts", ("part", "state", "found", "remedy"), ((f.what, f.state, f.found, f.remedy) for f in findings))
    return MACHINE_LACKS if any(finding.state == "needed" for finding in findings) else 0


def examine() -> list[Finding]:
    needed = [_module(name, package) for name, package in REQUIRED.items()]
    extras = (
        _extra("eval", "pycocotools"),
        _extra("service", "prometheus_client", "paho.mqtt", "starlette", "uvicorn"),
    )
    return [*needed, _gstreamer(), *extras, *_gpu(), _cameras(), *_container(), _display(), _memory(), _disk()]


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
    return Finding(package, "ok", str(getattr(module, "__version__", "there")))


def _extra(extra: str, *modules: str) -> Finding:
    """What `extra` adds, by the modules that it needs; the first that is missing is named."""
    findings = [_module(name, extra) for name in modules]
    bad = next((finding for finding in findings if finding.state != "ok"), None)
    if bad is None:
        return Finding(f"[{extra}]", "ok", ", ".join(modules))
    return Finding(f"[{extra}]", "missing", bad.found, f"pip install 'edgesparse[{extra}]'")


def _gstreamer() -> Finding:
    try:
        import cv2
    except ImportError:
        return Finding("OpenCV's GStreamer", "missing", "no OpenCV", "pip install opencv-python")
    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        return Finding("OpenCV's GStreamer", "ok", "for CSI cameras")
    remedy = "on a Jetson use JetPack's own OpenCV: a venv with --system-site-packages and no opencv-python from pip"
    return Finding("OpenCV's GStreamer", "missing", "this OpenCV was built without", f"CSI cameras only: {remedy}")


def _gpu() -> list[Finding]:
    machine = device.probe()
    if not machine.gpu:
        return [Finding("GPU", "missing", "none", "none needed: ONNX Runtime works on the CPU")]
    findings = [Finding("GPU", "ok", f"{machine.gpu}, compute capability {machine.sm or 'unknown'}")]
    tensorrt, pycuda = _module("tensorrt", "tensorrt"), _module("pycuda.driver", "pycuda")
    for found, remedy in ((tensorrt, import_remedy(tensorrt.found)), (pycuda, "pip install 'edgesparse[jetson]'")):
        findings.append(found if found.state == "ok" else Finding(found.what, "missing", found.found, remedy))
    return [*findings, _compiler()]


def _compiler() -> Finding:
    try:
        return Finding("nvcc", "ok", nvcc())
    except BackendUnavailable as error:
        found, _, remedy = str(error).partition(": ")
        return Finding("nvcc", "missing", f"{found}: the CPU prepares frames and finds boxes", remedy)


def _cameras() -> Finding:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not found:
        return Finding("cameras", "missing", "no /dev/video*", "plug one in, or use a file, rtsp:// or demo as source")
    closed = [path for path in found if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding("cameras", "missing", f"no right to open {', '.join(closed)}", "usermod -aG video $USER")
    return Finding("cameras", "ok", ", ".join(found))


def _container() -> list[Finding]:
    """In a container: what the host did not pass through, as far as it can be told from inside."""
    if not device.container():
        return []
    return passed_through(Path("/"), device.tegra_kernel())


def passed_through(root: Path, jetson: bool) -> list[Finding]:
    """The findings of a container whose files are in `root`, on a kernel of a Jetson or another."""
    group = "--group-add of the host's group that owns it: its number is {}"
    toolkit = "with NVIDIA's container toolkit on the host: --runtime nvidia" if jetson else "--gpus all"
    patterns = ("nvhost-gpu", "nvhost-ctrl-gpu", "nvgpu/*/*") if jetson else ("nvidia[0-9]*",)
    cameras = sorted(path.name for path in (root / "sys/class/video4linux").glob("video*"))
    found = [_nodes("container: GPU", root / "dev", patterns, toolkit, group)]
    if jetson:
        found.append(_nodes("container: /dev/nvmap", root / "dev", ("nvmap",), toolkit, group))
    if cameras:
        device_options = " ".join(f"--device /dev/{name}" for name in cameras)
        found.append(_nodes("container: cameras", root / "dev", tuple(cameras), device_options, group))
    if jetson:
        found += [_argus(root / "tmp/argus_socket"), _release(root / "etc/nv_tegra_release")]
    return [*found, _state()]


def _nodes(what: str, dev: Path, patterns: tuple[str, ...], pass_through: str, group: str) -> Finding:
    """Whether device nodes of each pattern, or for the GPU of any, are here and may be opened."""
    nodes = {pattern: sorted(dev.glob(pattern)) for pattern in patterns}
    absent = [pattern for pattern, found in nodes.items() if not found]
    every = what.endswith("cameras")
    if len(absent) == len(patterns) or (every and absent):
        return Finding(what, "missing", f"no /dev/{', /dev/'.join(absent)} in here", pass_through)
    closed = [node for found in nodes.values() for node in found if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        return Finding(what, "missing", f"no right to open {closed[0]}", group.format(closed[0].stat().st_gid))
    return Finding(what, "ok", ", ".join(str(node) for found in nodes.values() for node in found))


def _argus(socket: Path) -> Finding:
    if socket.is_socket():
        return Finding("container: nvargus", "ok", str(socket))
    remedy = f"-v {socket}:{socket}, with nvargus-daemon running on the host"
    return Finding("container: nvargus", "missing", f"no socket {socket}", f"CSI cameras only: {remedy}")


def _release(file: Path) -> Finding:
    if file.is_file():
        return Finding("container: L4T", "ok", str(file))
    return Finding("container: L4T", "missing", f"no {file}: engines hold its release", f"-v {file}:{file}:ro")


def _state() -> Finding:
    folder = device.state_folder()
    if os.access(folder, os.W_OK):
        return Finding("container: state", "ok", str(folder))
    return Finding("container: state", "missing", f"cannot write {folder}", f"a volume: -v edgesparse:{folder}")


def _display() -> Finding:
    there = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return (
        Finding("display", "ok", there)
        if there
        else Finding("display", "missing", "none", "none needed but for --show")
    )


def _memory() -> Finding:
    free = device.available_memory()
    text = f"{free / 1e9:.1f} GB available"
    return Finding("memory", "ok", text) if free > 1e9 else Finding("memory", "missing", text, "stop other programs")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free here"
    return Finding("disk", "ok", text) if free > 1e9 else Finding("disk", "missing", text, "free some")

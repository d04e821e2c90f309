"""NVIDIA's real bindings of several TensorRT releases, which can be imported without a GPU: classes, enums and
signatures.

Each wheel is about a megabyte and is fetched once, into .venv/bindings; its libraries are replaced by empty functions.
TensorRT 8.5's binding comes only in a wheel of half a gigabyte: it is included if its `tensorrt` folder has been
unpacked into .venv/bindings/8.5.3.1/. Fetch all by hand: python tests/backends/bindings.py
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

WHEELS = {
    "8.5.3.1": "",
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.13.3.9": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
HOME = Path(os.environ.get("EDGESPARSE_BINDINGS", Path(__file__).parents[2] / ".venv" / "bindings"))
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
STUB = """
static void *table[256], *object[64];
static void *nothing(void) { return 0; }
__attribute__((constructor)) static void fill(void) {
  for (int i = 0; i < 256; i++) table[i] = nothing;
  object[0] = table;
}
void *getPluginRegistry(void) { return object; }
void *getBuilderPluginRegistry(void) { return object; }
int initLibNvInferPlugins(void) { return 1; }
int getNvOnnxParserVersion(void) { return 0; }
void *createInferBuilder_INTERNAL(void) { return 0; }
void *createInferRefitter_INTERNAL(void) { return 0; }
void *createInferRuntime_INTERNAL(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
void *_ZN11nvuffparser15createUffParserEv(void) { return 0; }
void _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi(void) {}
void _ZN11nvuffparser23shutdownProtobufLibraryEv(void) {}
void *_ZN14nvcaffeparser117createCaffeParserEv(void) { return 0; }
void _ZN14nvcaffeparser123shutdownProtobufLibraryEv(void) {}
"""


class Unavailable(Exception):
    """The reason why a release is not available here."""


@lru_cache
def environment(release: str) -> dict[str, str]:
    """Environment in which `import tensorrt` finds that release. Raises Unavailable."""
    folder = HOME / f"{release}-py{sys.version_info[0]}.{sys.version_info[1]}" if WHEELS[release] else HOME / release
    if not WHEELS[release] and sys.version_info[:2] != (3, 10):
        raise Unavailable(f"TensorRT {release} has a binding for Python 3.10, not for this one")
    if not (folder / "tensorrt").is_dir():
        fetch(release, folder)
    libraries = stubs(release.partition(".")[0])
    (HOME / f"{release}.last").write_text(datetime.datetime.now(datetime.timezone.utc).date().isoformat())
    paths = [str(folder), str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": str(libraries)}


def fetch(release: str, folder: Path) -> None:
    stamp = HOME / f"{release}.last"
    last = f"last checked here on {stamp.read_text()}" if stamp.exists() else "never checked here"
    if not WHEELS[release]:
        raise Unavailable(f"TensorRT {release} is not unpacked in {folder}, {last}")
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as temporary:
        ask = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", temporary]
        try:
            subprocess.run([*ask, WHEELS[release]], check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError):
            raise Unavailable(f"no wheel of TensorRT {release} for this Python can be fetched, {last}") from None
        with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as wheel:
            wheel.extractall(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "tensorrt").exists():
            (Path(temporary) / "tensorrt_bindings").replace(folder / "tensorrt")


def stubs(major: str) -> Path:
    """A folder of libraries that contain only the symbols that the bindings link to. Raises Unavailable."""
    folder = HOME / f"stubs-{major}"
    if folder.is_dir():
        return folder
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("no C compiler, to make empty libraries for the bindings")
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as temporary:
        source = Path(temporary) / "stub.c"
        source.write_text(STUB)
        for name in LIBRARIES:
            so = f"lib{name}.so.{major}"
            out = ["-o", str(Path(temporary) / so), str(source)]
            subprocess.run([compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{so}", *out], check=True)
        if not folder.exists():
            shutil.copytree(temporary, folder)
    return folder


def state(release: str) -> str:
    try:
        environment(release)
    except Unavailable as error:
        return str(error)
    return "there"


if __name__ == "__main__":
    for name in WHEELS:
        print(f"{name}: {state(name)}")

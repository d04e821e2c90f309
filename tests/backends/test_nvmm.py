"""Frames in a Jetson's video memory, with a stand-in for its library: mapped, read in place, given back in order."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake
from gpu_detector import detector, still
from numpy.typing import NDArray

from edgesparse.backends.cuda import nvmm
from edgesparse.backends.cuda.nvmm import EglFrame, Nvmm, Params, Planes, Surface
from edgesparse.errors import BackendUnavailable, BuildError, CameraUnavailable, SourceError
from edgesparse.stream.pygobject import gstreamer
from edgesparse.stream.sources import nvmm as sources
from edgesparse.stream.sources.nvmm import SINK, NvmmFrames

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.usefixtures("host_built_kernels"),
]
SIZE, PITCH, COLORS = (50, 70), 256, 65536
BACK = "unregister unmap release"


class Jetson:
    """The stub of the board's library, and surfaces of it. `calls`: what was called, in order."""

    def __init__(self, path: Path, fake: Fake) -> None:
        self.stub = ctypes.CDLL(str(path))
        self.stub.surface_of.argtypes = [ctypes.c_void_p, *[ctypes.c_uint32] * 4]
        self.stub.surface_of.restype = ctypes.c_void_p
        self.stub.free_surface.argtypes = [ctypes.c_void_p]
        for name in ("EGLRegisterImage", "ResourceGetMappedEglFrame", "UnregisterResource"):
            setattr(fake.libcuda, f"cuGraphics{name}", getattr(self.stub, f"cuGraphics{name}"))
        self._calls = (ctypes.c_char * 4096).in_dll(self.stub, "calls")
        self._calls.value = b""
        self.refuse("")
        self.arrays(False)
        self._held: list[tuple[int, NDArray[np.uint8]]] = []

    @property
    def calls(self) -> str:
        return self._calls.value.decode().strip()

    def refuse(self, call: str) -> None:
        (ctypes.c_char * 64).in_dll(self.stub, "refused").value = call.encode()

    def arrays(self, are: bool) -> None:
        """Whether CUDA gets arrays in place of addresses, as of block-linear surfaces."""
        ctypes.c_int.in_dll(self.stub, "frame_type").value = 0 if are else 1

    def surface(self, frame: NDArray[np.uint8]) -> int:
        """The address of an NvBufSurface with this NV12 frame."""
        height, width = SIZE
        memory = np.full(COLORS + PITCH * height, 0xEE, np.uint8)
        memory[: PITCH * height].reshape(height, PITCH)[:, :width] = frame[:height]
        memory[COLORS : COLORS + PITCH * height // 2].reshape(height // 2, PITCH)[:, :width] = frame[height:]
        address: int = self.stub.surface_of(memory.ctypes.data, width, height, PITCH, COLORS)
        self._held.append((address, memory))
        return address

    def release(self) -> None:
        self._calls.value += b"release "

    def close(self) -> None:
        for address, _ in self._held:
            self.stub.free_surface(address)


@lru_cache(1)
def library() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path, source = folder / "libnvbufsurface.so", Path(__file__).with_name("jetson_library.c")
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(path)], check=True)
    return path


@pytest.fixture
def jetson(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jetson]:
    monkeypatch.setattr(nvmm, "LIBRARY", str(library()))
    board = Jetson(library(), fake)
    yield board
    board.close()


def test_structures_are_those_of_the_headers(jetson: Jetson) -> None:
    ours = [
        *(ctypes.sizeof(Surface), Surface.memory.offset, Surface.list.offset),
        *(ctypes.sizeof(Params), Params.planes.offset, Params.egl_image.offset, Params.extended.offset),
        *(ctypes.sizeof(Planes), Planes.offset.offset),
        *(ctypes.sizeof(EglFrame), EglFrame.pitch.offset, EglFrame.kind.offset),
    ]
    assert ours == list((ctypes.c_size_t * len(ours)).in_dll(jetson.stub, "layout"))


def test_a_surface_is_read_in_place_and_given_back_when_its_batch_is_done(
    fake: Fake, jetson: Jetson, tmp_path: Path
) -> None:
    with detector(fake, tmp_path) as detect:
        frame = still(*SIZE, "nv12")
        detect.detect([frame], "nv12")
        assert fake.seen is not None
        right, surfaces = fake.seen.copy(), Nvmm()
        mapped = surfaces.frame(jetson.surface(frame), jetson.release)
        assert mapped.shape == (75, 70) and jetson.calls == "map register frame"
        detect.submit([mapped], "nv12")
        del mapped
        assert jetson.calls == "map register frame", "the slot reads it"
        detect.collect()
        np.testing.assert_array_equal(fake.seen, right)
        assert jetson.calls == f"map register frame {BACK}"


def test_frames_in_flight_are_given_back_when_the_detector_closes(fake: Fake, jetson: Jetson, tmp_path: Path) -> None:
    surfaces = Nvmm()
    with detector(fake, tmp_path) as detect:
        for _ in range(2):
            detect.submit([surfaces.frame(jetson.surface(still(*SIZE, "nv12")), jetson.release)], "nv12")
    assert jetson.calls.count(BACK) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda surface: setattr(surface, "memory", 2), r"memory type 2, 1 filled: needed NV12"),
        (lambda surface: setattr(surface, "filled", 0), r"memory type 4, 0 filled: needed NV12"),
        (lambda surface: setattr(surface.list[0], "color_format", 7), r"color format 7, layout 0, 2 planes: needed"),
        (
            lambda surface: setattr(surface.list[0], "layout", 1),
            r"layout 1, .*pitch-linear: .*nvvidconv bl-output=false",
        ),
        (lambda surface: surface.list[0].planes.pitch.__setitem__(1, 128), r"rows of 256 and 128 bytes: needed NV12"),
    ],
)
def test_other_surfaces_are_refused_in_one_line(
    jetson: Jetson, change: Callable[[Surface], None], message: str
) -> None:
    address = jetson.surface(still(*SIZE, "nv12"))
    change(Surface.from_address(address))
    with pytest.raises(SourceError, match=message) as raised:
        Nvmm().frame(address, jetson.release)
    assert "\n" not in str(raised.value) and jetson.calls == "release"


@pytest.mark.parametrize(
    ("refused", "error", "calls"),
    [
        ("map", SourceError, "map release"),
        ("register", BuildError, "map register unmap release"),
        ("frame", BuildError, f"map register frame {BACK}"),
        ("", SourceError, f"map register frame {BACK}"),  # an array: block-linear after all
    ],
)
def test_what_was_done_is_undone_if_a_step_fails(
    jetson: Jetson, refused: str, error: type[Exception], calls: str
) -> None:
    jetson.refuse(refused)
    jetson.arrays(not refused)
    with pytest.raises(error):
        Nvmm().frame(jetson.surface(still(*SIZE, "nv12")), jetson.release)
    assert jetson.calls == calls


def test_elsewhere_it_says_what_is_missing(fake: Fake) -> None:
    with pytest.raises(BackendUnavailable, match=r"need a Jetson, with JetPack's package .*libnvbufsurface"):
        Nvmm()


@pytest.fixture
def gst() -> Any:
    try:
        return gstreamer()
    except ImportError as error:
        pytest.skip(f"{error}: apt-get install python3-gi gir1.2-gst-plugins-base-1.0")


@pytest.mark.gstreamer
def test_a_stream_needs_the_jetsons_decoder(gst: Any, jetson: Jetson) -> None:
    with pytest.raises(CameraUnavailable, match='no element "nvv4l2decoder"'):
        NvmmFrames.of_rtsp("rtsp://127.0.0.1/a")


@pytest.mark.gstreamer
def test_frames_of_a_pipeline_keep_their_buffers(gst: Any, jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    unmap = sources._unmap

    def unmapped(*held: Any) -> None:
        unmap(*held)
        jetson.release()

    monkeypatch.setattr(sources, "_unmap", unmapped)
    with NvmmFrames(f"appsrc name=src ! {SINK}") as frames:
        source = frames._pipeline.get_by_name("src")
        for seed in range(2):
            still_ = still(*SIZE, "nv12", seed)
            surface = ctypes.string_at(jetson.surface(still_), ctypes.sizeof(Surface))
            source.emit("push-buffer", gst.Buffer.new_wrapped(surface))
            frame = frames.read()
            assert frame is not None and frame.shape == (75, 70)
            assert ctypes.string_at(frame.address, 70) == still_[0].tobytes()
            assert ctypes.string_at(frame.address + frame.chroma, 70) == still_[50].tobytes()
            assert jetson.calls.count(BACK) == seed, "the one before was given back"
        source.emit("end-of-stream")
        assert list(frames) == []
    del frame
    assert jetson.calls.count(BACK) == 2

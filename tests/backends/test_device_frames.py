"""Frames in GPU memory on the fake GPU: read in place, awaited without the CPU, kept until the batch is done."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import CONTEXT, Fake
from gpu_detector import SIZE, answers, detector, still
from numpy.typing import NDArray

from edgesparse.backends.cuda import kernels
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import PIXELS, Pixels
from edgesparse.config import InputSpec
from edgesparse.errors import BackendUnavailable, SourceError
from edgesparse.runtime.detector import Detector
from edgesparse.tiles import Tiles

pytestmark = pytest.mark.usefixtures("host_built_kernels")


class GpuArray:
    """An array of another library in the fake GPU's memory. `gap`: bytes between rows."""

    def __init__(self, fake: Fake, values: NDArray[Any], gap: int = 0, **entries: Any) -> None:
        height, row = len(values), values[:1].nbytes
        self.memory = np.full(height * (row + gap) + 1, 0xEE, np.uint8)  # aligned to nothing
        rows = self.memory[1:].reshape(height, row + gap)[:, :row].view(values.dtype)
        self.values = rows.reshape(height, *values.shape[1:]) if not gap else rows
        self.values[...] = values.reshape(self.values.shape)
        address = self.memory.ctypes.data + 1
        packed = tuple(np.empty((1, *values.shape[1:]), values.dtype).strides[1:])
        fake.pointers[address] = (2, entries.pop("device", 0), entries.pop("context", CONTEXT))
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "strides": (row + gap, *packed) if gap else None,
            "typestr": values.dtype.str,
            "data": (address, False),
            "version": 3,
            **entries,
        }

    def later(self, values: NDArray[np.uint8]) -> Callable[[], None]:
        """What fills it, for a stream of its producer."""
        return partial(np.copyto, self.values, values.reshape(self.values.shape))


def seen(fake: Fake, detect: Detector, frame: Any, pixels: Pixels | None = None) -> NDArray[Any]:
    detect.detect([frame], pixels)
    assert fake.seen is not None
    return fake.seen.copy()


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "letterbox": ("centre", {}),
    "crop": ("crop", {}),
    "tiles": ("centre", {"batch": 16, "tiles": Tiles(size=(80, 100), overlap=0.3)}),
}


@pytest.mark.parametrize("gap", [0, 13, 64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pixels", PIXELS)
def test_they_are_read_in_place_as_page_locked_frames_are(
    fake: Fake, tmp_path: Path, pixels: Pixels, way: str, gap: int
) -> None:
    frame, (letterbox, more) = still(160, 202, pixels), WAYS[way]
    with detector(fake, tmp_path, spec=InputSpec(size=SIZE, letterbox=letterbox), **more) as detect:  # type: ignore[arg-type]
        locked = detect.frame_buffer(frame.shape)
        locked[...] = frame
        right = seen(fake, detect, locked, pixels)
        copies, hosts = fake.copies, fake.hosts
        array = GpuArray(fake, frame, gap)
        for _ in range(2 * detect.depth):
            np.testing.assert_array_equal(seen(fake, detect, array, pixels), right)
        assert fake.hosts == hosts and fake.copies <= copies + detect.depth, "only what describes the new place"
        del locked


def test_colors_of_nv12_may_be_anywhere_and_a_decoders_frame_is_not_contexts_for(fake: Fake, tmp_path: Path) -> None:
    frame, pitch = still(50, 70, "nv12"), 128
    surface = np.zeros((200, pitch), np.uint8)
    with detector(fake, tmp_path) as detect:
        right = seen(fake, detect, frame, "nv12")
        for first, colors in ((0, 64), (120, 3)):
            surface[first : first + 50, :70], surface[colors : colors + 25, :70] = frame[:50], frame[50:]
            chroma = (colors - first) * pitch
            shot = DeviceFrame(surface, surface.ctypes.data + first * pitch, frame.shape, (pitch, 1), chroma=chroma)
            np.testing.assert_array_equal(seen(fake, detect, shot, "nv12"), right)


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize(("entries", "stream"), [({"stream": 5}, 5), ({"stream": 2}, 2), ({"version": 2}, 1)])
def test_the_gpu_waits_for_the_stream_that_writes_them(
    fake: Fake, tmp_path: Path, entries: dict[str, int], stream: int, captured: bool
) -> None:
    fake.uncapturable = not captured
    with detector(fake, tmp_path) as detect:
        array = GpuArray(fake, still(50, 70), **entries)
        for seed in range(5):
            frame = still(50, 70, seed=seed)
            right = seen(fake, detect, frame)
            fake.producers[stream] = [array.later(frame)]
            np.testing.assert_array_equal(seen(fake, detect, array), right)
        assert fake.waits == [stream] * 5


def test_one_wait_per_stream_and_none_for_what_is_complete(fake: Fake, tmp_path: Path) -> None:
    streams = [7, None, 9, 7]
    with detector(fake, tmp_path, batch=4) as detect:
        detect.detect([GpuArray(fake, still(50, 70), stream=stream) for stream in streams])
        assert fake.waits == [7, 9]
        detect.detect([GpuArray(fake, still(50, 70))])
        assert fake.waits == [7, 9], "without an entry it is complete"


def test_they_are_kept_until_their_batch_is_done(fake: Fake, tmp_path: Path) -> None:
    with detector(fake, tmp_path, batch=2) as detect:
        alive = []
        for seed in range(2):
            arrays = [GpuArray(fake, still(50, 70, seed=seed)), GpuArray(fake, still(20, 70))]
            alive.append([weakref.ref(array) for array in arrays])
            detect.submit(arrays)
        del arrays
        for waiting in ([True, True], [False, True], [False, False]):
            gc.collect()
            assert [[ref() is not None for ref in batch] for batch in alive] == [[each] * 2 for each in waiting]
            if detect.in_flight:
                detect.collect()


def test_a_batch_may_mix_them_with_others_and_boxes_are_the_same(fake: Fake, tmp_path: Path) -> None:
    fake.answers = answers("yolov8", 2, 1, 0.2)
    frames = still(120, 90), still(64, 70, "yuyv")
    with detector(fake, tmp_path, batch=2, conf=0.5) as detect:
        right = detect.detect(frames)
        ours = detect.detect([GpuArray(fake, frames[0], 5), frames[1]])
        assert [each.xyxy.tolist() for each in ours] == [each.xyxy.tolist() for each in right]
        assert all(len(each) for each in right)
        assert detect(GpuArray(fake, frames[0])).xyxy.tolist() == right[0].xyxy.tolist(), "it may be called with one"
        for seed in range(20):
            detect(GpuArray(fake, still(120, 90, seed=seed), gap=seed % 2))
        assert len(detect._places._known) == 5, "what depends on shape and gaps is computed once"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"device": 1}, r"frame is on GPU 1: needed GPU 0, where the engine is: .*\.to\('cuda:0'\)"),
        ({"context": 44}, r"another CUDA context: needed the GPU's primary one: .*pycuda\.autoprimaryctx"),
        ({"data": (4096, False)}, r"frame is at 0x1000, which CUDA does not know: needed memory that has not been"),
        ({"typestr": "<f4"}, r"frame is \(50, 70, 3\) float32: needed H x W x 3 uint8"),
        ({"shape": (0, 70, 3), "data": (None, False)}, r"frame is \(0, 70, 3\) uint8: needed H x W x 3 uint8"),
        ({"shape": (50, 210)}, r"frame is \(50, 210\) uint8: needed H x W x 3 uint8"),
        ({"strides": (630, 9, 3)}, r"strides \(630, 9, 3\): needed rows of 210 bytes without gaps, .*contiguous"),
        ({"strides": (-210, 3, 1)}, r"strides \(-210, 3, 1\): needed rows of 210 bytes without gaps, from the top"),
        ({"stream": "default"}, r"__cuda_array_interface__ is .*: needed shape, typestr, data, version"),
        ({"data": None}, r"__cuda_array_interface__ is .*: needed shape, typestr, data, version"),
        ({"typestr": "?!"}, r"__cuda_array_interface__ is .*: needed shape, typestr, data, version"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    fake: Fake, tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    with detector(fake, tmp_path) as detect:
        array = GpuArray(fake, still(50, 70), **entries)
        for _ in range(2):
            with pytest.raises(SourceError, match=message) as raised:
                detect.submit([array])
            assert "\n" not in str(raised.value) and detect.in_flight == 0
        kept = weakref.ref(array)
        del array, raised
        gc.collect()
        assert kept() is None and len(detect(still(50, 70))) == 0


def test_a_driver_that_needs_the_context_to_say_where_a_frame_is_gets_it(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts, answer = list[bool](), fake.libcuda.cuPointerGetAttributes

    def needs_a_context(*arguments: Any) -> int:
        contexts.append(bool(getattr(fake.threads, "depth", 0)))
        return answer(*arguments) if contexts[-1] else 201

    monkeypatch.setattr(fake.libcuda, "cuPointerGetAttributes", needs_a_context)
    with detector(fake, tmp_path) as detect:
        array = GpuArray(fake, still(50, 70))
        for _ in range(3):
            detect(array)
        assert contexts == [False, True] * 3, "each frame, since its memory may have been freed"
        with pytest.raises(SourceError, match="which CUDA does not know"):
            detect(GpuArray(fake, still(50, 70), data=(4096, False)))


def test_what_is_no_array_is_refused_in_one_line(fake: Fake, tmp_path: Path) -> None:
    class Tensor:
        def numpy(self) -> None: ...

    with detector(fake, tmp_path) as detect:
        with pytest.raises(SourceError, match=r"frame is a builtins\.list: needed an array of NumPy, or one in GPU"):
            detect.submit([[1, 2, 3]])  # type: ignore[list-item]
        with pytest.raises(SourceError, match=r"Tensor: needed .*: pass its \.numpy\(\)$"):
            detect.submit([Tensor()])  # type: ignore[list-item]


def test_without_kernels_they_are_refused(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(sm: str) -> Path:
        raise BackendUnavailable("no nvcc in PATH: install it")

    monkeypatch.setattr(kernels, "cubin", missing)
    monkeypatch.setattr("edgesparse.backends.cuda.gpu._gpus", [])
    needed = r"in GPU memory, but the CPU prepares frames: needed an array of NumPy, such as frame\.cpu\(\)\.numpy\(\)"
    with detector(fake, tmp_path) as detect:
        for call in (detect, lambda array: detect.detect([array]), lambda array: detect.submit([array])):
            with pytest.raises(SourceError, match=needed):
                call(GpuArray(fake, still(50, 70)))

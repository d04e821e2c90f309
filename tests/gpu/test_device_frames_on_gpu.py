"""Frames in the memory of a real GPU: read in place, awaited, and refused where a kernel could not read them."""

from __future__ import annotations

from pathlib import Path

import alone
import numpy as np
import pytest
from numpy.typing import NDArray
from test_frame_path_on_gpu import detector, plan, smooth

from edgesparse.backends.cuda.gpu import gpu
from edgesparse.errors import SourceError


class Written:
    """A frame that a stream writes into GPU memory, after copies of a gigabyte that it has to make first."""

    def __init__(self, frame: NDArray[np.uint8], copies: int) -> None:
        from pycuda import gpuarray

        with gpu() as card:
            self.stream, self.frame = card.stream(), card.host(frame.shape, "uint8")
            self.frame[...] = frame
            self.array = gpuarray.zeros(frame.shape, np.uint8)
            self.pair = [gpuarray.zeros(1 << 30, np.uint8) for _ in range(2)]
            card.driver.Context.synchronize()
            for _ in range(copies):
                card.driver.memcpy_dtod_async(self.pair[0].gpudata, self.pair[1].gpudata, 1 << 30, self.stream)
            card.driver.memcpy_htod_async(self.array.gpudata, self.frame, self.stream)
        stream = {"stream": self.stream.handle, "version": 3}
        self.__cuda_array_interface__ = {**self.array.__cuda_array_interface__, **stream}


def test_with_gaps_or_without_they_are_as_page_locked_frames() -> None:
    assert alone.in_gpu_memory() == 0


def test_boxes_are_the_same_and_frames_are_awaited(tmp_path: Path) -> None:
    with detector(plan(tmp_path)) as detect:
        for seed in range(3):
            frame = smooth(200, 300, seed)
            right = detect(frame).xyxy.tolist()
            assert len(right) > 0 and detect(Written(frame, copies=100)).xyxy.tolist() == right


def test_frames_of_a_context_that_is_not_the_primary_one_are_refused(tmp_path: Path) -> None:
    """As those of pycuda.autoinit, of which a kernel here would read an illegal address."""
    from pycuda import driver, gpuarray

    frame = smooth(200, 300, 0)
    with detector(plan(tmp_path)) as detect:
        context = driver.Device(0).make_context()
        array = gpuarray.to_gpu(frame)
        context.pop()
        with pytest.raises(SourceError, match="another CUDA context"):
            detect(array)
        assert len(detect(frame)) > 0
        context.push()
        array.gpudata.free()
        context.pop()
        context.detach()


def test_memory_that_was_freed_is_refused(tmp_path: Path) -> None:
    from pycuda import gpuarray

    frame = smooth(200, 300, 0)
    with detector(plan(tmp_path)) as detect:
        with gpu() as card:
            memory = card.memory(1 << 28)  # so large that the driver keeps none of it
            array = gpuarray.GPUArray(frame.shape, np.uint8, base=memory, gpudata=int(memory))
            memory.free()
        with pytest.raises(SourceError, match="which CUDA does not know"):
            detect(array)
        assert len(detect(frame)) > 0

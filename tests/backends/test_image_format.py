"""An engine that takes the image in a layout of its own: what the kernels and NumPy write, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import Fake
from fake_tensorrt import plan, tensorrt
from gpu_detector import SIZE, detector, expected, still

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.cuda.formats import ImageFormat
from edgesparse.backends.tensorrt.image_format import LAYOUTS, OFFERED, copied_tensors
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.config import InputSpec
from edgesparse.errors import BuildError

TYPES = {"float16": "HALF", "int8": "INT8"}
FORMS = [(dtype, layout) for dtype, layouts in OFFERED.items() for layout in layouts]
STEP = 1 / 127
DATA = Path(__file__).parent / "data"


def named(layout: str, scale: float = 1.0) -> dict[str, str]:
    return {"name": f"edgesparse image, scale {scale!r}", "format": layout}


def as_planes(dtype: str, layout: str, stored: Any) -> Any:
    """What the engine sees as planes. What is behind the colors must be zero."""
    if not LAYOUTS[layout]:
        return stored
    assert stored.shape[-1] == LAYOUTS[layout] and stored.dtype == dtype and not stored[..., 3:].any()
    return np.moveaxis(stored[..., :3], 3, 1)


@pytest.mark.usefixtures("host_built_kernels")
@pytest.mark.parametrize("letterbox", ["centre", "crop"])
@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_the_letterbox_writes_what_a_linear_engine_gets(
    fake: Fake, tmp_path: Path, form: tuple[str, str], letterbox: Any
) -> None:
    dtype, layout = form
    scale = STEP if dtype == "int8" else 1.0
    spec = InputSpec(size=SIZE, letterbox=letterbox, mean=(0.4, 0.5, 0.6), std=(0.5, 0.6, 0.7), pad=7)
    frames = [still(50, 70), still(99, 101, seed=1)]
    with detector(fake, tmp_path, 2, TYPES[dtype], spec=spec, layout=named(layout, scale)) as detect:
        assert [str(tensor) for tensor in detect.runner.inputs] == [f"images 2x3x{SIZE[0]}x{SIZE[1]} float32"]
        detect.detect(frames)
        assert detect.where == "the GPU, as one CUDA graph" and fake.seen is not None
        seen = as_planes(dtype, layout, fake.seen)
    right = np.stack([expected(frame, "bgr", spec) for frame in frames])
    whole = np.zeros(ImageFormat(dtype, LAYOUTS[layout], scale).stored(TensorSpec("", right.shape, "")).shape, dtype)
    ImageFormat(dtype, LAYOUTS[layout], scale).pack(right, whole)
    difference = np.abs(seen.astype(float) - as_planes(dtype, layout, whole).astype(float))
    step = 1.01 if dtype == "int8" else 0.009  # a pixel that rounds the other way: 1 of 255 / 0.5
    assert difference.max() <= step and np.mean(difference > step / 4) < 0.02


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_arrays_of_a_caller_are_packed(fake: Fake, tmp_path: Path, form: tuple[str, str]) -> None:
    dtype, layout = form
    path, fake.answers = tmp_path / "model.plan", {"out": np.zeros((2, 1), np.float32)}
    tensors = {"images": ["INPUT", [2, 3, 4, 5], TYPES[dtype]], "out": ["OUTPUT", [2, 1], "FLOAT"]}
    path.write_bytes(plan(tensors=tensors, **named(layout, 0.25 if dtype == "int8" else 1.0)))
    values = np.linspace(-40, 40, 120, dtype=np.float32).reshape(2, 3, 4, 5)
    values[0, 0, 0, :3] = 0.125, 0.375, -0.125  # halves of a step, which round to even
    with TensorRTRunner(tensorrt(fake), path) as runner:
        own: dict[str, Any] = {"images": values.copy(), "out": np.zeros((2, 1), np.float32)}
        for buffers in (runner.allocate(), own):
            runner.bind(buffers)
            buffers["images"][...] = values
            runner.infer()
            seen = as_planes(dtype, layout, fake.seen)
            if dtype == "int8":
                assert seen[0, 0, 0, :3].tolist() == [0, 2, 0]
                assert (seen == np.clip(np.rint(values / 0.25), -128, 127)).all()
            else:
                assert (seen == values.astype(np.float16)).all()


def test_an_open_batch_in_a_layout_of_its_own(fake: Fake, tmp_path: Path) -> None:
    path, fake.answers = tmp_path / "model.plan", {"out": np.zeros((3, 1), np.float32)}
    tensors = {"images": ["INPUT", [-1, 3, 4, 5], "INT8"], "out": ["OUTPUT", [-1, 1], "FLOAT"]}
    path.write_bytes(plan(tensors=tensors, profile=[[1, 3, 4, 5], [2, 3, 4, 5], [4, 3, 4, 5]], **named("CHW4", 0.5)))
    with TensorRTRunner(tensorrt(fake), path, batch=3) as runner:
        buffers = runner.allocate()
        runner.bind(buffers)
        buffers["images"][...] = 3
        runner.infer()
        assert fake.seen is not None and fake.seen.shape == (3, 4, 5, 4) and (fake.seen[..., :3] == 6).all()


def test_a_layout_that_no_kernel_writes_is_refused(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"images is HALF CHW2, which no kernel writes: .* build.image: planes"):
        detector(fake, tmp_path, dtype="HALF", layout=named("CHW2"))


def test_copies_as_the_inspector_tells_them() -> None:
    text = (DATA / "trt-8.5.3-int8-2to4.json").read_text()
    assert copied_tensors(text) == {"x"}
    assert copied_tensors(text.replace('"Reformat"', '"NoOp"')) == set()
    assert copied_tensors('{"Layers": ["conv0 + relu0"]}') is None

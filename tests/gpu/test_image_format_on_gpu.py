"""Engines that take the image in each layout that the letterbox writes, against the same engine with FP32 planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from objects import matched
from onnx import helper, numpy_helper
from test_frame_path_on_gpu import detector, network, smooth

from edgesparse.backends import BuildOptions, BuildResult, backend
from edgesparse.backends.base import ImageInput
from edgesparse.backends.tensorrt import image_format
from edgesparse.backends.tensorrt.image_format import OFFERED
from edgesparse.int8 import calibration_table
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.int8.quantized_input import image_type, without_quantizer
from edgesparse.model import load as models

FORMS = [(dtype, layout) for dtype, layouts in OFFERED.items() for layout in layouts]
SCALES = {"images": 1 / 127, "first": 4 / 127, "features": 4 / 127}


def deeper(path: Path, batch: int) -> Path:
    """`network` behind a convolution of the image and ReLU: one layer that may be INT8."""
    model, rng = models.load(network(path, batch)), np.random.default_rng(1)
    first = (rng.standard_normal((16, 3, 3, 3)) * 0.27).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "first.w"], ["first"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["first"], ["features"], "features"),
    ]
    for node in model.graph.node:
        node.input[:] = ["features" if name == "images" else name for name in node.input]
    for tensor in model.graph.initializer:
        if tensor.name in ("w8", "w16", "w32"):
            weight = np.repeat(numpy_helper.to_array(tensor), 6, axis=1)[:, :16] / 2.3
            weight *= rng.choice(np.array([-1, 1], np.float32), weight.shape)
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(first, "first.w"))
    models.save(model, path)
    return path


def built(onnx: Path, name: str, options: BuildOptions) -> BuildResult:
    return backend("tensorrt").build(onnx, onnx.parent / f"{name}.engine", options)


def with_qdq(folder: Path, batch: int = 1) -> tuple[Path, Path, ImageInput]:
    """A network with Q/DQ pairs, the same with a quantized image, and the image's type."""
    model = models.load(deeper(folder / "net.onnx", batch))
    quantized = quantize(model, {name: SCALES[name] for name in quantized_tensors(model)})[0]
    kind = image_type(quantized)
    assert kind is not None and kind[0] == "int8"
    models.save(quantized, folder / "qdq.onnx")
    models.save(without_quantizer(quantized), folder / "image.onnx")
    return folder / "qdq.onnx", folder / "image.onnx", ImageInput(*kind)


def pairs(folder: Path, dtype: str, batch: int = 1) -> tuple[BuildResult, BuildResult]:
    """The engine with an image in a layout of its own, and the one with planes."""
    if dtype == "float16":
        onnx = deeper(folder / "net.onnx", batch)
        own = built(onnx, "own", BuildOptions(precision="fp16", image=ImageInput("float16")))
        return own, built(onnx, "planes", BuildOptions(precision="fp16"))
    qdq, onnx, image = with_qdq(folder, batch)
    own = built(onnx, "own", BuildOptions(precision="int8", image=image))
    return own, built(qdq, "planes", BuildOptions(precision="int8"))


def same(own: BuildResult, planes: BuildResult, batch: int = 1) -> None:
    """Both find the same objects, on the GPU's path and on the CPU's."""
    total = 0
    with detector(own.path) as ours, detector(planes.path) as right, detector(own.path, on_gpu=False) as other:
        assert ours.where == "the GPU, as one CUDA graph" and other.where == "the CPU"
        for seed in range(6):
            frames = [smooth(200 + 20 * seed, 300, seed + i) for i in range(batch)]
            expected = right.detect(frames)
            for results in (ours.detect(frames), other.detect(frames)):
                total += sum(matched(*each) for each in zip(results, expected, strict=True))
    assert total > 20


@pytest.mark.usefixtures("few_tactics")
@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_the_image_in_each_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, str]) -> None:
    dtype, layout = form
    monkeypatch.setitem(image_format.OFFERED, dtype, (layout,))
    own, planes = pairs(tmp_path, dtype)
    print(own.image, [layer.name for layer in own.layers if layer.kernel == "Reformat"])
    assert own.image.startswith(f"{dtype} {layout}") and planes.image == ""
    same(own, planes)


@pytest.mark.usefixtures("few_tactics")
@pytest.mark.parametrize("dtype", OFFERED)
def test_the_builder_chooses_among_them(tmp_path: Path, dtype: str) -> None:
    own, planes = pairs(tmp_path, dtype, 2)
    print(own.image)
    assert own.image.split(",")[0] in {f"{dtype} {layout}" for layout in OFFERED[dtype]}
    same(own, planes, 2)


@pytest.mark.usefixtures("few_int8_tactics")
def test_int8_from_a_table(tmp_path: Path) -> None:
    if backend("tensorrt").strongly_typed():
        pytest.skip("this release has no tables")
    onnx, table = deeper(tmp_path / "net.onnx", 1), tmp_path / "table"
    table.write_bytes(calibration_table.write(SCALES))
    image = ImageInput("int8", SCALES["images"])
    own = built(onnx, "own", BuildOptions(precision="int8", table=table, image=image))
    print(own.image)
    assert own.image.startswith("int8 ")
    same(own, built(onnx, "planes", BuildOptions(precision="int8", table=table)))

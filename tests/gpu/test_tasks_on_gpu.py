"""Masks, keypoints, rotated boxes, classes, raw maps and tiles on a real GPU with TensorRT: both frame paths, the GPU's
and the CPU's, with one engine."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from alone import DETAILS
from objects import matched
from onnx import TensorProto, helper, numpy_helper
from test_frame_path_on_gpu import CLASSES, SIZE, smooth
from test_frame_path_on_gpu import plan as plan_of_boxes

from edgesparse.backends import BuildOptions, Runner, backend
from edgesparse.backends.base import Limits
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.tiles import Tiles

pytestmark = pytest.mark.usefixtures("few_tactics")

STRIDES = (8, 16, 32)
BINS = 64
BY_THE_CPU = "the GPU, as one CUDA graph; outputs are decoded by the CPU"
WHERE = dict.fromkeys(("yolov8", *DETAILS, "yolov8-maps"), "the GPU, as one CUDA graph") | {"classifier": BY_THE_CPU}


class Net:
    """A network of one convolution per output map, with the outputs of a head."""

    def __init__(self, head: str, batch: int) -> None:
        self.head, self.batch, self.rng = head, batch, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.outputs: list[tuple[str, list[int]]] = []

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Any) -> str:
        self.stored.append(numpy_helper.from_array(np.array(values), name))
        return name

    def convolution(self, name: str, channels: int, stride: int, bias: float = 0.0) -> str:
        weight = self.rng.standard_normal((channels, 3, stride, stride)) * 8 / stride
        names = [
            self.constant(f"{name}.w", weight.astype(np.float32)),
            self.constant(f"{name}.b", np.full(channels, bias, np.float32)),
        ]
        return self.node("Conv", ["images", *names], name, strides=[stride, stride])

    def table(self) -> None:
        """[B, 4 + C + details, cells]: sizes of 10 to 30 pixels or more, scores after the sigmoid."""
        more, count = DETAILS.get(self.head, 0), sum(SIZE[0] // s * (SIZE[1] // s) for s in STRIDES)
        parts = {"sides": (4, 20.0), "logits": (len(CLASSES), -5.0), **({"more": (more, 0.0)} if more else {})}
        for name, (channels, bias) in parts.items():
            maps = []
            for stride in STRIDES:
                shape = self.constant(f"{name}{stride}.s", [self.batch, channels, -1])
                at = self.convolution(f"{name}{stride}", channels, stride, bias)
                maps.append(self.node("Reshape", [at, shape], f"{at}.r"))
            self.node("Concat", maps, name, axis=2)
        self.node("Relu", ["sides"], "boxes")
        self.node("Sigmoid", ["logits"], "scores")
        self.node("Concat", ["boxes", "scores", *(["more"] if more else [])], "output0", axis=1)
        self.outputs.append(("output0", [self.batch, 4 + len(CLASSES) + more, count]))
        if self.head == "yolov8-seg":
            self.convolution("output1", more, 4)
            self.outputs.append(("output1", [self.batch, more, SIZE[0] // 4, SIZE[1] // 4]))

    def classes(self) -> None:
        self.node("GlobalAveragePool", [self.convolution("maps", len(CLASSES), 16)], "means")
        self.node("Flatten", ["means"], "logits")
        self.node("Softmax", ["logits"], "output0", axis=1)
        self.outputs.append(("output0", [self.batch, len(CLASSES)]))

    def maps(self) -> None:
        for stride in STRIDES:
            name, channels = f"map{stride}", BINS + len(CLASSES)
            self.convolution(name, channels, stride, -1.0)
            self.outputs.append((name, [self.batch, channels, SIZE[0] // stride, SIZE[1] // stride]))

    def save(self, path: Path) -> Path:
        {"classifier": self.classes, "yolov8-maps": self.maps}.get(self.head, self.table)()
        entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [self.batch, 3, *SIZE])
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.outputs]
        graph = helper.make_graph(self.nodes, self.head, [entry], outputs, self.stored)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        return path


def plan(folder: Path, head: str, batch: int) -> Path:
    """An engine of the network, built once for all tests that share a folder."""
    if head == "yolov8":
        return plan_of_boxes(folder, batch)
    kept = Path(os.environ.get("EDGESPARSE_PLANS", folder)) / f"{head}-{batch}.engine"
    options = BuildOptions(precision="fp32", limits=Limits(level=1), detailed=False)
    with Path(f"{kept}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            model = Net(head, batch).save(folder / "net.onnx")
            built = backend("tensorrt").build(model, folder / "built.engine", options).path
            shutil.copy(built, kept.with_suffix(".part"))
            kept.with_suffix(".part").rename(kept)
    return kept


@contextmanager
def detectors(path: Path, head: str, **run: Any) -> Iterator[tuple[Detector, Detector]]:
    """The engine with frames prepared and boxes found by the GPU, and by the CPU."""
    letterbox = head_of(head).convention.letterbox
    spec = DetectorSpec(
        head=head,
        classes=CLASSES,
        input=InputSpec(size=SIZE, letterbox=letterbox),
        keypoints=(2, 3) if head == "yolov8-pose" else None,
    )
    both: list[Detector] = []
    try:
        for on_gpu in (True, False):
            runner: Runner = backend("tensorrt").load(path)
            if not on_gpu:
                runner.frames = lambda plan: []  # type: ignore[method-assign]
            both.append(Detector(runner, spec, Run(conf=0.3, max_det=1000, **run)))
        yield both[0], both[1]
    finally:
        for each in both:
            each.close()


@pytest.mark.parametrize("head", [*DETAILS, "classifier", "yolov8-maps"])
def test_objects_are_those_of_the_cpus_way(tmp_path: Path, head: str) -> None:
    sizes, total = [(1080, 1920), (321, 161), (128, 159), (720, 1280)], 0
    with detectors(plan(tmp_path, head, 2), head) as (detect, right):
        assert detect.where == WHERE[head] and right.where == "the CPU"
        for turn in range(4):
            frames = [smooth(*sizes[(turn + i) % 4], seed=turn + i) for i in range(2)]
            for ours, theirs in zip(detect.detect(frames), right.detect(frames), strict=True):
                total += matched(ours, theirs)
    assert total > (4 if head == "classifier" else 20)


@pytest.mark.parametrize(("head", "batch", "runs"), [("yolov8", 4, 3), ("yolov8-seg", 10, 1)])
def test_objects_in_tiles_are_those_of_the_cpus_way(tmp_path: Path, head: str, batch: int, runs: int) -> None:
    tiles, total = Tiles(size=(416, 740)), 0
    with detectors(plan(tmp_path, head, batch), head, tiles=tiles) as (detect, right):
        assert detect.where == WHERE[head]
        for seed in range(3):
            frame = smooth(1080, 1920, seed)
            locked = detect.frame_buffer(frame.shape)
            locked[...] = frame
            theirs = right(frame)
            for source in (frame, locked):
                total += matched(detect(source), theirs)
            assert detect.images == (10, runs)
    assert total > 20

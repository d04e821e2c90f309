"""Writes everything that a distillation needs into one folder, and reads its result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgesparse.compress.editor import Editor
from edgesparse.compress.maps import FAMILIES, maps_of
from edgesparse.compress.student import FEATURES, FITTED, refitted, shared_features, smooth_source, with_2to4, with_relu
from edgesparse.config import DetectorSpec
from edgesparse.errors import CalibrationError, ModelError
from edgesparse.int8.placement import Placement, QdqPlan, plan
from edgesparse.int8.quantize import quantize
from edgesparse.model.layers import layer_name
from edgesparse.model.load import load, save
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect

BINS = {"yolov8-maps": 16, "nanodet-maps": 8}


@dataclass(frozen=True)
class StudentOptions:
    """How the student differs from the teacher: `relu` and `sparse` (shares of all MACs, 0 to 1, in layers with ReLU
    behind them, and in layers that are 2:4; `relu` 1: ReLU everywhere), `int8`.

    `minutes`, `steps`, `batch` and `rate` (learning rate, relative to the weights) describe the training; None for what
    suits the machine that trains.
    """

    relu: float = 0.0
    sparse: float = 0.0
    int8: bool = False
    minutes: float = 10.0
    steps: int = 1_000_000
    batch: int | None = None
    rate: float | None = None


def channels_of(head: str, count: int) -> dict[str, Any]:
    """The meaning of the channels of a head's maps; see training.lessons.MapsSpec. Raises ModelError."""
    if head == "yolov8-maps":
        return {"box": (0, 64), "classes": (64, count), "bins": BINS[head]}
    if head == "nanodet-maps":
        sides = 4 * BINS[head]
        return {"box": (count - sides, count), "classes": (0, count - sides), "bins": BINS[head]}
    if head == "yolox-maps":
        return {"box": (0, 4), "classes": (5, count), "objectness": 4}
    if head == "fastestdet-maps":
        return {"box": (1, 5), "classes": (5, count), "objectness": 0, "softmax": True}
    raise ModelError(f"the maps of head {head!r} cannot be learned from: needed one of {', '.join(FAMILIES)}")


@dataclass(frozen=True)
class PreparedLesson:
    """A distillation that lacks only images: both networks, and the values of a training.lessons.Lesson."""

    teacher: ModelProto
    student: ModelProto
    values: dict[str, Any]
    smooth: ModelProto | None = None
    """The student before ReLU replaced its activations; None if nothing was replaced."""

    def refitted(
        self, pixels: NDArray[np.uint8], objects: Iterable[NDArray[np.float32]], folder: Path, progress: Progress
    ) -> PreparedLesson:
        """Return the lesson of a student whose layers are refitted to ReLU, if it replaced other activations.

        `pixels`: as in `write`. `objects`: for each of `inputs`, where objects are, [1, height, width] from 0 to 1.
        Layers stored in `folder` are not fitted again. Raises what `rebuild` raises.
        """
        if self.smooth is None:
            return self
        batches = partial(self.inputs, pixels)
        student = refitted(self.student, self.smooth, batches, objects, folder, progress)
        return replace(self, student=student, smooth=None)

    def inputs(self, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Yield the images that layers are refitted on, at most FITTED of `pixels`, as the networks take them."""
        mean, std = (np.array(self.values[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
        for image in pixels[:: -(-len(pixels) // FITTED)]:
            yield (image[None] * np.float32(self.values["scale"]) - mean) / std

    def write(self, folder: Path, pixels: NDArray[np.uint8]) -> None:
        """Write the files that `edgesparse.training.distill` reads.

        `pixels`: uint8 [N, 3, H, W] in the input's color order.
        """
        save(self.teacher, folder / "teacher.onnx")
        save(self.student, folder / "student.onnx")
        np.save(folder / "images.npy", pixels)
        (folder / "distill.json").write_text(json.dumps(self.values, indent=1))


def prepare_lesson(
    teacher: ModelProto,
    student: ModelProto,
    spec: DetectorSpec,
    options: StudentOptions,
    relu_at: Collection[str] | None = None,
) -> PreparedLesson:
    """Change the student as `options` say, and find what is compared.

    `student`: the teacher itself, or a changed network with the same outputs. `relu_at`: the tensors whose activation
    ReLU replaces, with `options.relu`; None for all. Where some stay smooth, the layers in front of these stay dense:
    no sparse INT8 kernel has SiLU behind it. Raises ModelError, naming the node, if the maps cannot be found or
    learned.
    """
    values = compared(teacher, student, spec)
    smooth = student if options.relu else None
    if options.relu:
        student = with_relu(student, relu_at)
    if options.sparse:
        wiring = Editor(student, copy=False).wiring
        kept = list(values["maps"])
        if options.relu:
            smooth_at = (smooth_source(wiring, node) for node in student.graph.node)
            kept += [name for name in smooth_at if name in wiring.producer]
        student = with_2to4(student, options.sparse, [layer_name(wiring.producer[name]) for name in kept])
    values |= {
        "placement": placement_of(student),
        "minutes": options.minutes,
        "steps": options.steps,
        **{name: value for name in ("batch", "rate") if (value := getattr(options, name)) is not None},
    }
    if options.int8:
        values |= rounding(plan(student, values["placement"]))
    return PreparedLesson(teacher, student, values, smooth)


def compared(teacher: ModelProto, student: ModelProto, spec: DetectorSpec, features: int = FEATURES) -> dict[str, Any]:
    """Return those values of a training.lessons.Lesson that say what is compared, and how pixels become the input.

    `features`: the most tensors inside the networks.
    Raises ModelError, naming the node, if the maps cannot be found or learned.
    """
    try:
        maps = maps_of(Editor(teacher, copy=False))
    except ModelError as error:
        raise ModelError(f"{error}: this model cannot be trained here; leave out the training") from error
    count = _channels(teacher, student, maps)
    return {
        "maps": maps,
        "features": shared_features(teacher, student, maps, features),
        "spec": channels_of(FAMILIES.get(spec.head, spec.head), count),
        "scale": spec.input.scale,
        "mean": list(spec.input.mean),
        "std": list(spec.input.std),
    }


def _channels(teacher: ModelProto, student: ModelProto, maps: Sequence[str]) -> int:
    """The number of channels of all maps of one stride. Raises ModelError if maps or strides differ."""
    first, second = ([Editor(model, copy=False).shape(name) for name in maps] for model in (teacher, student))
    counts: Counter[tuple[int, ...]] = Counter()
    for name, shape, other in zip(maps, first, second, strict=True):
        if shape is None:
            raise ModelError(f"the map {name} has no static shape: export the model with a static input")
        if shape != other:
            raise ModelError(
                f"the student's {name} is {_shown(other)}, needed {_shown(shape)} as the teacher's: the student needs "
                "the teacher's outputs"
            )
        counts[shape[2:]] += shape[1]
    (size, count), *others = counts.items()
    for place, channels in others:
        if channels != count:
            raise ModelError(
                f"the maps of {_shown(place)} have {channels} channels and those of {_shown(size)} {count}, needed the "
                "same number at each stride: this model cannot be trained here; leave out the training"
            )
    return count


def _shown(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape))


def placement_of(student: ModelProto) -> Placement:
    """Where Q/DQ pairs go: directly after the layers if any layer is 2:4, since sparse kernels need that."""
    return "sparse" if any(layer.state == "sparse" for layer in inspect(student).layers) else "fuse"


def rounding(qdq: QdqPlan) -> dict[str, Any]:
    """Return those values of a training.lessons.Lesson that say what is rounded to INT8."""
    readers = {name: {node: sorted(places) for node, places in by.items()} for name, by in qdq.readers.items()}
    layers = [layer_name(kernel.node) for kernel in qdq.kernels]
    return {"readers": readers, "scales_of": qdq.scales_of, "int8_layers": layers}


def read_result(folder: Path) -> tuple[ModelProto, dict[str, Any]]:
    """Return the trained student, with Q/DQ pairs if it was trained in INT8, and the training's report.

    Raises CalibrationError if a tensor has no scale.
    """
    model = load(folder / "trained.onnx")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    scales: dict[str, float] = report["scales"]
    if scales:
        missing: Sequence[str] = [name for name, scale in scales.items() if scale <= 0]
        if missing:
            raise CalibrationError(f"the training never computed {missing[0]}: train longer, or without INT8")
        placement = json.loads((folder / "distill.json").read_text())["placement"]
        model, _ = quantize(model, scales, placement=placement)
    return model, report

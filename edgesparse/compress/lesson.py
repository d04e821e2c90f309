"""Writes everything that a distillation needs into one folder, and reads its result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgesparse.compress.editor import Editor
from edgesparse.compress.maps import FAMILIES, maps_of
from edgesparse.compress.start import Start, placement_of
from edgesparse.compress.student import FEATURES, StudentOptions, shared_features
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import CalibrationError, ModelError
from edgesparse.int8.placement import plan
from edgesparse.int8.quantize import quantize
from edgesparse.model.layers import layer_name
from edgesparse.model.load import load, save

BINS = {"yolov8-maps": 16, "nanodet-maps": 8}


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

    def write(self, folder: Path, pixels: NDArray[np.uint8]) -> None:
        """Write the files that `edgesparse.training.distill` reads.

        `pixels`: uint8 [N, 3, H, W] in the input's color order.
        """
        save(self.teacher, folder / "teacher.onnx")
        save(self.student, folder / "student.onnx")
        np.save(folder / "images.npy", pixels)
        (folder / "distill.json").write_text(json.dumps(self.values, indent=1))


def prepare_lesson(start: Start, spec: DetectorSpec, options: StudentOptions) -> PreparedLesson:
    """Return the training from this start. Raises ModelError, naming the node, if the maps cannot be learned."""
    values = compared(start.teacher, start.student, spec, leave_out=start.equalized)
    values |= {
        "placement": placement_of(start.student),
        "minutes": options.minutes,
        "steps": options.steps,
        **{name: value for name in ("batch", "rate") if (value := getattr(options, name)) is not None},
        **start.rounding,
    }
    return PreparedLesson(start.teacher, start.student, values)


def network_inputs(pixels: NDArray[np.uint8], spec: InputSpec) -> Iterator[NDArray[np.float32]]:
    """Yield images [1, 3, H, W], as the networks take them, of `pixels`: uint8 [N, 3, H, W], the input's colors."""
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    for image in pixels:
        yield (image[None] * np.float32(spec.scale) - mean) / std


def compared(
    teacher: ModelProto,
    student: ModelProto,
    spec: DetectorSpec,
    features: int = FEATURES,
    leave_out: Collection[str] = (),
) -> dict[str, Any]:
    """Return those values of a training.lessons.Lesson that say what is compared, and how pixels become the input.

    `features`, `leave_out`: as `shared_features` takes them.
    Raises ModelError, naming the node, if the maps cannot be found or learned.
    """
    try:
        maps = maps_of(Editor(teacher, copy=False))
    except ModelError as error:
        raise ModelError(f"{error}: this model cannot be trained here; leave out the training") from error
    count = _channels(teacher, student, maps)
    inside, shifted = shared_features(teacher, student, maps, features, leave_out)
    return {
        "maps": maps,
        "features": inside,
        "shifted": shifted,
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
            raise CalibrationError(f"the training lost the range of {missing[0]}: train with a smaller --rate")
        model = rounded(model, json.loads((folder / "distill.json").read_text()), scales)
    return model, report


def rounded(model: ModelProto, values: Mapping[str, Any], scales: Mapping[str, float]) -> ModelProto:
    """Return the student with Q/DQ pairs where the values of its lesson say that it was rounded in training."""
    names = (layer_name(kernel.node) for kernel in plan(model, values["placement"]).kernels)
    keep = [name for name in names if name not in values["int8_layers"]]
    return quantize(model, scales, placement=values["placement"], keep=keep)[0]

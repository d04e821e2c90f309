"""From frames to detections, with every buffer allocated once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.backends.base import Runner
from edgesparse.errors import ConfigError, ModelError
from edgesparse.runtime.decode import check
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads import HEADS, Layout
from edgesparse.runtime.nms import nms
from edgesparse.runtime.preprocess import Letterbox, Preprocessor
from edgesparse.wording import nearest

STAGES = ("preprocess", "engine", "decode", "nms")


class Detector:
    """A runner with what stands before and behind it. A context manager; owns the runner.

    `times` holds the nanoseconds of the last call's STAGES; `notice` says what whoever runs it should know. Raises
    ModelError when head, input or classes do not fit the network, and ConfigError when `run` names a class that there
    is not.
    """

    def __init__(
        self, runner: Runner, spec: config.DetectorSpec, run: config.Run | None = None, precision: str = "fp32"
    ) -> None:
        run = run or config.Run()
        self.runner, self.spec, self.run, self.precision = runner, spec, run, precision
        self.notice = ""
        buffers = runner.allocate()
        runner.bind(buffers)
        image = _image_input(runner)
        _fill_sizes(runner, image, buffers)
        self.batch = buffers[image].shape[0]
        self._preprocess = Preprocessor(spec.input, buffers[image])
        self._outputs = [buffers[output.name] for output in runner.outputs]
        layout = Layout(runner.outputs, spec.input.size)
        check(spec.head, layout)
        head = HEADS[spec.head]
        classes = head.classes(layout)
        if classes is not None and classes != len(spec.classes):
            raise ModelError(
                f"the network has {classes} classes, 'classes:' names {len(spec.classes)}: make them equal"
            )
        self._thresholds = np.min(
            [thresholds(run.seen_by(camera), spec.classes) for camera in run.cameras]
            or [thresholds(run, spec.classes)],
            axis=0,
        )
        least = float(np.min(self._thresholds))
        # Heads hold the least threshold themselves; and those that know their classes cannot give another.
        self._filters = classes is None or bool((self._thresholds != least).any())
        self._decode = head.decode(layout, least, run.multi_label)
        self._nms = head.nms
        self.times = np.zeros(len(STAGES), np.int64)

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Detections in one frame, BGR uint8 [H, W, 3]."""
        return self.detect([frame])[0]

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Detections in each of at most `batch` frames, of any sizes. Slots that are left over keep older frames."""
        clock, times = time.perf_counter_ns, self.times
        start = clock()
        boxes = [self._preprocess(frame, slot) for slot, frame in enumerate(frames)]
        prepared = clock()
        self.runner.infer()
        inferred = clock()
        times[0], times[1], times[2:] = prepared - start, inferred - prepared, 0
        return [self._detections(slot, box) for slot, box in enumerate(boxes)]

    def _detections(self, slot: int, box: Letterbox) -> Detections:
        start = time.perf_counter_ns()
        xyxy, confidence, class_id = self._decode(self._outputs, slot)
        if self._filters:
            enough = self._enough(confidence, class_id)
            xyxy, confidence, class_id = xyxy[enough], confidence[enough], class_id[enough]
        decoded = time.perf_counter_ns()
        if self._nms:
            keep = nms(xyxy, confidence, class_id, self.run.iou, self.run.max_det, self.run.agnostic)
        else:
            keep = np.argsort(-confidence, kind="stable")[: self.run.max_det]
        result = Detections(box.to_frame(xyxy[keep]), confidence[keep], class_id[keep])
        self.times[2] += decoded - start
        self.times[3] += time.perf_counter_ns() - decoded
        return result

    def _enough(self, confidence: NDArray[np.float32], class_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        try:
            enough: NDArray[np.bool_] = confidence >= self._thresholds[class_id]
        except IndexError:
            found, named = int(np.max(class_id)), len(self.spec.classes)
            raise ModelError(f"the network found class {found}, 'classes:' names {named}: name them all") from None
        return enough

    def close(self) -> None:
        self.runner.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def thresholds(run: config.Run, names: Sequence[str], where: str = "run") -> NDArray[np.float32]:
    """Least confidence a class [C]; above 1, so never met, for classes that `run.classes` leaves out. ConfigError,
    which begins with `where`, for a class that there is not."""
    default, single = 0.25, {}
    if isinstance(run.conf, dict):
        single = {key: value for key, value in run.conf.items() if key != "default"}
        default = run.conf.get("default", default)
    else:
        default = run.conf
    least = np.full(len(names), default, np.float32)
    for name, value in single.items():
        least[class_index(name, names, f"{where}.conf")] = value
    if run.classes is not None:
        wanted = [class_index(name, names, f"{where}.classes") for name in run.classes]
        least[np.setdiff1d(np.arange(len(names)), wanted)] = np.inf
    return least


def class_index(name: str, names: Sequence[str], where: str) -> int:
    """The class's id from its name, or from its id as text."""
    if name in names:
        return list(names).index(name)
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise ConfigError(f"{where}: no class '{name}'{nearest(name, names)}")


def _image_input(runner: Runner) -> str:
    images = [spec for spec in runner.inputs if len(spec.shape) == 4]
    if len(images) != 1:
        raise ModelError(f"needed one picture input, found {', '.join(map(str, runner.inputs))}")
    return images[0].name


def _fill_sizes(runner: Runner, image: str, buffers: Mapping[str, NDArray[Any]]) -> None:
    """RT-DETR's own exports ask for the pictures' (width, height): with the input's, boxes come in its pixels."""
    for spec in runner.inputs:
        if spec.name == image:
            continue
        height, width = buffers[image].shape[2:]
        if spec.shape[-1:] != (2,) or not spec.dtype.startswith("int"):
            raise ModelError(f"cannot fill the input {spec}: needed a picture, or the pictures' sizes N x 2 in int64")
        buffers[spec.name][...] = (width, height)

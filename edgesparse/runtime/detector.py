"""From frames to detections, with every buffer allocated once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.backends.base import Runner, TensorSpec
from edgesparse.backends.frames import Found, FramePlan, Pixels, Ring
from edgesparse.closing import Closing
from edgesparse.errors import ConfigError, ModelError
from edgesparse.runtime.cpu_slot import CpuSlot
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import check
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.inputs import ImageInput, as_frame, as_frames, is_batch
from edgesparse.runtime.letterbox import Places
from edgesparse.runtime.nms import nms
from edgesparse.runtime.preprocess import Letterbox
from edgesparse.wording import nearest

Kinds = Pixels | Sequence[Pixels] | None
"""Of all frames of a batch, of each, or as their shapes tell."""
STAGES = ("preprocess", "engine", "decode", "nms")


class Detector(Closing):
    """A runner with what stands before and behind it. A context manager; owns the runner.

    `detect` waits for its result. For overlap, `submit` up to `depth` batches and `collect` them in order. Frames are
    uint8: [H, W, 3] in BGR or RGB, [H * 3 / 2, W] in NV12, [H, W, 2] in YUYV, in one batch of any sizes and kinds. What
    is neither BGR nor YUYV must be said: `pixels`, of all frames or of each. `times` holds the nanoseconds of the last
    result's STAGES; `notice` says what whoever runs it should know. Raises ModelError when head, input or classes do
    not fit the network, and ConfigError when `run` names a class that there is not.
    """

    def __init__(
        self, runner: Runner, spec: config.DetectorSpec, run: config.Run | None = None, precision: str = "fp32"
    ) -> None:
        run = run or config.Run()
        self.runner, self.spec, self.run, self.precision = runner, spec, run, precision
        self.notice = ""
        layout = Layout(runner.outputs, spec.input.size)
        check(spec.head, layout)
        head = head_of(spec.head)
        classes = head.classes(layout)
        if classes is not None and classes != len(spec.classes):
            raise ModelError(
                f"the network has {classes} classes, 'classes:' names {len(spec.classes)}: make them equal"
            )
        asked = [thresholds(run.seen_by(c), spec.classes, f"run.cameras.{c.name}") for c in run.cameras]
        self._thresholds: NDArray[np.float32] = np.stack(asked or [thresholds(run, spec.classes)]).min(0)
        least = float(np.min(self._thresholds))
        # Heads hold the least threshold themselves; and those that know their classes cannot give another.
        self._filters = classes is None or bool((self._thresholds != least).any())
        self._nms = head.nms
        image = _image_input(runner)
        self.batch, self._places = image.shape[0], Places(spec.input, image)
        plan = FramePlan(
            image.name,
            spec.input,
            head.decode(layout, least, run.multi_label),
            head.strided(layout),
            self._thresholds,
            run.multi_label,
            run.iou,
            run.max_det,
            run.agnostic,
            _sizes(runner, image),
        )
        slots = runner.frames(plan) or [CpuSlot(runner, plan)]
        self._ring, self._boxes = Ring(slots), deque[list[Letterbox]]()
        self.times = np.zeros(len(STAGES), np.int64)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, images: ImageInput
    ) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Detections | list[Detections]:
        """Detections in an image; for a list of images, or an array [N, H, W, 3], a list of detections.

        An image is a file, a BGR array uint8 [H, W, 3] or a PIL image. Any number of images is run in batches that the
        network takes. Raises SourceError for anything else, ImageError for a file that cannot be read.
        """
        if not is_batch(images):
            return self.detect([as_frame(images)])[0]
        frames = as_frames(images)
        starts = range(0, len(frames), self.batch)
        return [result for start in starts for result in self.detect(frames[start : start + self.batch])]

    def detect(self, frames: Sequence[NDArray[np.uint8]], pixels: Kinds = None) -> list[Detections]:
        """Detections in each of at most `batch` frames.

        Raises SourceError for a frame that is none, RuntimeError while batches are in flight.
        """
        if self._ring.in_flight:
            raise RuntimeError(f"{self._ring.in_flight} batches are in flight: collect() them first")
        if not frames:
            return []
        self.submit(frames, pixels)
        return self.collect()

    @property
    def depth(self) -> int:
        """Batches that can be in flight; 1 where nothing overlaps and `submit` does the work."""
        return self._ring.depth

    @property
    def where(self) -> str:
        """In words, what prepares frames, runs the network and finds the candidates."""
        return self._ring.where

    @property
    def in_flight(self) -> int:
        return self._ring.in_flight

    def submit(self, frames: Sequence[NDArray[np.uint8]], pixels: Kinds = None) -> None:
        """Begin with 1 to `batch` frames, which must not change until they are collected.

        Raises as `detect`, and RuntimeError when `depth` batches are in flight. What raises is not in flight.
        """
        if not 0 < len(frames) <= self.batch:
            raise ModelError(f"found {len(frames)} frames, needed 1 to {self.batch}: the network's batch")
        kinds = [pixels] * len(frames) if pixels is None or isinstance(pixels, str) else pixels
        placed = [self._places.of(frame, kind) for frame, kind in zip(frames, kinds, strict=True)]
        self._ring.submit([(frame, place) for frame, (place, _) in zip(frames, placed, strict=True)])
        self._boxes.append([box for _, box in placed])

    def collect(self) -> list[Detections]:
        """Wait for the oldest batch in flight: detections in each of its frames. RuntimeError when there is none."""
        boxes = self._boxes.popleft() if self._boxes else []
        found, times = self._ring.collect()
        self.times[:3], self.times[3] = times, 0
        return [self._detections(one, box) for one, box in zip(found, boxes, strict=True)]

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for frames of this shape: what is captured into it goes to the network without a copy by the CPU.

        Reuse it, and not before the frame in it was collected. It outlives the detector.
        """
        return self.runner.frame_buffer(shape)

    def _detections(self, found: Found, box: Letterbox) -> Detections:
        start = time.perf_counter_ns()
        xyxy, confidence, class_id, final = found
        if not len(confidence):
            return Detections.none(self.spec.classes)
        if final:
            return Detections(box.to_frame(xyxy), confidence, class_id, classes=self.spec.classes)
        if self._filters:
            enough = self._enough(confidence, class_id)
            xyxy, confidence, class_id = xyxy[enough], confidence[enough], class_id[enough]
        if self._nms:
            keep = nms(xyxy, confidence, class_id, self.run.iou, self.run.max_det, self.run.agnostic)
        else:
            keep = np.argsort(-confidence, kind="stable")[: self.run.max_det]
        boxes = box.to_frame(xyxy[keep])
        result = Detections(boxes, confidence[keep], class_id[keep], classes=self.spec.classes)
        self.times[3] += time.perf_counter_ns() - start
        return result

    def _enough(self, confidence: NDArray[np.float32], class_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        try:
            enough: NDArray[np.bool_] = confidence >= self._thresholds[class_id]
        except IndexError:
            found, named = int(np.max(class_id)), len(self.spec.classes)
            raise ModelError(f"the network found class {found}, 'classes:' names {named}: name them all") from None
        return enough

    def close(self) -> None:
        """What is in flight is waited for and dropped."""
        self._ring.close()
        self.runner.close()


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
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ConfigError(f"{where}: no class '{name}'{nearest(name, names)}")


def _image_input(runner: Runner) -> TensorSpec:
    images = [spec for spec in runner.inputs if len(spec.shape) == 4]
    if len(images) != 1:
        raise ModelError(f"needed one image input, found {', '.join(map(str, runner.inputs))}")
    return images[0]


def _sizes(runner: Runner, image: TensorSpec) -> tuple[tuple[str, NDArray[Any]], ...]:
    """RT-DETR's own exports ask for the images' (width, height): with the input's, boxes come in its pixels."""
    found = []
    for spec in runner.inputs:
        if spec is image:
            continue
        if spec.shape[-1:] != (2,) or not spec.dtype.startswith("int"):
            raise ModelError(f"cannot fill the input {spec}: needed an image, or the images' sizes N x 2 in int64")
        found.append((spec.name, np.broadcast_to(np.array(image.shape[:1:-1], spec.dtype), spec.shape)))
    return tuple(found)

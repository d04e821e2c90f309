"""From frames to detections, with every buffer allocated once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.backends.base import Runner
from edgesparse.backends.frames import FrameBoxes, FramePlan, Pixels, Ring
from edgesparse.closing import Closing
from edgesparse.errors import ConfigError, ModelError
from edgesparse.runtime.boxes import all_valid, faults, valid_boxes
from edgesparse.runtime.cpu_slot import CpuSlot
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.heads.base import Layout, Task
from edgesparse.runtime.heads.objects import rotated_of
from edgesparse.runtime.heads.recognize import check
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.inputs import ImageInput, as_frame, as_frames, is_batch
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.network_inputs import fixed_inputs, image_input
from edgesparse.runtime.nms import nms
from edgesparse.runtime.places import Places
from edgesparse.runtime.rotated import suppress
from edgesparse.wording import nearest

Kinds = Pixels | Sequence[Pixels] | None
"""The pixel format of all frames of a batch, of each frame, or None: what their shapes suggest."""
UNKNOWN = "faults that the GPU found"
"""The fault of candidates that the GPU dropped."""
LOW = 0.1
"""The least confidence that ByteTrack considers."""
STAGES = ("preprocess", "engine", "decode", "nms")


class Detector(Closing):
    """From frames to detections. A context manager; it owns the runner.

    `detect` waits for its result. To overlap work, `submit` up to `depth` batches and `collect` them in order. Frames
    are uint8: [H, W, 3] in BGR or RGB, [H * 3 / 2, W] in NV12, [H, W, 2] in YUYV; one batch may mix sizes and formats.
    Formats other than BGR and YUYV must be named with `pixels`. `times`: nanoseconds per stage (STAGES) of the last
    result. `faults`: how many candidates reached their threshold but are not valid boxes (boxes.py), by fault.
    `notice`: what users of this detector should know.

    Raises ModelError if head, input or classes do not fit the model, and ConfigError if `run` names an unknown class.
    """

    def __init__(
        self, runner: Runner, spec: config.DetectorSpec, run: config.Run | None = None, precision: str = "fp32"
    ) -> None:
        run = run or config.Run()
        self.runner, self.spec, self.run, self.precision = runner, spec, run, precision
        self.notice = ""
        layout = Layout(runner.outputs, spec.input.size, spec.keypoints)
        check(spec.head, layout)
        head = head_of(spec.head)
        _check_task(head.task, spec, run)
        classes = head.classes(layout)
        if classes not in (None, len(spec.classes)):
            named = len(spec.classes)
            raise ModelError(f"the network has {classes} classes, 'classes:' names {named}: make them equal")
        self._classes = len(spec.classes) if classes is None else None
        per_camera = [thresholds(run.seen_by(c), spec.classes, f"run.cameras.{c.name}") for c in run.cameras]
        self._counted: NDArray[np.float32] = np.stack(per_camera or [thresholds(run, spec.classes)]).min(0)
        self._thresholds = for_tracker(self._counted, run)
        lowest = float(np.min(self._thresholds))
        # Heads already apply the lowest threshold.
        self._filters = bool((self._thresholds != lowest).any())
        self._nms, self._complete, self.faults = head.nms, head.complete(layout), dict[str, int]()
        self._rotated = head.task == "obb"
        image = image_input(runner)
        self.batch, self._places = image.shape[0], Places(spec.input, image)
        plan = FramePlan(
            image.name,
            spec.input,
            head.decode(layout, lowest, run.multi_label),
            head.strided(layout),
            self._thresholds,
            *(run.multi_label, run.iou, run.max_det, run.agnostic),
            fixed_inputs(runner, image),
            upright=not self._rotated,
            prototypes=head.prototypes(layout),
        )
        slots = runner.frames(plan) or [CpuSlot(runner, plan)]
        self._ring, self._letterboxes = Ring(slots), deque[list[Letterbox]]()
        self.times = np.zeros(len(STAGES), np.int64)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, images: ImageInput
    ) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Detections | list[Detections]:
        """Return the detections in an image; for a list of images, or an array [N, H, W, 3], a list of detections. An
        image is a file, a BGR array uint8 [H, W, 3] or a PIL image. Any number of images is split into batches that the
        engine takes. Raises SourceError for anything else, ImageError for a file that cannot be read.
        """
        if not is_batch(images):
            return self.detect([as_frame(images)])[0]
        frames = as_frames(images)
        starts = range(0, len(frames), self.batch)
        return [result for start in starts for result in self.detect(frames[start : start + self.batch])]

    @property
    def dropped(self) -> int:
        """Number of candidates so far that reached their threshold but are not valid boxes."""
        return sum(self.faults.values())

    def detect(self, frames: Sequence[NDArray[np.uint8]], pixels: Kinds = None) -> list[Detections]:
        """Return the detections in each of at most `batch` frames. Raises SourceError for a frame of the wrong shape or
        type, RuntimeError while batches are in flight.
        """
        if self._ring.in_flight:
            raise RuntimeError(f"{self._ring.in_flight} batches are in flight: collect() them first")
        if not frames:
            return []
        self.submit(frames, pixels)
        return [self.counted(each) for each in self.collect()]

    @property
    def depth(self) -> int:
        """Number of batches that can be in flight; 1 if nothing overlaps and `submit` does the work."""
        return self._ring.depth

    @property
    def where(self) -> str:
        """A description of what prepares frames, runs the model and finds candidates."""
        return self._ring.where

    @property
    def in_flight(self) -> int:
        return self._ring.in_flight

    def submit(self, frames: Sequence[NDArray[np.uint8]], pixels: Kinds = None) -> None:
        """Start 1 to `batch` frames, which must not change until they are collected.

        Raises what `detect` raises, and RuntimeError if `depth` batches are in flight. A batch that raises is not
        started.
        """
        if not 0 < len(frames) <= self.batch:
            raise ModelError(f"found {len(frames)} frames, needed 1 to {self.batch}: the network's batch")
        formats = [pixels] * len(frames) if pixels is None or isinstance(pixels, str) else pixels
        placed = [self._places.of(frame, kind) for frame, kind in zip(frames, formats, strict=True)]
        self._ring.submit([(frame, place) for frame, (place, _) in zip(frames, placed, strict=True)])
        self._letterboxes.append([letterbox for _, letterbox in placed])

    def collect(self) -> list[Detections]:
        """Wait for the oldest batch in flight and return its detections per frame; with `tracking: bytetrack` those of
        confidence LOW or more, which only a tracker may use. Raises RuntimeError if there is
        none.
        """
        letterboxes = self._letterboxes.popleft() if self._letterboxes else []
        results, times = self._ring.collect()
        self.times[:3], self.times[3] = times, 0
        return [self._detections(boxes, letterbox) for boxes, letterbox in zip(results, letterboxes, strict=True)]

    def counted(self, detections: Detections) -> Detections:
        """Return the collected detections without those that only a tracker may use."""
        if self._counted is self._thresholds:
            return detections
        return detections[detections.confidence >= self._counted[detections.class_id]]

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return memory for a frame of this shape, which the engine reads without a copy by the CPU. Reuse it once the
        frame in it has been collected. It outlives the detector.
        """
        return self.runner.frame_buffer(shape)

    def _detections(self, boxes: FrameBoxes, letterbox: Letterbox) -> Detections:
        start = time.perf_counter_ns()
        if boxes.dropped:
            self.faults[UNKNOWN] = self.faults.get(UNKNOWN, 0) + boxes.dropped
        if not len(boxes.confidence):
            return self._in_frame(letterbox, boxes) if self._complete else Detections.none(self.spec.classes)
        if self._complete:
            boxes = self._with_finite_details(boxes)
        if not boxes.final:
            boxes = self._selected(boxes)
        elif self._complete is None:
            return self._in_frame(letterbox, boxes)
        result = self._in_frame(letterbox, boxes)
        self.times[3] += time.perf_counter_ns() - start
        return result

    def _selected(self, boxes: FrameBoxes) -> FrameBoxes:
        """Candidates that are boxes, reach the threshold of their class and are not suppressed."""
        values, confidence, class_id = boxes[:3]
        xyxy = values[:, :4]
        if not all_valid(xyxy, confidence, class_id, self._classes):
            keep = valid_boxes(xyxy, confidence, class_id, len(self.spec.classes))
            self._count_faults(xyxy[~keep], confidence[~keep], class_id[~keep])
            values, confidence, class_id = values[keep], np.minimum(confidence[keep], 1), class_id[keep]
        if self._filters:
            enough = confidence >= self._thresholds[class_id]
            values, confidence, class_id = values[enough], confidence[enough], class_id[enough]
        limits = self.run.iou, self.run.max_det, self.run.agnostic
        if not self._nms:
            order = np.argsort(-confidence, kind="stable")[: self.run.max_det]
        elif self._rotated:
            order = suppress(rotated_of(values[:, :4], values[:, 4]), confidence, class_id, *limits)
        else:
            order = nms(values[:, :4], confidence, class_id, *limits)
        return FrameBoxes(values[order], confidence[order], class_id[order], prototypes=boxes.prototypes)

    def _with_finite_details(self, boxes: FrameBoxes) -> FrameBoxes:
        """Candidates without those whose mask, keypoints or angle are no numbers, which are counted as faults."""
        finite = np.isfinite(boxes.xyxy[:, 4:]).all(axis=1)
        if finite.all():
            return boxes
        text = "details that are not finite numbers"
        self.faults[text] = self.faults.get(text, 0) + int((~finite).sum())
        values, confidence, class_id = boxes[:3]
        return boxes._replace(xyxy=values[finite], confidence=confidence[finite], class_id=class_id[finite])

    def _in_frame(self, letterbox: Letterbox, boxes: FrameBoxes) -> Detections:
        """Detections in the frame's pixels, without those that are in the padding altogether."""
        xyxy = letterbox.to_frame(boxes.xyxy[:, :4])
        result = Detections(xyxy, boxes.confidence, boxes.class_id, classes=self.spec.classes)
        if self._complete is not None:
            result = self._complete(result, boxes.xyxy, boxes.prototypes, letterbox)
        inside = result.xyxy[:, :2] < result.xyxy[:, 2:]
        return result if inside.all() else result[np.logical_and(inside[:, 0], inside[:, 1])]

    def _count_faults(
        self, xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64]
    ) -> None:
        """Count invalid candidates that reach the threshold of their class; those without a class reach any."""
        unknown = (class_id < 0) | (class_id >= len(self._thresholds))
        reached = unknown | ~(confidence < self._thresholds[np.where(unknown, 0, class_id)])
        counts = faults(xyxy[reached], confidence[reached], class_id[reached], len(self.spec.classes))
        for text, count in counts.items():
            self.faults[text] = self.faults.get(text, 0) + count

    def close(self) -> None:
        """Wait for the batches in flight, discard their results, and free everything."""
        self._ring.close()
        self.runner.close()


def _check_task(task: Task, spec: config.DetectorSpec, run: config.Run) -> None:
    """Raise ConfigError for settings that mean nothing for a task."""
    if task == "obb" and spec.input.letterbox == "stretch":
        raise ConfigError("input.letterbox: found stretch, needed centre or top-left: rotated boxes would be sheared")
    if task == "classify" and (run.tracking or any(camera.zones for camera in run.cameras)):
        raise ConfigError("run: a classifier sees the whole frame: remove tracking and zones, or use a detector")


def thresholds(run: config.Run, names: Sequence[str], where: str = "run") -> NDArray[np.float32]:
    """Return the minimum confidence per class [C]; infinite for classes not in `run.classes`. Raises ConfigError, which
    starts with `where`, for an unknown class.
    """
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
        selected = [class_index(name, names, f"{where}.classes") for name in run.classes]
        least[np.setdiff1d(np.arange(len(names)), selected)] = np.inf
    return least


def for_tracker(least: NDArray[np.float32], run: config.Run) -> NDArray[np.float32]:
    """Lower thresholds [C] to what the tracker considers; the same array with another tracker than ByteTrack."""
    return np.where(np.isfinite(least), np.minimum(least, LOW), least) if run.tracking == "bytetrack" else least


def class_index(name: str, names: Sequence[str], where: str) -> int:
    """Return a class id from its name, or from its id as text. Raises ConfigError, which starts with `where`."""
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and len(name) < 10 and int(name) < len(names):
        return int(name)
    raise ConfigError(f"{where}: no class '{name}'{nearest(name, names)}")

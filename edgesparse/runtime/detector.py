"""From frames to detections, with every buffer allocated once."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.backends.base import Runner
from edgesparse.backends.frames import Frame, FrameBoxes, FramePlan, Pixels, Ring
from edgesparse.closing import Closing
from edgesparse.errors import ModelError
from edgesparse.runtime.boxes import all_valid, faults, valid_boxes
from edgesparse.runtime.cpu_slot import CpuSlot
from edgesparse.runtime.detections import Detections, having
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.objects import rotated_of
from edgesparse.runtime.heads.recognize import check
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.inputs import FrameInput, ImageInput, as_frame, as_frames, is_batch
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.merge import Limits, merged
from edgesparse.runtime.network_inputs import fixed_inputs, image_input
from edgesparse.runtime.nms import nms
from edgesparse.runtime.places import Places, Views
from edgesparse.runtime.rotated import suppress
from edgesparse.runtime.rounds import Rounds
from edgesparse.runtime.run_settings import check_task, is_tiled
from edgesparse.runtime.thresholds import for_tracker, lowest_thresholds
from edgesparse.tiles import Tiles

Kinds = Pixels | Sequence[Pixels] | None
"""The pixel format of all frames of a batch, of each frame, or None: what their shapes suggest."""
UNKNOWN = "faults that the GPU found"
"""The fault of candidates that the GPU dropped."""
STAGES = ("preprocess", "engine", "decode", "nms")
_log = logging.getLogger(__name__)


class Detector(Closing):
    """From frames to detections. A context manager; it owns the runner.

    `detect` waits for its result. To overlap work, `submit` up to `depth` batches and `collect` them in order. Frames
    are uint8: [H, W, 3] in BGR or RGB, [H * 3 / 2, W] in NV12, [H, W, 2] in YUYV; one batch may mix sizes and formats.
    Formats other than BGR and YUYV must be named with `pixels`. Frames are arrays of NumPy or, with TensorRT, in GPU
    memory: arrays with `__cuda_array_interface__`, whose rows may have gaps between them. `images`: how many images,
    tiles included, the last batch was, and the engine's runs for it. `faults`: how many candidates reached their
    threshold but are not valid boxes (boxes.py), by fault. `notice`: what users of this detector should know.

    Raises ModelError if head, input or classes do not fit the model, and ConfigError if `run` names an unknown class.
    """

    def __init__(
        self, runner: Runner, spec: config.DetectorSpec, run: config.Run | None = None, precision: str = "fp32"
    ) -> None:
        run = run or config.Run()
        self.runner, self.spec, self.run, self.precision, self.notice = runner, spec, run, precision, ""
        layout = Layout(runner.outputs, spec.input.size, spec.keypoints)
        check(spec.head, layout)
        head = head_of(spec.head)
        check_task(head.task, spec, run)
        classes = head.classes(layout)
        if classes not in (None, named := len(spec.classes)):
            raise ModelError(f"the network has {classes} classes, 'classes:' names {named}: make them equal")
        self._classes = len(spec.classes) if classes is None else None
        self._counted = lowest_thresholds(run, spec.classes)
        self._thresholds = for_tracker(self._counted, run)
        lowest = float(np.min(self._thresholds))
        # Heads already apply the lowest threshold.
        self._filters = bool((self._thresholds != lowest).any())
        self._nms, self._complete, self.faults = head.nms, head.complete(layout), dict[str, int]()
        self._rotated = head.task == "obb"
        image = image_input(runner)
        self._size, self._places = image.shape[0], Places(spec.input, image)
        self.batch, self.images = 1 if is_tiled(run) else self._size, (0, 0)
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
            in_frame=self._complete is None,
        )
        slots = runner.frames(plan) or [CpuSlot(runner, plan)]
        self._on_device = slots[0].on_device
        self._rounds, self._views = Rounds(Ring(slots), self._size), deque[list[Views]]()
        self._none, self._times = Detections.none(spec.classes), [0] * len(STAGES)

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
    def times(self) -> NDArray[np.int64]:
        """Nanoseconds per stage (STAGES) of the last result, int64 [4]."""
        return np.array(self._times, np.int64)

    @property
    def dropped(self) -> int:
        """Number of candidates so far that reached their threshold but are not valid boxes."""
        return sum(self.faults.values())

    def detect(self, frames: Sequence[FrameInput], pixels: Kinds = None) -> list[Detections]:
        """Return the detections in each of at most `batch` frames. Raises SourceError for a frame of the wrong shape or
        type, or in memory that the engine cannot read; RuntimeError while batches are in flight.
        """
        if self._rounds.in_flight:
            raise RuntimeError(f"{self._rounds.in_flight} batches are in flight: collect() them first")
        if not frames:
            return []
        self.submit(frames, pixels)
        results = self.collect()
        return results if self._counted is self._thresholds else [self.counted(each) for each in results]

    @property
    def depth(self) -> int:
        """Number of batches that can be in flight; 1 if nothing overlaps and `submit` does the work."""
        return self._rounds.depth

    @property
    def tiles(self) -> Tiles | None:
        """The tiles of frames that `submit` gets without any."""
        tiles = self.run.tiles
        return None if isinstance(tiles, str) else tiles  # a model's isinstance is slow

    @property
    def where(self) -> str:
        """A description of what prepares frames, runs the model and finds candidates."""
        return self._rounds.where

    @property
    def in_flight(self) -> int:
        return self._rounds.in_flight

    def submit(
        self, frames: Sequence[FrameInput], pixels: Kinds = None, tiles: Sequence[Tiles | None] | None = None
    ) -> None:
        """Start 1 to `batch` frames, which must not change until they are collected. `tiles`: the parts of each frame
        that are seen too; by default those of `run`.

        Raises what `detect` raises, and RuntimeError if `depth` batches are in flight. A batch that raises is not
        started.
        """
        if not 0 < len(frames) <= self.batch:
            raise ModelError(f"found {len(frames)} frames, needed 1 to {self.batch}: the network's batch")
        formats = [pixels] * len(frames) if pixels is None or isinstance(pixels, str) else pixels
        tiles = tiles or [self.tiles] * len(frames)
        # Plain lists: one with a type in brackets takes microseconds to make.
        views: list[Views] = []
        images: list[Frame] = []
        for frame, kind, parts in zip(frames, formats, tiles, strict=True):
            array = frame if isinstance(frame, np.ndarray) else self._on_device(frame)
            views.append(seen := self._places.of(array, kind, parts))
            for place, _ in seen:
                images.append((array, place))
        self.images = len(images), -(-len(images) // self._size)
        if self.images[1] > 1:
            self._note_rounds(*self.images)
        self._rounds.submit(images)
        self._views.append(views)

    def collect(self) -> list[Detections]:
        """Wait for the oldest batch in flight and return its detections per frame; with `tracking: bytetrack` those of
        confidence LOW or more, which only a tracker may use. Raises RuntimeError if there is none.
        """
        views = self._views.popleft() if self._views else []
        letterboxes = [letterbox for each in views for _, letterbox in each]
        seen: list[Detections] = []
        prepared = ran = decoded = selected = 0
        for results, times in self._rounds.collect():
            start = time.perf_counter_ns()
            for boxes in results:
                seen.append(self._detections(boxes, letterboxes[len(seen)]))
            selected += time.perf_counter_ns() - start
            prepared, ran, decoded = prepared + times[0], ran + times[1], decoded + times[2]
        self._times = [prepared, ran, decoded, selected]
        if len(seen) == len(views):
            return seen
        start = time.perf_counter_ns()
        rest, limits = iter(seen), Limits(self.run.iou, self.run.max_det, self.run.agnostic)
        together = [merged([place.seen for place, _ in each], [next(rest) for _ in each], limits) for each in views]
        self._times[3] += time.perf_counter_ns() - start
        return together

    def _note_rounds(self, images: int, rounds: int) -> None:
        """Say once that frames need several runs of the engine."""
        if not self.notice:
            self.notice = (
                f"a frame and its tiles are {images} images, which take {rounds} runs of the engine, whose batch is "
                f"{self._size}: build.batch: {images} takes one"
            )
            _log.warning("%s", self.notice)

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
        if boxes.dropped:
            self.faults[UNKNOWN] = self.faults.get(UNKNOWN, 0) + boxes.dropped
        if boxes.in_frame:
            return having(self._none, xyxy=boxes.xyxy, confidence=boxes.confidence, class_id=boxes.class_id)
        if not len(boxes.confidence):
            return self._in_frame(letterbox, boxes) if self._complete else self._none
        if self._complete:
            boxes = self._with_finite_details(boxes)
        return self._in_frame(letterbox, boxes if boxes.final else self._selected(boxes))

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
        return FrameBoxes(
            values.take(order, 0), confidence.take(order), class_id.take(order), False, 0, boxes.prototypes
        )

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
        result = having(self._none, xyxy=xyxy, confidence=boxes.confidence, class_id=boxes.class_id)
        if self._complete is not None:
            result = self._complete(result, boxes.xyxy, boxes.prototypes, letterbox)
        inside = result.xyxy[:, :2] < result.xyxy[:, 2:]
        all_inside = np.count_nonzero(inside) == inside.size  # in a third of the time of inside.all()
        return result if all_inside else result[np.logical_and(inside[:, 0], inside[:, 1])]

    def _count_faults(
        self, xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64]
    ) -> None:
        """Count invalid candidates that reach the threshold of their class; those without a class reach any."""
        unknown = (class_id < 0) | (class_id >= len(self._thresholds))
        reached = unknown | ~(confidence < self._thresholds[np.where(unknown, 0, class_id)])
        counts = faults(xyxy[reached], confidence[reached], class_id[reached], len(self.spec.classes))
        for text, count in counts.items():
            self.faults[text] = self.faults.get(text, 0) + count

    def release(self) -> None:
        """Wait for the batches in flight, discard their results, and leave the runner to another detector."""
        self._rounds.close()

    def close(self) -> None:
        """Wait for the batches in flight, discard their results, and free everything."""
        self.release()
        self.runner.close()

"""The detections in one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import BackendUnavailable
from edgesparse.runtime.counts import Counts
from edgesparse.runtime.masks import Mask
from edgesparse.runtime.rotated import corners_of

if TYPE_CHECKING:
    import supervision

Selection = slice | Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object. `xyxy`: left, top, right, bottom in pixels of the image; `confidence`: 0..1.

    `name` is empty if the detector's class names are unknown, `zones` if the camera has none. `track_id` is None
    without tracking, -1 while the tracker has not confirmed the object. `mask`, `keypoints` [K, 3] and `rotated` [5]
    are those of `Detections`, None if the detector has none. `dwell`: seconds that a tracked object has been in each of
    `zones`.
    """

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    name: str = ""
    zones: tuple[str, ...] = ()
    track_id: int | None = None
    mask: Mask | None = None
    keypoints: NDArray[np.float32] | None = None
    rotated: NDArray[np.float32] | None = None
    dwell: tuple[float, ...] = ()


@dataclass(frozen=True)
class Detections:
    """The detections in one image, most confident first; iterating yields `Detection` objects.

    `xyxy`: float32 [n, 4], left, top, right, bottom in pixels of the image. `confidence`: float32 [n], 0..1.
    `class_id`: int64 [n]. `zones`, for a camera with zones: the names of the zones that each box is in. `track_id`:
    int64 [n] with tracking, constant from frame to frame of a camera, -1 while the tracker has not confirmed the
    object. `classes`: the names of all classes that the detector knows, by class id. `dwell`, with zones and tracking:
    for how many seconds each object has been in each of its `zones`. `counts`, for a camera with zones or lines: where
    these are, and what was counted there so far.

    If the detector reports them: `masks`: the pixels of each object, as run lengths. `keypoints`: float32 [n, K, 3], x
    and y in pixels of the image and confidence 0..1 of each of K points. `rotated`: float32 [n, 5], x and y of the
    center, width, height in pixels and angle in radians, clockwise from the x axis, 0 to a quarter turn; `xyxy` is then
    the upright box around it.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    zones: tuple[tuple[str, ...], ...] | None = None
    track_id: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    masks: tuple[Mask, ...] | None = None
    keypoints: NDArray[np.float32] | None = None
    rotated: NDArray[np.float32] | None = None
    dwell: tuple[tuple[float, ...], ...] | None = None
    counts: Counts | None = None

    @property
    def anchors(self) -> NDArray[np.float32]:
        """The points by which zones and lines judge, float32 [n, 2], x and y in pixels: the bottom center of each box,
        where people and vehicles touch the ground; the center of a rotated box, since those are seen from above.
        """
        if self.rotated is not None:
            return self.rotated[:, :2]
        return anchors_of(self.xyxy)

    @property
    def corners(self) -> NDArray[np.float32] | None:
        """The corners of the rotated boxes, float32 [n, 4, 2], in order around each; None without rotated boxes."""
        return None if self.rotated is None else corners_of(self.rotated)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each detection; empty strings if the class names are unknown."""
        return tuple(self._name(class_id) for class_id in self.class_id.tolist())

    def _name(self, class_id: int) -> str:
        return self.classes[class_id] if 0 <= class_id < len(self.classes) else ""

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Detection: ...
    @overload
    def __getitem__(self, key: Selection) -> Detections: ...
    def __getitem__(self, key: int | np.integer[Any] | Selection) -> Detection | Detections:
        """Return the `Detection` at a position, or the Detections of a slice, a bool mask [n], or several positions.
        Raises IndexError for a position or a mask that does not fit.
        """
        if isinstance(key, int | np.integer):
            return self._detection(int(key))
        rows = np.arange(len(self))[key if isinstance(key, slice) else _selection(key)]
        return Detections(
            self.xyxy[rows],
            self.confidence[rows],
            self.class_id[rows],
            None if self.zones is None else tuple(self.zones[row] for row in rows.tolist()),
            None if self.track_id is None else self.track_id[rows],
            self.classes,
            None if self.masks is None else tuple(self.masks[row] for row in rows.tolist()),
            None if self.keypoints is None else self.keypoints[rows],
            None if self.rotated is None else self.rotated[rows],
            None if self.dwell is None else tuple(self.dwell[row] for row in rows.tolist()),
            self.counts,
        )

    def _detection(self, row: int) -> Detection:
        left, top, right, bottom = self.xyxy[row].tolist()
        class_id = int(self.class_id[row])
        zones = () if self.zones is None else self.zones[row]
        track_id = None if self.track_id is None else int(self.track_id[row])
        box = (left, top, right, bottom)
        name, confidence = self._name(class_id), float(self.confidence[row])
        mask = None if self.masks is None else self.masks[row]
        keypoints, rotated = (None if values is None else values[row] for values in (self.keypoints, self.rotated))
        dwell = () if self.dwell is None else self.dwell[row]
        return Detection(box, confidence, class_id, name, zones, track_id, mask, keypoints, rotated, dwell)

    def __iter__(self) -> Iterator[Detection]:
        return map(self._detection, range(len(self)))

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def none(cls, classes: tuple[str, ...] = ()) -> Detections:
        """Return empty detections."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), classes=classes)

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, for its annotators, trackers and zones.

        `data` has the names as `class_name`, corners of rotated boxes as `xyxyxyxy`, and `keypoints`, where known.

        Raises BackendUnavailable if supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise BackendUnavailable(f"to_supervision needs {error.name}: pip install supervision") from None
        data: dict[str, Any] = {"class_name": np.array(self.names, dtype=np.str_)}
        if self.corners is not None:
            data["xyxyxyxy"] = self.corners
        if self.keypoints is not None:
            data["keypoints"] = self.keypoints.copy()
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.confidence.copy(),
            class_id=self.class_id.copy(),
            tracker_id=None if self.track_id is None else self.track_id.copy(),
            mask=np.stack([mask.bitmap() for mask in self.masks]) if self.masks else None,
            data=data,
        )


def anchors_of(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the bottom center of each box: float32 [n, 2] of [n, 4]."""
    return np.concatenate([(xyxy[:, :1] + xyxy[:, 2:3]) / 2, xyxy[:, 3:]], axis=1)


def having(detections: Detections, **fields: object) -> Detections:
    """Return the same detections with other values of some fields, as `dataclasses.replace` does, in a fraction of its
    time: the frame loop needs it for every frame."""
    other = object.__new__(Detections)
    other.__dict__.update(detections.__dict__, **fields)
    return other


def _selection(key: Sequence[int] | Sequence[bool] | NDArray[Any]) -> NDArray[Any]:
    """Return a mask or positions; an empty list selects nothing."""
    array = np.asarray(key)
    return array if array.size or array.dtype == bool else array.astype(np.intp)

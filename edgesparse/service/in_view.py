"""What each camera currently sees: objects per class and zone, smoothed over a second."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.draw import class_name

Key = tuple[str, int]
"""A zone, empty for the whole frame, and a class id."""


@dataclass(frozen=True)
class InView:
    """The most that one frame of the last second showed, by zone and class id."""

    counts: Mapping[Key, int] = field(default_factory=dict)

    def per_zone(self) -> dict[str, dict[int, int]]:
        """Return the counts per class id of each zone that contains something; "" is the whole frame."""
        zones: dict[str, dict[int, int]] = {"": {}}
        for (zone, class_id), count in self.counts.items():
            zones.setdefault(zone, {})[class_id] = count
        return zones

    def record(self, names: Sequence[str], zones: Sequence[str] = ()) -> dict[str, Any]:
        """Return JSON-compatible values, with each of `zones` even if nothing is in it."""
        per_zone = self.per_zone()
        whole = _part(per_zone.pop(""), names)
        if zones or per_zone:
            whole["zones"] = {zone: _part(per_zone.get(zone, {}), names) for zone in {*zones, *per_zone}}
        return whole


def _part(counts: Mapping[int, int], names: Sequence[str]) -> dict[str, Any]:
    classes = {class_name(names, class_id): count for class_id, count in sorted(counts.items())}
    return {"total": sum(counts.values()), "classes": classes}


class Viewed:
    """InView per camera. `add` is called in the frame loop's thread, the rest in any."""

    def __init__(self) -> None:
        self._shown: dict[str, Mapping[Key, int]] = {}
        self._lately: dict[str, dict[Key, int]] = {}
        """The most since the last `settle`; no entry for a camera without a frame since."""
        self._lock = threading.Lock()

    def add(self, camera: str, detections: Detections) -> InView | None:
        """Take a frame's detections. Returns what the camera sees if it sees more of something than before."""
        classes = detections.class_id.tolist()
        counts: dict[Key, int]
        if detections.zones is None:
            counts = {("", class_id): count for class_id, count in Counter(classes).items()}
        else:
            counts = {}
            for (class_id, inside), count in Counter(zip(classes, detections.zones, strict=True)).items():
                # What is in no zone only crosses a line.
                for key in (("", class_id), *((zone, class_id) for zone in inside)) if inside else ():
                    counts[key] = counts.get(key, 0) + count
        with self._lock:
            shown, lately = self._shown.get(camera), self._lately.setdefault(camera, {})
            for key, count in counts.items():
                lately[key] = max(count, lately.get(key, 0))
            if shown is not None and all(count <= shown.get(key, 0) for key, count in lately.items()):
                return None
            merged = dict(shown or {})
            merged.update((key, count) for key, count in lately.items() if count > merged.get(key, 0))
            self._shown[camera] = merged
            return InView(merged)

    def settle(self, live: Sequence[str]) -> dict[str, InView]:
        """Forget what was not seen since the last call, which is due once per second. Returns what has changed. A
        camera that is not `live` sees nothing."""
        changed = {}
        with self._lock:
            for camera, shown in self._shown.items():
                lately = self._lately.pop(camera, shown) if camera in live else {}
                if lately != shown:
                    self._shown[camera] = lately
                    changed[camera] = InView(lately)
        return changed

    def keep(self, cameras: Sequence[str]) -> None:
        """Forget all other cameras."""
        with self._lock:
            for name in set(self._shown) - set(cameras):
                self._shown.pop(name, None)
                self._lately.pop(name, None)

    def now(self) -> dict[str, InView]:
        """Return what each camera sees."""
        with self._lock:
            return {camera: InView(shown) for camera, shown in self._shown.items()}

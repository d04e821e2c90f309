"""Export the hard frames that a service has stored: images, a manifest, and what the detector saw, to be labeled."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesparse.disk import check_folder
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder, sync_folder
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.labels.coco import SUGGESTIONS
from edgesparse.service.monitor.hard_files import HardFrame, read_frames

IMAGES, MANIFEST, SUGGESTED = "images", "manifest.jsonl", "suggestions.json"


@dataclass(frozen=True)
class HardReport:
    """What was exported. `reasons`: frames per reason. `skipped`: why other files could not be used."""

    folder: str
    frames: int
    detections: int
    reasons: dict[str, int]
    cameras: dict[str, int]
    skipped: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(folder: Path, out: Path, progress: Progress = quiet) -> HardReport:
    """Copy the frames in `folder` to the new folder `out`, each compared with the hash in its record: `images/`,
    `manifest.jsonl` with a record per line, and `suggestions.json`, the detections in COCO JSON for a labeling tool.
    `out` appears complete or not at all. Raises ConfigError if it exists, or there is no frame.
    """
    if out.exists():
        raise ConfigError(f"{out} already exists: name another folder")
    check_folder(out.parent)
    try:
        make_folder(out.parent)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".edgesparse-") as part:
            report = _write(folder, Path(part) / "new", out, progress)
            (Path(part) / "new").rename(out)
            sync_folder(out.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    return report


def _write(folder: Path, part: Path, out: Path, progress: Progress) -> HardReport:
    if not os.access(folder, os.R_OK | os.X_OK):
        what = "cannot read" if folder.exists() else "no folder"
        needed = "needed the folder of service.hard_frames; run this as the service's user or with sudo"
        raise ConfigError(f"{what} {folder}: {needed}")
    (part / IMAGES).mkdir(parents=True)
    count = sum(1 for _ in folder.glob("*.json"))
    frames, skipped = list[HardFrame](), list[str]()
    with (part / MANIFEST).open("w", encoding="utf-8") as manifest:
        for number, stored in enumerate(read_frames(folder), 1):
            progress("frames", number, count)
            if isinstance(stored, str):
                skipped.append(stored)
                continue
            frame, image = stored
            (part / IMAGES / frame.file).write_bytes(image)
            manifest.write(frame.model_dump_json() + "\n")
            frames.append(frame)
    if not frames:
        why = f": {skipped[0]}" if skipped else ""
        raise ConfigError(f"found no hard frame in {folder}{why}, needed one that service.hard_frames has stored")
    (part / SUGGESTED).write_text(json.dumps(_coco(frames), indent=1))
    reasons = Counter[str](reason for frame in frames for reason in frame.reasons)
    cameras = Counter[str](frame.camera for frame in frames)
    boxes = sum(len(frame.detections) for frame in frames)
    return HardReport(str(out), len(frames), boxes, dict(reasons), dict(cameras), tuple(skipped))


def _coco(frames: Sequence[HardFrame]) -> dict[str, Any]:
    """Return the detections as COCO JSON, marked so that nobody scores a detector on its own boxes."""
    names = list(
        dict.fromkeys(name for frame in frames for name in (*frame.classes, *(o.name for o in frame.detections)))
    )
    annotations: list[dict[str, Any]] = []
    for image_id, frame in enumerate(frames, 1):
        for seen in frame.detections:
            left, top, right, bottom = seen.box
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": names.index(seen.name) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": seen.confidence,
                }
            )
    return {
        "info": {"edgesparse": SUGGESTIONS, "description": "a detector's own boxes: correct them, they are no labels"},
        "images": [
            {"id": number, "file_name": frame.file, "width": frame.width, "height": frame.height}
            for number, frame in enumerate(frames, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": annotations,
    }

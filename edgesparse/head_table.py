"""The families of detectors by name. A new family is one class in one file, and one line here.

The table is separate from the classes, so that a recipe can be checked without importing them. Values are written like
entry points, `module:Class`; the class is a `Head` (edgesparse/runtime/heads/base.py).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

GROUP = "edgesparse.heads"
"""The group of entry points by which other packages offer heads."""

_log = logging.getLogger(__name__)

HEADS = {
    "yolov5": "edgesparse.runtime.heads.yolov5:YoloV5",
    "yolov8": "edgesparse.runtime.heads.yolov8:YoloV8",
    "yolox": "edgesparse.runtime.heads.yolox:Yolox",
    "yolox-decoded": "edgesparse.runtime.heads.yolox:YoloxDecoded",
    "yolov8-seg": "edgesparse.runtime.heads.yolov8_tasks:YoloV8Segment",
    "yolov8-pose": "edgesparse.runtime.heads.yolov8_tasks:YoloV8Pose",
    "yolov8-obb": "edgesparse.runtime.heads.yolov8_tasks:YoloV8Rotated",
    "end2end": "edgesparse.runtime.heads.end2end:EndToEnd",
    "end2end-seg": "edgesparse.runtime.heads.end2end_tasks:EndToEndSegment",
    "end2end-pose": "edgesparse.runtime.heads.end2end_tasks:EndToEndPose",
    "end2end-obb": "edgesparse.runtime.heads.end2end_tasks:EndToEndRotated",
    "classifier": "edgesparse.runtime.heads.classifier:Classifier",
    "yolo-nas": "edgesparse.runtime.heads.yolo_nas:YoloNas",
    "rtdetr": "edgesparse.runtime.heads.rtdetr:RtDetr",
    "rtdetr-end2end": "edgesparse.runtime.heads.rtdetr:RtDetrEndToEnd",
    "efficient-nms": "edgesparse.runtime.heads.efficient_nms:EfficientNms",
    "deepstream-yolo": "edgesparse.runtime.heads.deepstream_yolo:DeepStreamYolo",
    "pp-yoloe": "edgesparse.runtime.heads.pp_yoloe:PPYoloE",
    "nanodet": "edgesparse.runtime.heads.nanodet:NanoDet",
    "fastestdet": "edgesparse.runtime.heads.fastestdet:FastestDet",
    "ultraface": "edgesparse.runtime.heads.ultraface:UltraFace",
    "nanodet-plus": "edgesparse.runtime.heads.nanodet:NanoDetPlus",
    "picodet": "edgesparse.runtime.heads.picodet:PicoDet",
    "damo-yolo": "edgesparse.runtime.heads.damo_yolo:DamoYolo",
    "freeyolo": "edgesparse.runtime.heads.freeyolo:FreeYolo",
    "yolov4": "edgesparse.runtime.heads.yolov4:YoloV4",
    "yolov3-maps": "edgesparse.runtime.heads.yolo_maps:YoloV3Maps",
    "yolov4-maps": "edgesparse.runtime.heads.yolo_maps:YoloV4Maps",
    "yolov5-maps": "edgesparse.runtime.heads.yolo_maps:YoloV5Maps",
    "yolov7-maps": "edgesparse.runtime.heads.yolo_maps:YoloV7Maps",
    "rtdetr-relative": "edgesparse.runtime.heads.rtdetr:RtDetrRelative",
    "detr": "edgesparse.runtime.heads.detr:Detr",
    "rf-detr": "edgesparse.runtime.heads.rfdetr:RfDetr",
    "rtmdet": "edgesparse.runtime.heads.rtmdet:RtmDet",
    "tensorflow": "edgesparse.runtime.heads.tensorflow:TensorFlowDetection",
    "retinanet": "edgesparse.runtime.heads.retinanet:RetinaNet",
    "fcos": "edgesparse.runtime.heads.fcos:Fcos",
    "centernet": "edgesparse.runtime.heads.centernet:CenterNet",
    "centernet-scores": "edgesparse.runtime.heads.centernet:CenterNetScores",
    "yunet": "edgesparse.runtime.heads.yunet:YuNet",
    "retinaface": "edgesparse.runtime.heads.retinaface:RetinaFace",
    "yolov8-maps": "edgesparse.runtime.heads.maps:YoloV8Maps",
    "yolox-maps": "edgesparse.runtime.heads.maps:YoloxMaps",
    "nanodet-maps": "edgesparse.runtime.heads.maps:NanoDetMaps",
    "fastestdet-maps": "edgesparse.runtime.heads.maps:FastestDetMaps",
}

HEAD_ALIASES = {
    **dict.fromkeys(("yolov6", "yolov7"), "yolov5"),
    **dict.fromkeys(("yolov9", "yolov11", "yolo11", "yolov12", "yolo12", "yolo26"), "yolov8"),
    **dict.fromkeys(("d-fine", "deim", "rt-detr"), "rtdetr"),
    **dict.fromkeys(("ssd", "efficientdet"), "tensorflow"),
    **{
        f"{yolo}-{task}": f"yolov8-{task}" for yolo in ("yolo11", "yolo12", "yolo26") for task in ("seg", "pose", "obb")
    },
    **dict.fromkeys(("yolov8-cls", "yolo11-cls", "yolo26-cls"), "classifier"),
    "yolov10": "end2end",
    "mmdetection": "rtmdet",
    "darknet": "yolov4",
}
"""Detectors whose outputs have the layout of another family."""


class HeadFile(NamedTuple):
    """A class in a Python file, written `my_head.py:MyHead`."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def head_file(head: str) -> HeadFile | None:
    """The file and class that a recipe's `head:` names; None where it is the name of a family."""
    match = re.fullmatch(r"(.+\.py):([^\W\d]\w*)", head)
    return HeadFile(Path(match[1]), match[2]) if match else None


def absolute_head(head: str, base: Path = Path()) -> str:
    """The same with the file's absolute path, since a build's child processes work in folders of their own."""
    file = head_file(head)
    return head if file is None else str(file._replace(path=(base / file.path).absolute()))


@lru_cache(None)
def installed() -> dict[str, EntryPoint]:
    """Heads of other installed packages by name. One that has the name of a head here is left out, with a warning."""
    offered: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in HEADS or entry.name in HEAD_ALIASES or entry.name in offered:
            package = entry.dist.name if entry.dist is not None else entry.value
            _log.warning("the head '%s' of %s is left out: another one has that name", entry.name, package)
        else:
            offered[entry.name] = entry
    return offered

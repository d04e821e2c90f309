"""The families of detectors by name. A new family is one class in one file, and one line here.

The table is apart from the classes so that a recipe can be checked without importing any of them. Values are written as
entry points are, `module:Class`; the class is a `Head` (edgesparse/runtime/heads/base.py).
"""

from __future__ import annotations

HEADS = {
    "yolov5": "edgesparse.runtime.heads.yolov5:YoloV5",
    "yolov8": "edgesparse.runtime.heads.yolov8:YoloV8",
    "yolox": "edgesparse.runtime.heads.yolox:Yolox",
    "yolox-decoded": "edgesparse.runtime.heads.yolox:YoloxDecoded",
    "end2end": "edgesparse.runtime.heads.end2end:EndToEnd",
    "yolo-nas": "edgesparse.runtime.heads.yolo_nas:YoloNas",
    "rtdetr": "edgesparse.runtime.heads.rtdetr:RtDetr",
    "rtdetr-end2end": "edgesparse.runtime.heads.rtdetr:RtDetrEndToEnd",
    "efficient-nms": "edgesparse.runtime.heads.efficient_nms:EfficientNms",
    "deepstream-yolo": "edgesparse.runtime.heads.deepstream_yolo:DeepStreamYolo",
    "pp-yoloe": "edgesparse.runtime.heads.pp_yoloe:PPYoloE",
    "nanodet": "edgesparse.runtime.heads.nanodet:NanoDet",
    "fastestdet": "edgesparse.runtime.heads.fastestdet:FastestDet",
    "ultraface": "edgesparse.runtime.heads.ultraface:UltraFace",
}

HEAD_ALIASES = {
    **dict.fromkeys(("yolov6", "yolov7"), "yolov5"),
    **dict.fromkeys(("yolov9", "yolov11", "yolo11", "yolov12", "yolo12", "yolo26"), "yolov8"),
    "yolov10": "end2end",
}
"""Detectors whose outputs have the layout of another family."""

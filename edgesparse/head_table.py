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
    "yolov10": "end2end",
    "mmdetection": "rtmdet",
    "darknet": "yolov4",
}
"""Detectors whose outputs have the layout of another family."""

"""YOLOv8, YOLO11, YOLO12 and YOLO26 for tasks other than detection: their outputs have additional rows."""

from __future__ import annotations

from edgesparse.backends.frames import Decode
from edgesparse.errors import ModelError
from edgesparse.runtime.heads.base import POSSIBLE, Evidence, Layout, Sample
from edgesparse.runtime.heads.objects import WithAngles, WithKeypoints, WithMasks
from edgesparse.runtime.heads.yolov8 import YoloV8, are_scores


class YoloV8Segment(WithMasks, YoloV8):
    """Instance masks."""

    outputs = "[B, 4 + C + k, N]: center and size in pixels, scores, coefficients; and prototypes [B, k, H / 4, W / 4]"
    export = "yolo export model=best-seg.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/tasks/segment"


class _Details(YoloV8):
    """Values distinguish what shapes cannot: rows that are not scores are keypoints or angles."""

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        seen = super().evidence(layout, sample)
        if seen is None or (sample is not None and not are_scores(sample[0][:, 4 + self.classes(layout) :])):
            return seen
        return Evidence(POSSIBLE, f"{seen.text}, any rows behind the box")


class YoloV8Pose(WithKeypoints, _Details):
    """Poses."""

    outputs = "one output [B, 4 + C + K * (2 or 3), N]: center and size, scores, x, y and confidence per keypoint"
    export = "yolo export model=best-pose.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/tasks/pose"

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        """Raises ModelError if classes and keypoints cannot be told apart."""
        if layout.keypoints is None and self.classes(layout) != 1:
            raise ModelError(f"found {layout} without the shape of its keypoints: set 'keypoints:', such as [17, 3]")
        return super().decode(layout, conf, multi_label)


class YoloV8Rotated(WithAngles, _Details):
    """Rotated boxes."""

    outputs = "one output [B, 4 + C + 1, N]: center and size in pixels, class scores, angle in radians"
    export = "yolo export model=best-obb.pt format=onnx opset=17"
    source = "Ultralytics, https://docs.ultralytics.com/tasks/obb"

"""PicoDet, exported without its decoding."""

from __future__ import annotations

from edgesparse.runtime.heads.base import IMAGENET
from edgesparse.runtime.heads.nanodet import DistanceBins


class PicoDet(DistanceBins):
    """Distances as in NanoDet, on four strides. Exported with its decoding, it has PP-YOLOE's layout."""

    outputs = "eight outputs, scores [B, n, C] after the sigmoid and distance bins [B, n, 32] at strides 8 to 64"
    export = "python tools/export_model.py -c picodet.yml -o export.post_process=False, then paddle2onnx"
    source = (
        "Yu et al., PP-PicoDet, and https://github.com/PaddlePaddle/PaddleDetection, ppdet/modeling/heads/pico_head.py"
    )
    convention = IMAGENET.model_copy(update={"letterbox": "stretch"})
    strides = (8, 16, 32, 64)
    two_per_stride = True

"""A detector on the fake GPU, frames for it, and outputs of its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fake_gpu import Fake
from fake_tensorrt import plan, tensorrt
from numpy.typing import NDArray
from raw_maps import FAMILIES, raw_maps

from edgesparse.backends.frames import Pixels
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.preprocess import Preprocessor

SIZE = (64, 96)
CLASSES = ("a", "b", "c")
CODES = {"bgr": None, "rgb": cv2.COLOR_RGB2BGR, "nv12": cv2.COLOR_YUV2BGR_NV12, "yuyv": cv2.COLOR_YUV2BGR_YUYV}


def detector(
    fake: Fake, folder: Path, batch: int = 1, dtype: str = "FLOAT", head: str = "yolov8", **run: Any
) -> Detector:
    """`run` may have `spec`, and `layout`: the name of the network and the format of its image (image_format.py)."""
    count = cells(SIZE)
    shape = [batch, 4 + len(CLASSES), count] if head == "yolov8" else [batch, count, 5 + len(CLASSES)]
    tensors: dict[str, Any] = {"images": ["INPUT", [batch, 3, *SIZE], dtype], "output0": ["OUTPUT", shape, "FLOAT"]}
    if head == "yolo-nas":
        del tensors["output0"]
        tensors["boxes"] = ["OUTPUT", [batch, count, 4], "FLOAT"]
        tensors["scores"] = ["OUTPUT", [batch, count, len(CLASSES)], "FLOAT"]
    if head in FAMILIES:
        del tensors["output0"]
        maps = raw_maps(head, batch, len(CLASSES), SIZE, np.random.default_rng(0), 0.0)
        tensors |= {name: ["OUTPUT", list(values.shape), "FLOAT"] for name, values in maps.items()}
    if head == "end2end":
        tensors["output0"] = ["OUTPUT", [batch, 30, 6], "FLOAT"]
    for name, (mode, dims, _) in tensors.items():
        if mode == "OUTPUT" and name not in fake.answers:
            fake.answers[name] = np.zeros(dims, np.float32)
    path = folder / "model.plan"
    path.write_bytes(plan(tensors=tensors, **run.pop("layout", {})))
    spec = run.pop("spec", InputSpec(size=SIZE))
    runner = TensorRTRunner(tensorrt(fake), path)
    return Detector(runner, DetectorSpec(head=head, classes=CLASSES, input=spec), Run(**run))


def still(height: int, width: int, pixels: Pixels = "bgr", seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes: every value of luma and chroma, in range or not."""
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}.get(pixels, (height, width, 3))
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def expected(frame: NDArray[np.uint8], pixels: Pixels, spec: InputSpec, dtype: str = "float32") -> NDArray[Any]:
    """The same input computed with OpenCV."""
    code = CODES[pixels]
    out = np.zeros((1, 3, *SIZE), dtype)
    Preprocessor(spec, out)(frame if code is None else np.asarray(cv2.cvtColor(frame, code), np.uint8))
    return out[0]


def answers(head: str, batch: int, seed: int, share: float) -> dict[str, NDArray[np.float32]]:
    """Outputs in which about `share` of the candidates reach a score of 0.5."""
    rng, count, classes = np.random.default_rng(seed), cells(SIZE), len(CLASSES)
    if head in FAMILIES:
        return raw_maps(head, batch, classes, SIZE, rng, share)
    boxes = rng.uniform(0, 60, (batch, count, 4))
    if head == "yolox":
        boxes = rng.uniform(-1, 2, (batch, count, 4))
    scores = np.where(rng.random((batch, count, 1)) < share, rng.uniform(0.3, 1, (batch, count, classes)), 0.01)
    sure = rng.uniform(0.4, 1, (batch, count, 1))
    if head == "yolo-nas":
        boxes = np.sort(boxes.reshape(batch, count, 2, 2), 2).reshape(boxes.shape)  # corners
        return {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}
    if head == "yolov8":
        return {"output0": np.concatenate([boxes, scores], 2).transpose(0, 2, 1).astype(np.float32)}
    return {"output0": np.concatenate([boxes, sure, scores], 2).astype(np.float32)}

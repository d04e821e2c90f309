"""A detector on the fake GPU, frames for it, and outputs of its engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from exported import ONE_CLASS, ONE_IMAGE, RAW, raw_outputs
from fake_gpu import Fake
from fake_tensorrt import plan, tensorrt
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, FrameBoxes, Pixels
from edgesparse.backends.tensorrt.runner import TensorRTRunner
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.runtime.boxes import valid_boxes
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.grid import cells
from edgesparse.runtime.preprocess import Preprocessor

SIZE = (64, 96)
CLASSES = ("a", "b", "c")
TYPES = {"float32": "FLOAT", "float16": "HALF"}
CODES = {"bgr": None, "rgb": cv2.COLOR_RGB2BGR, "nv12": cv2.COLOR_YUV2BGR_NV12, "yuyv": cv2.COLOR_YUV2BGR_YUYV}


def detector(
    fake: Fake, folder: Path, batch: int = 1, dtype: str = "FLOAT", head: str = "yolov8", **run: Any
) -> Detector:
    """With the outputs in `fake.answers`, for heads that have several. `run` may have `spec`, `names` of classes, and
    `layout`: the name of the network and the format of its image (image_format.py).
    """
    count, spec = cells(SIZE), run.pop("spec", InputSpec(size=SIZE))
    names = run.pop("names", CLASSES[:1] if head in ONE_CLASS else CLASSES)
    shape = [batch, 4 + len(CLASSES), count] if head == "yolov8" else [batch, count, 5 + len(CLASSES)]
    tensors: dict[str, Any] = {
        "images": ["INPUT", [batch, 3, *spec.size], dtype],
        "output0": ["OUTPUT", shape, "FLOAT"],
    }
    if head in ("yolo-nas", *RAW):
        del tensors["output0"]
        types = {name: TYPES[values.dtype.name] for name, values in fake.answers.items()}
        tensors |= {name: ["OUTPUT", list(values.shape), types[name]] for name, values in fake.answers.items()}
    if head == "end2end":
        tensors["output0"] = ["OUTPUT", [batch, 30, 6], "FLOAT"]
    for name, (mode, dims, _) in tensors.items():
        if mode == "OUTPUT" and name not in fake.answers:
            fake.answers[name] = np.zeros(dims, np.float32)
    path = folder / "model.plan"
    path.write_bytes(plan(tensors=tensors, **run.pop("layout", {})))
    runner = TensorRTRunner(tensorrt(fake), path)
    return Detector(runner, DetectorSpec(head=head, classes=names, input=spec), Run(**run))


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
    if head in RAW:
        return raw_outputs(head, batch, classes, SIZE, rng, share)
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


def selecting(
    fake: Fake, folder: Path, head: str, multi_label: bool, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Detector, int, float]]:
    """Detectors whose kernel selects boxes without NMS, with their batch and the share of candidates that reach 0.5;
    the last one's boxes exceed its capacity.
    """
    patch.setattr("edgesparse.backends.cuda.slots.NMS_LIMIT", 0)
    for images, share, capacity in ((1, 0.2, 1024), (3, 0.0, 1024), (3, 0.3, 1024), (2, 0.9, 8)):
        patch.setattr("edgesparse.backends.cuda.slots.CAPACITY", capacity)
        batch = 1 if head in ONE_IMAGE else images
        fake.answers = answers(head, batch, seed=batch, share=share)
        with detector(fake, folder, batch=batch, head=head, conf=0.5, multi_label=multi_label) as detect:
            yield detect, batch, share


def both(detect: Detector, batch: int, fake: Fake) -> tuple[list[FrameBoxes], list[Candidates]]:
    """What the slot returns, and the boxes that NumPy decodes from the same outputs."""
    frames = [still(*SIZE, seed=i) for i in range(batch)]
    detect._rounds._ring.submit([(frame, detect._places.of(frame, None)[0][0]) for frame in frames])
    results, _ = detect._rounds._ring.collect()
    plan, outputs = detect._rounds._ring._slots[0]._plan, [fake.answers[spec.name] for spec in detect.runner.outputs]  # type: ignore[attr-defined]
    decoded: list[Any] = [plan.decoded(outputs, i)[:3] for i in range(batch)]
    keep = [valid_boxes(c[0], c[1], c[2], len(plan.thresholds)) for c in decoded]
    return results, [tuple(part[k] for part in c) for c, k in zip(decoded, keep, strict=True)]


def on_the_cpu(detect: Detector, frames: Sequence[NDArray[np.uint8]], fake: Fake) -> list[Detections]:
    """The detections of these frames that NumPy and OpenCV find in the same outputs."""
    plan, outputs = detect._rounds._ring._slots[0]._plan, [fake.answers[spec.name] for spec in detect.runner.outputs]  # type: ignore[attr-defined]
    letterbox = detect._places.of(frames[0], None)[0][1]
    return [detect._detections(plan.decoded(outputs, i), letterbox) for i in range(len(frames))]

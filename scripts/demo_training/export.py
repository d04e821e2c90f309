"""Exports the trained detector to ONNX in YOLOv8's layout, and scores it with ONNX Runtime."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch

from demo_training.data import Stills
from demo_training.net import STRIDES, Detector
from demo_training.score import Score, decode, evaluate
from demo_training.train import Say, truth_of

OPSET = 17
DIFFERENCE = 0.05  # largest difference of an output between PyTorch and ONNX Runtime, in pixels


def export(detector: Detector, path: Path, classes: Sequence[str], stills: Stills) -> None:
    """Write `detector` to `path` with folded batch norms, and check on `images` that both give the same results."""
    plain = copy.deepcopy(detector).cpu().float().eval().fuse()
    model = _to_onnx(plain)
    metadata = {
        "description": "Detector of edgesparse's demo scene",
        "license": "Apache-2.0",
        "task": "detect",
        "batch": "1",
        "stride": str(max(STRIDES)),
        "imgsz": str([plain.size, plain.size]),
        "names": str(dict(enumerate(classes))),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    _compare(plain, model, stills)
    part = path.with_name(path.name + ".part")
    part.write_bytes(model.SerializeToString())
    part.replace(path)


def score_onnx(path: Path, stills: Stills, classes: int, say: Say) -> Score:
    """Return the file's COCO mAP on images in its own format, on the CPU."""
    session = _session(path.read_bytes())
    results = []
    for i, image in enumerate(stills.images):
        results.append(decode(_run(session, image)))
        if i % 200 == 199:
            say(f"{path.name}: {i + 1} of {len(stills)} scenes scored")
    return evaluate(results, truth_of(stills), classes)


def _to_onnx(detector: Detector) -> onnx.ModelProto:
    image = torch.zeros(1, 3, detector.size, detector.size)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "detector.onnx"
        warnings.simplefilter("ignore")  # the only exporter without additional dependencies is called legacy
        torch.onnx.export(
            detector,
            (image,),
            path,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output0"],
            dynamo=False,
        )
        return onnx.load(path)


def _compare(detector: Detector, model: onnx.ModelProto, stills: Stills) -> None:
    session = _session(model.SerializeToString())
    for image in stills.images[:4]:
        with torch.no_grad():
            expected = detector(torch.from_numpy(image)[None].float().div(255))[0].numpy()
        apart = float(np.abs(_run(session, image) - expected).max())
        if apart > DIFFERENCE:
            raise SystemExit(f"the exported ONNX differs from the trained detector by {apart:.3f}")


def _session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
    output: np.ndarray = session.run(None, {"images": (image[None] / np.float32(255)).astype(np.float32)})[0][0]
    return output

"""The image in the layout that an engine prefers, against FP32 planes, for benchmarks/gpu_path.py."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_nets import relu_blocks, with_qdq
from benchmarks.gpu_parts import graph_alone, in_frame_buffers, interleaved, milliseconds, on_each
from benchmarks.gpu_setup import SHOTS, Net, confident, image, net, opened
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import ImageInput, Limits
from edgesparse.builder.child.timing import interleaved as timings
from edgesparse.int8.quantized_input import image_type, without_quantizer
from edgesparse.model import load as models

FORMS = ("planes", "own")


def layout(name: str, precision: str, work: Path) -> dict[str, Any]:
    """Build a network both ways, unless its engines are there, and time engines and whole paths, interleaved."""
    built = {form: _built(name, precision, form, work) for form in FORMS}
    with ExitStack() as stack:
        load = backend("tensorrt").load
        runners = {form: stack.enter_context(load(of.path)) for form, (of, _) in built.items()}
        engines = {form: round(timing.median_ms, 5) for form, timing in timings(runners, 4.0).items()}
    with ExitStack() as stack:
        conf = confident(built["planes"][0]).conf
        detectors = {form: stack.enter_context(opened(of, conf)) for form, (of, _) in built.items()}
        shots = [image(seed) for seed in range(SHOTS)]
        near = {form: in_frame_buffers(detector, shots) for form, detector in detectors.items()}
        actions = {form: partial(on_each, detector, cycle(near[form])) for form, detector in detectors.items()}
        timed = interleaved(actions, dict.fromkeys(FORMS, 60), 20.0, lambda form: None)
        return {
            "engine_ms": engines,
            "path_ms": {form: milliseconds(values) for form, values in timed.ns.items()},
            "graph_ms": {form: graph_alone(detector, near[form]) for form, detector in detectors.items()},
            "copies_among_layers": {form: _copies(of.path) for form, (of, _) in built.items()},
            "image": {form: image_layout for form, (_, image_layout) in built.items()},
            "boxes": {form: [len(detector(shot)) for shot in shots] for form, detector in detectors.items()},
            "worst_difference": _difference(*(detectors[form] for form in FORMS)),
        }


def _built(name: str, precision: str, form: str, work: Path) -> tuple[Net, str]:
    """The engine, and how it takes the image."""
    of, path = net(name, work), work / f"{name}-{precision}-{form}.engine"
    note = path.with_suffix(".txt")
    if not path.exists():
        onnx = relu_blocks(work / f"{name}-1.onnx", name, 1)
        onnx = with_qdq(onnx, work / f"{name}-qdq.onnx") if precision == "int8" else onnx
        kind = image_type(models.load(onnx)) if form == "own" else None
        if kind is not None and kind[0] == "int8":
            models.save(without_quantizer(models.load(onnx)), onnx := work / f"{name}-image.onnx")
        own = None if kind is None else ImageInput(*kind)
        options = BuildOptions(precision="int8" if precision == "int8" else "fp16", limits=Limits(level=1), image=own)
        result = backend("tensorrt").build(onnx, path, options)
        note.write_text(result.image or "float32 LINEAR")
    return Net(name, path, of.spec, of.conf), note.read_text()


def _copies(path: Path) -> str:
    layers = backend("tensorrt").layers(path)  # type: ignore[attr-defined]
    return f"{sum(layer.kernel == 'Reformat' for layer in layers)} of {len(layers)}"


def _difference(first: Any, second: Any) -> dict[str, float]:
    """The largest difference in pixels and confidence between boxes that both find at the same place of the list."""
    pixels, confidence = 0.0, 0.0
    for seed in range(SHOTS):
        a, b = first(image(seed)), second(image(seed))
        for box, score in zip(a.xyxy, a.confidence, strict=True):
            far = np.abs(b.xyxy - box).max(axis=1, initial=0.0)
            if len(far) and far.min() < 2:
                pixels = max(pixels, float(far.min()))
                confidence = max(confidence, float(abs(b.confidence[far.argmin()] - score)))
    return {"pixels": round(pixels, 4), "confidence": round(confidence, 5)}

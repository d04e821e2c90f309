"""The peers' side of int8_accuracy.py: quantize one model with one tool, in an environment that has it.

    python int8_peers.py modelopt|onnxruntime METHOD MODEL.onnx IMAGES.npy OUT.onnx [NODE ...]

IMAGES: float32 [N, 3, H, W]; each NODE stays float. Prints one JSON line: the tool's version, seconds, peak resident
megabytes. Does not import edgesparse, which need not be installed in that environment.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np

OPERATORS = ("Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool")
"""Operators that TensorRT runs faster in INT8. ONNX Runtime would also quantize Mul, which puts Q/DQ between
convolution and SiLU; then hardly anything is detected."""

OPSET = 13
"""The first opset whose Q/DQ have a scale per channel, to which ONNX Runtime's input is raised."""

STRIDE = 8
"""Images whose tensors ONNX Runtime holds at a time; the number of images must be a multiple of it."""


def by_modelopt(method: str, model: str, images: str, out: str, keep: list[str]) -> str:
    from modelopt.onnx.quantization import quantize

    quantize(
        model,
        quantize_mode="int8",
        calibration_data=_inputs(model, np.load(images)),
        calibration_method=method,
        calibration_eps=["cpu"],
        nodes_to_exclude=[f"{re.escape(name)}$" for name in keep],  # it takes patterns for the beginning of a name
        high_precision_dtype="fp32",
        output_path=out,
    )
    return metadata.version("nvidia-modelopt")


def by_onnxruntime(method: str, model: str, images: str, out: str, keep: list[str]) -> str:
    import onnx.version_converter
    import onnxruntime
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    options = {
        "QuantizeBias": False,
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": True,
        "DedicatedQDQPair": False,
        "OpTypesToExcludeOutputQuantization": list(OPERATORS),
        "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1},
        "ForceQuantizeNoInputCheck": True,
        "QDQDisableWeightAdjustForInt32Bias": True,
        # otherwise it holds every tensor of every image at once
        "CalibStridedMinMax": STRIDE,
    }
    source = onnx.load(model)
    if max(each.version for each in source.opset_import if not each.domain) < OPSET:
        source = onnx.version_converter.convert_version(source, OPSET)
    raised = out + ".raised"
    onnx.save(source, raised)
    quantize_static(
        raised,
        out,
        _reader(model, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(OPERATORS),
        nodes_to_exclude=keep,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
        extra_options=options,
    )
    return str(onnxruntime.__version__)


def _inputs(model: str, images: Any) -> dict[str, Any]:
    """Return what each input of the model takes for `images`; a second input takes the images' width and height."""
    import onnx

    graph = onnx.load(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    sizes = np.tile(np.array(images.shape[:1:-1], np.int64), (len(images), 1))
    entries = [value for value in graph.input if value.name not in stored]
    return {value.name: images if len(value.type.tensor_type.shape.dim) == 4 else sizes for value in entries}


def _reader(model: str, images: str) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    data = _inputs(model, np.load(images, mmap_mode="r"))
    count = len(next(iter(data.values())))

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self.set_range(0, count)

        def __len__(self) -> int:
            return count

        def set_range(self, start_index: int, end_index: int) -> None:
            self._range = iter(range(start_index, end_index))

        def get_next(self) -> dict[str, Any] | None:
            at = next(self._range, None)
            return None if at is None else {name: np.array(values[at][None]) for name, values in data.items()}

    return Reader()


def main() -> None:
    tool, method, model, images, out, *keep = sys.argv[1:]
    started = time.perf_counter()
    version = {"modelopt": by_modelopt, "onnxruntime": by_onnxruntime}[tool](method, model, images, out, keep)
    seconds = round(time.perf_counter() - started, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"version": version, "seconds": seconds, "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()

"""The rule that predicts which layers run 2:4 kernels, against the slice's engines."""

from __future__ import annotations

from benchmarks.orin_slice import measure, picked
from edgesparse.predict.fusion import fused_layers


def test_layers_are_compared_by_their_onnx_names() -> None:
    text = "chains:4 conv3x3-relu 512 at 20x20 batch 1"
    (case,) = measure.cases([text])
    first, second, *_ = (work.name for work in fused_layers(case.source) if work.sparse)
    engine = {"us": 1.0, "sparse_layers": [f"{first} + Relu_0", second]}
    (count,) = picked.compare({"case": text, "engines": {"int8 2:4": engine}}).values()
    assert count["right"] == 2 and count["expected"] == 2, "the chain has four such layers, and two ran 2:4"
    assert picked.compare({"case": "onnx:file.onnx:int8", "engines": {"int8 2:4": engine}}) == {}

"""Shape inference in its own process: what crashes it, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from onnx import numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model import infer
from edgesparse.model.load import fix_shapes, load


def test_it_infers_what_onnx_infers(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "m.onnx"))
    assert infer.infer_shapes(model) == onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def test_a_model_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    """A Pad that crops more than the size: onnx aborts with an assertion."""
    model = load(squares.detector(tmp_path / "m.onnx"))
    padding = next(tensor for tensor in model.graph.initializer if tensor.name == "padding")
    padding.CopyFrom(numpy_helper.from_array(np.full(6, -1, np.int64), "padding"))
    try:
        fix_shapes(model, 1, None)
    except ModelError as error:
        assert "\n" not in str(error)


def test_a_crash_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda *_, **__: os.abort())
    with pytest.raises(ModelError, match="onnx crashes on it: the file is damaged"):
        infer.infer_shapes(onnx.load(squares.detector(tmp_path / "m.onnx")))


def test_shapes_that_contradict_each_other_are_refused_in_onnxs_words(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "m.onnx"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 99
    with pytest.raises(ModelError, match="99"):
        infer.infer_shapes(model)

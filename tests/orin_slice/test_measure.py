"""The stand-in for an Orin: which engines it would build."""

from __future__ import annotations

import pytest

from benchmarks.orin_slice.cases import cases
from edgesparse.sparsity.inspect import inspect


def test_dense_engines_come_before_sparse_and_int8_before_fp16() -> None:
    (case,) = cases(["chains:64 at 80x80 batch 1"])
    variants = list(case.variants())
    assert [variant.name for variant in variants] == ["int8", "int8 2:4", "fp16", "fp16 2:4"]
    states = [{layer.state for layer in inspect(variant.model).layers} for variant in variants]
    assert [("sparse" in state, "dense" in state) for state in states] == [(False, True), (True, False)] * 2


def test_a_yolo_of_chosen_engines() -> None:
    (case,) = cases(["yolo:n:relu:int8+int8_24+int8-qdq-sparse_24:fast:nojit"])
    assert [variant.name for variant in case.variants()] == ["int8", "int8 2:4", "int8-qdq-sparse 2:4"]
    options = next(case.variants()).options
    assert options.heuristic and not options.jit
    assert sum(node.op_type == "Conv" for node in case.source.graph.node) == 64
    with pytest.raises(ValueError, match="no case"):
        list(cases(["resnet"]))

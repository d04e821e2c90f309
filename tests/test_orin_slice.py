"""The stand-in for an Orin: what it would build, and which tactics its selector leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.orin_slice import measure, networks
from benchmarks.orin_slice.engines import FAST_COPY, MOST_NEW, Tactics
from edgesparse.sparsity.inspect import inspect

ROOT = Path(__file__).parents[1]
HOPPER, AMPERE, SPARSE, NEW = 0xA, 0xB, 0xC, 0xD
LOG = f"""
[V] --------------- Timing Runner: conv0 + relu0 (CaskConvolution)
[V] conv0 + relu0 Set Tactic Name: sm90_xmma_fprop_implicit_gemm_f16 Tactic: {HOPPER:#x}
[V] Tactic: {HOPPER:#x} Time: 0.010
[V] conv0 + relu0 Set Tactic Name: sm80_xmma_fprop_implicit_gemm_f16 Tactic: {AMPERE:#x}
[V] Tactic: {AMPERE:#x} Time: 0.030
[V] conv0 + relu0 Set Tactic Name: sm80_xmma_fprop_sparse_conv_f16 Tactic: {SPARSE:#x}
[V] Tactic: {SPARSE:#x} Time: 0.011
"""


@pytest.fixture
def tactics() -> Tactics:
    known = Tactics(shortlist=False)
    known.learn(LOG)
    return known


def test_kernels_of_a_recorded_build_are_known_by_name() -> None:
    known = Tactics()
    known.learn((ROOT / "tests/backends/data/trt-8.5.3-fp16-2to4.log").read_text())
    assert len(known.names) == 5 and len(known.hopper) == 1


def test_the_selector_removes_hoppers_kernels_alone(tactics: Tactics) -> None:
    assert tactics.keep([HOPPER, AMPERE, SPARSE, NEW], tactics.hopper) == [1, 2, 3]
    assert tactics.keep([HOPPER], tactics.hopper) == [0], "a layer without any tactic would end the build"


def test_a_shortlist_leaves_out_what_lost(tactics: Tactics) -> None:
    tactics.shortlist = True
    assert tactics.keep([HOPPER, AMPERE, SPARSE, NEW], tactics.hopper) == [2, 3]
    assert tactics.keep([0, 0x3E8, FAST_COPY], set()) == [2]
    assert len(tactics.keep([AMPERE, *range(100, 140)], set())) == MOST_NEW


def test_dense_engines_come_before_sparse_and_int8_before_fp16() -> None:
    (case,) = measure.cases(["chains:64 at 80x80 batch 1"])
    variants = list(case.variants())
    assert [variant.name for variant in variants] == ["int8", "int8 2:4", "fp16", "fp16 2:4"]
    states = [{layer.state for layer in inspect(variant.model).layers} for variant in variants]
    assert [("sparse" in state, "dense" in state) for state in states] == [(False, True), (True, False)] * 2


def test_what_the_selector_learns_from_can_be_made() -> None:
    assert all(networks.pruned(chain.model()) for chain in measure.LEARNED_FROM if chain.channels >= measure.NARROW)


def test_a_yolo_of_chosen_engines() -> None:
    (case,) = measure.cases(["yolo:n:relu:int8+int8_24+int8-qdq-sparse_24:fast:nojit"])
    assert [variant.name for variant in case.variants()] == ["int8", "int8 2:4", "int8-qdq-sparse 2:4"]
    assert case.heuristic and not case.jit
    assert sum(node.op_type == "Conv" for node in case.source.graph.node) == 64
    with pytest.raises(ValueError, match="no case"):
        list(measure.cases(["resnet"]))

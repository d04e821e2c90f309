"""Parsing TensorRT's log, line by line, and the output of its engine inspector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.backends.tensorrt.inspect import onnx_names, parse
from edgesparse.backends.tensorrt.log import BuildLog, one_line, split_names
from edgesparse.backends.tensorrt.warnings import readable
from edgesparse.errors import BuildError


def taken(*lines: tuple[str, str]) -> BuildLog:
    log = BuildLog()
    for severity, text in lines:
        log.take(severity, text)
    return log


def test_both_wordings_about_sparsity_and_several_passes() -> None:
    log = taken(
        ("INFO", "(Sparsity) Layers eligible for sparse math:  /a/Conv + /r/Relu, PWN(PWN(/s), /m), /b/Conv"),
        ("INFO", "(Sparsity) TRT inference plan picked sparse implementation for layers:  /b/Conv"),
        ("INFO", "(Sparsity) Layers eligible for sparse math: /a/Conv + /r/Relu"),
        ("INFO", "(Sparsity) TRT inference plan picked sparse implementation for layers:"),
        ("VERBOSE", "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: /c/Conv, /d/Gemm"),
        ("VERBOSE", "(Sparsity) Chose 1 layer(s) using sparse tactics: /d/Gemm"),
        ("VERBOSE", "(Sparsity) Chose 0 layer(s) using sparse tactics:"),
    )
    assert list(log.eligible) == ["/a/Conv + /r/Relu", "PWN(PWN(/s), /m)", "/b/Conv", "/c/Conv", "/d/Gemm"]
    assert list(log.picked) == ["/b/Conv", "/d/Gemm"]


@pytest.mark.parametrize(
    "line",
    [
        "Skipping tactic 3 due to insufficient memory on requested size of 4434427904 detected for tactic 0x04.",
        "Tactic Device request: 4229MB Available: 2658MB. Device memory is insufficient to use tactic.",
        "[Autotuner]: Skipping tactic: ran out of memory: OutOfMemory",
    ],
)
def test_tactics_skipped_for_memory(line: str) -> None:
    assert len(taken(("WARNING", line), ("WARNING", line)).skipped) == 1


def test_a_workspace_that_we_limited_is_a_warning_not_a_degraded_build() -> None:
    log = taken(("WARNING", "Some tactics do not have sufficient workspace memory to run. Increasing workspace ..."))
    assert not log.skipped and len(log.warnings) == 1


def test_the_cause_is_named_not_what_follows_from_it() -> None:
    log = taken(
        ("ERROR", "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (no implementation for c)"),
        ("ERROR", "2: [builder.cpp::build::751] Error Code 2: Internal Error (Assertion engine != nullptr failed. )"),
    )
    assert log.reason() == "Error Code 10: Internal Error (no implementation for c)"
    assert taken(("WARNING", "CUDA initialization failure with error: 35.")).reason().startswith("CUDA init")
    assert taken().reason() == "it gave no reason"


def test_placement_and_the_whole_log_kept(tmp_path: Path) -> None:
    log = BuildLog(copy_to=tmp_path / "log")
    peak = "[MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 1 MiB, GPU 4 MiB"
    log.take("INFO", peak)
    log.take("INFO", "[DlaLayer] {ForeignNode[/a...../b]}")
    log.take("INFO", "[GpuLayer] CONVOLUTION: /c/Conv")
    log.close()
    assert log.placed == {"{ForeignNode[/a...../b]}": "dla", "/c/Conv": "gpu"}
    assert (tmp_path / "log").read_text().startswith(f"[I] {peak}\n[I] [DlaLayer]")


def test_many_warnings_are_not_kept_without_end() -> None:
    log = taken(*(("WARNING", f"number {i}") for i in range(10_000)))
    assert len(log.warnings) <= 1000 and len(readable(log.warnings)) == 50


NAMES = st.lists(st.text("abc/_.0123 +", min_size=1).map(str.strip).filter(bool), max_size=6)


@given(NAMES)
def test_names_are_split_as_they_were_joined(names: list[str]) -> None:
    wrapped = [f"PWN({name}, {name})" for name in names]
    assert split_names(", ".join(names)) == names
    assert split_names(", ".join(wrapped)) == wrapped


@given(st.text(max_size=600))
def test_any_text_becomes_one_short_line(text: str) -> None:
    assert "\n" not in one_line(text) and len(one_line(text)) <= 300
    taken(("INFO", text), ("INFO", f"(Sparsity) Chose {text}"))


def test_onnx_names_of_a_layer() -> None:
    assert onnx_names("/a/Conv + /r/Relu") == ("/a/Conv", "/r/Relu")
    assert onnx_names("PWN(PWN(/s/Sigmoid), /m/Mul)") == ("/s/Sigmoid", "/m/Mul")
    assert onnx_names("/a/Conv || /b/Conv") == ("/a/Conv", "/b/Conv")
    assert onnx_names("{ForeignNode[/a/Conv.../z/Concat]}") == ("/a/Conv", "/z/Concat")
    assert onnx_names("Reformatting CopyNode for Input Tensor 0 to /a/Conv") == ()
    assert onnx_names("x", "[ONNX Layer: /a/Conv]\x1e[ONNX Layer: /r/Relu]\x1e[ONNX Layer: /a/Conv]") == (
        "/a/Conv",
        "/r/Relu",
    )


def test_a_layer_is_sparse_only_when_its_kernel_is() -> None:
    dense = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x64"
    sparse = "sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x64x64_g1_sptensor16x8x32"
    rows = [
        {"Name": "a", "LayerType": "CaskConvolution", "TacticName": dense, "HasSparseWeights": 1},
        {"Name": "b", "LayerType": "CaskConvolution", "TacticName": sparse, "Weights": {"Type": "Half", "Count": 8}},
        {"Name": "c", "LayerType": "Myelin", "TacticName": None},
        {"Name": "d", "LayerType": "DLA", "Inputs": [{"Format/Datatype": "Thirty-two wide channel Int8 format"}]},
        "e + f",
    ]
    engine_layers = parse(json.dumps({"Layers": rows, "Bindings": []}), {"c": "dla"})
    assert [layer.sparse for layer in engine_layers] == [False, True, False, False, False]
    assert [layer.kernel for layer in engine_layers] == [dense, sparse, "Myelin", "DLA", ""]
    assert [layer.precision for layer in engine_layers] == ["", "fp16", "", "int8", ""]
    assert [layer.device for layer in engine_layers] == ["gpu", "gpu", "dla", "dla", "gpu"]
    assert engine_layers[-1].onnx == ("e", "f")


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"Bindings": []}'])
def test_what_is_no_inspection_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="did not return a list of layers"):
        parse(text)

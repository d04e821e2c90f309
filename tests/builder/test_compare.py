"""Comparison of candidates on a backend that follows the test's plan, each in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares
from null_plans import Plan
from onnx import helper, numpy_helper

from edgesparse.builder import attempts
from edgesparse.builder.build import build
from edgesparse.config import Recipe, parse
from edgesparse.errors import AccuracyGateFailed, BuildError, ConfigError, MemoryBudgetExceeded, SparsityNotAchieved
from edgesparse.package.manifest import Candidate, Manifest
from edgesparse.package.store import open_package

pytestmark = pytest.mark.usefixtures("quick")


def recipe(model: Path, candidates: list[str] | str = "auto", **settings: Any) -> Recipe:
    settings["build"] = {"backend": "null", "candidates": candidates, **settings.get("build", {})}
    return parse({"model": str(model), "classes": list(squares.NAMES), **settings}, "recipe")


def make(model: Path, candidates: list[str] | str = "auto", **settings: Any) -> Manifest:
    return build(recipe(model, candidates, **settings), model.parent / "engines").package.manifest


def by_name(manifest: Manifest) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in manifest.candidates}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "engines/squares").iterdir() if path.name != ".lock")


def test_the_fastest_is_chosen_and_the_most_precise_stays_as_fallback(sparse_model: Path, planned: Plan) -> None:
    planned({"fp32": {"seconds": 0.009}, "fp16": {"seconds": 0.003}, "fp16-2:4": {"seconds": 0.006}})
    manifest = make(sparse_model)
    candidates = by_name(manifest)
    assert list(candidates) == ["fp32", "fp16", "fp16-2:4"]
    assert {name: c.outcome for name, c in candidates.items()} == {"fp32": "lost", "fp16": "chosen", "fp16-2:4": "lost"}
    assert candidates["fp16"].reason.startswith("the fastest that passes")
    assert "times as long as fp16" in candidates["fp32"].reason
    assert (manifest.engine, manifest.fallback, manifest.fallback_precision) == ("model.json", "fallback.json", "fp32")
    assert all(c.latency_ms and c.file_mb and c.host_mb and c.command for c in candidates.values())
    assert any("INT8 needs images: set calibrate.images" in line for line in manifest.verdict)


def test_of_equally_fast_candidates_the_safer_is_chosen(sparse_model: Path, planned: Plan) -> None:
    planned({"fp16": {"seconds": 0.003}, "fp16-2:4": {"seconds": 0.003, "picked": ["conv1"]}}, seconds=0.003)
    candidates = by_name(make(sparse_model, ["fp16", "fp16-2:4"]))
    assert candidates["fp16"].outcome == "chosen"
    assert candidates["fp16-2:4"].reason == "as fast as fp16 within the spread, which is safer"


def test_the_verdict_has_sparse_layers_their_gain_and_reasons_for_dense_ones(sparse_model: Path, planned: Plan) -> None:
    eligible = ["conv1 + relu", "conv2"]
    planned({"fp16": {"seconds": 0.008}, "fp16-2:4": {"seconds": 0.004, "eligible": eligible, "picked": eligible[:1]}})
    manifest = make(sparse_model, ["fp16", "fp16-2:4"])
    (line,) = [line for line in manifest.verdict if line.startswith("fp16-2:4")]
    assert line.startswith("fp16-2:4: 1 of 2 eligible layers run sparse; ")
    assert line.endswith("x against fp16; conv2: the sparse kernel lost")
    layers = {layer.name: layer for layer in manifest.sparsity}
    assert layers["conv2"].why.startswith("the sparse kernel lost (64 input, 64 output channels: sparse kernels seldom")
    assert layers["conv1"].sparse and not layers["conv2"].sparse
    assert layers["conv0"].state == "ineligible" and "first layer" in layers["conv0"].why
    assert layers["conv3"].state == "dense" and "edgesparse prune" in layers["conv3"].why
    assert by_name(manifest)["fp16-2:4"].picked == ("conv1 + relu",)


def test_a_layer_counts_as_sparse_only_when_its_kernel_is(sparse_model: Path, planned: Plan) -> None:
    """The log names both as picked; the engine reports which one runs."""
    layers = ["conv1", "conv2"]
    planned({"fp16-2:4": {"eligible": layers, "picked": layers, "kernels": ["conv1"]}}, seconds=0.002)
    manifest = make(sparse_model, ["fp16", "fp16-2:4"])
    assert by_name(manifest)["fp16-2:4"].picked == ("conv1",)


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        ({"seconds": 0.002}, r"0 of 0? ?.*eligible layers run sparse"),
        ({"seconds": 0.02, "eligible": ["conv1"], "picked": ["conv1"]}, r"1 of 1 eligible layers run sparse; 0\.\d\dx"),
    ],
    ids=["none picked", "no gain"],
)
def test_require_sparse_refuses_an_engine_without_gain(
    sparse_model: Path, planned: Plan, sparse: dict[str, Any], message: str
) -> None:
    planned({"fp16": {"seconds": 0.006}, "fp16-2:4": sparse})
    with pytest.raises(SparsityNotAchieved, match=message):
        make(sparse_model, ["fp16", "fp16-2:4"], accept={"require_sparse": True})
    assert left(sparse_model.parent) == []


def test_require_sparse_accepts_an_engine_with_a_gain(sparse_model: Path, planned: Plan) -> None:
    planned({"fp16": {"seconds": 0.01}, "fp16-2:4": {"seconds": 0.003, "eligible": ["conv1"], "picked": ["conv1"]}})
    manifest = make(sparse_model, ["fp16", "fp16-2:4"], accept={"require_sparse": True})
    assert by_name(manifest)["fp16-2:4"].outcome == "chosen"


def test_a_model_without_2to4_layers_has_no_2to4_candidates(model: Path, planned: Plan) -> None:
    planned()
    manifest = make(model)
    assert list(by_name(manifest)) == ["fp32", "fp16"]
    assert any("no layer of the model is 2:4: run 'edgesparse prune'" in line for line in manifest.verdict)
    with pytest.raises(BuildError, match="none of the candidates can be built: fp16-2:4: no layer of the model is 2:4"):
        make(model, ["fp16-2:4"])


def test_int8_is_built_from_the_recipes_images(sparse_model: Path, labels: Path, planned: Plan) -> None:
    planned({"int8-tensorrt": {"seconds": 0.001}}, seconds=0.004)
    names = ["int8-table-2:4", "int8-tensorrt"]
    manifest = make(sparse_model, names, calibrate={"images": str(labels.parent), "count": 3})
    assert list(by_name(manifest)) == names and manifest.precision == "int8"
    assert any("INT8: 3 images" in line for line in manifest.verdict)
    assert {path.name for path in (sparse_model.parent / "engines/squares").glob("*/*")} == {
        "manifest.json",
        "report.html",
        "model.json",
    }


def test_engines_take_the_image_in_a_layout_of_their_own(sparse_model: Path, labels: Path, planned: Plan) -> None:
    """INT8 with the table's scale; FP16 where the Q/DQ file does not quantize the image."""
    planned(image_layout=True)
    names = ["fp32", "fp16", "int8-table", "int8-qdq", "int8-tensorrt"]
    images = {"images": str(labels.parent), "count": 3}
    manifest = make(sparse_model, names, calibrate=images, build={"image": "native"})
    taken = {name: candidate.image for name, candidate in by_name(manifest).items()}
    table = taken.pop("int8-table")
    assert table.startswith("int8 0.0") and table.endswith(" of even.onnx")
    fp16 = "float16 1.000000 of "
    assert taken == {"fp32": "", "fp16": f"{fp16}model.onnx", "int8-qdq": f"{fp16}fuse.onnx", "int8-tensorrt": ""}
    assert not any("take the image" in line for line in manifest.verdict)
    manifest = make(sparse_model, ["fp16"])
    assert {candidate.image for candidate in manifest.candidates} == {""}


def test_the_step_that_quantizes_the_image_is_left_out(model: Path, planned: Plan) -> None:
    changed = onnx.load(str(model))
    for node in changed.graph.node:
        node.input[:] = ["image_dq" if name == "images" else name for name in node.input]
    for name, value in (("scale", np.array(1 / 127, np.float32)), ("zero", np.array(0, np.int8))):
        changed.graph.initializer.append(numpy_helper.from_array(value, name))
    for i, (kind, read, written) in enumerate(
        [("Quantize", "images", "image_q"), ("Dequantize", "image_q", "image_dq")]
    ):
        changed.graph.node.insert(i, helper.make_node(f"{kind}Linear", [read, "scale", "zero"], [written], written))
    onnx.save(changed, str(model))
    planned(image_layout=True)
    manifest = make(model, ["int8-qdq"], build={"image": "native"})
    assert by_name(manifest)["int8-qdq"].image == "int8 0.007874 of prepared-image.onnx"


def test_without_such_a_layout_the_build_goes_on(model: Path, planned: Plan) -> None:
    planned({"fp16": {"image_error": "no such format"}}, image_layout=True)
    manifest = make(model, ["fp32", "fp16"], build={"image": "native"})
    assert by_name(manifest)["fp16"].image == "" and by_name(manifest)["fp16"].latency_ms
    (line,) = [line for line in manifest.verdict if "take the image" in line]
    assert line == "engines take the image as the model has it: otherwise fp16 fails: no such format"


# A candidate that fails does not end the build


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"error": "no tactic"}, "no tactic"),
        ({"crash": 11}, "crashed (SIGSEGV)"),
        ({"inputs": "none"}, "was built and cannot run: "),
        ({"fail_at": 3}, "was built and cannot run: inference 3 failed"),
    ],
    ids=["refused", "crash", "damaged plan", "fails while it is timed"],
)
def test_a_failure_is_recorded_and_the_others_continue(
    model: Path, planned: Plan, fault: dict[str, Any], reason: str
) -> None:
    planned({"fp16": fault})
    candidates = by_name(make(model))
    assert candidates["fp16"].outcome == "failed" and reason in candidates["fp16"].reason
    assert candidates["fp32"].outcome == "chosen"


def test_no_candidate_left_is_one_error_and_the_old_package_still_runs(model: Path, planned: Plan) -> None:
    planned()
    old = make(model)
    planned({"fp32": {"error": "no tactic"}, "fp16": {"crash": 6}})
    with pytest.raises(BuildError, match=r"no candidate could be built: fp32: no tactic; fp16: crashed \(SIGABRT\)"):
        make(model, input={"pad": 0})
    assert left(model.parent) == sorted([old.build_id, "current"])
    assert open_package(model.parent / "engines").manifest == old


def test_a_hanging_candidate_is_stopped_at_the_time_limit(sparse_model: Path, planned: Plan) -> None:
    planned({"fp16-2:4": {"hang": 600}})
    candidates = by_name(make(sparse_model, ["fp32", "fp16", "fp16-2:4"], build={"time_limit": 8}))
    assert candidates["fp16"].outcome == "chosen"
    assert candidates["fp16-2:4"].reason == "stopped at the time limit"
    last = candidates["fp32"]
    assert (last.outcome, last.reason) == ("skipped", "the time limit was reached before")


def test_what_can_no_longer_win_is_not_built(model: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a board whose latency can be predicted."""
    planned({"fp16": {"seconds": 0.003}})
    least = {"fp16": 0.001, "fp32": 5000.0}
    monkeypatch.setattr(attempts, "least_ms", lambda plan, prepared: least[plan.name])
    candidates = by_name(make(model))
    assert [*candidates] == ["fp32", "fp16"] and candidates["fp16"].outcome == "chosen"
    skipped = candidates["fp32"]
    assert skipped.outcome == "skipped" and skipped.seconds == {}
    assert skipped.reason.startswith("cannot win: at least 5000.00 ms are predicted on this board, fp16 runs in ")


# Memory


def test_a_killed_child_is_built_again_on_the_next_rung_where_the_others_begin(model: Path, planned: Plan) -> None:
    """16 MB of workspace are allowed at the third rung of 128 MB."""
    planned(megabytes=60, most_megabytes=40)
    candidates = by_name(make(model, ["fp32"], build={"memory": "600 MB"}))
    assert [c.rung for c in candidates.values()] == [3]
    assert all("needed 60000000 bytes" in c.degraded[0] for c in candidates.values())


def test_no_fitting_rung_is_one_error_with_the_memory_needed(model: Path, planned: Plan) -> None:
    planned()
    with pytest.raises(MemoryBudgetExceeded) as caught:
        make(model, build={"memory": "5 MB"})
    assert "no candidate fits into a budget of 5 MB (build.memory): fp" in str(caught.value)
    assert "MB of it the process and its libraries before anything is built: stop other programs" in str(caught.value)
    assert left(model.parent) == []


def test_a_degraded_engine_is_built_once_more_and_the_better_one_kept(model: Path, planned: Plan) -> None:
    planned(megabytes=200)
    candidates = by_name(make(model, ["fp32"], build={"memory": "300 MB"}))
    assert candidates["fp32"].rung == 0 and len(candidates["fp32"].degraded) == 1


def test_peaks_are_measured(model: Path, planned: Plan) -> None:
    planned({"fp16": {"megabytes": 150}})
    candidates = by_name(make(model))
    assert 100 < candidates["fp16"].host_mb - candidates["fp32"].host_mb < 200


# Acceptance


def test_an_inaccurate_candidate_is_refused_and_the_next_fastest_chosen(
    model: Path, labels: Path, planned: Plan
) -> None:
    good = squares.answer(labels)
    planned({"fp32": {"seconds": 0.01, "values": good}, "fp16": {"values": {"output0": 0}}})
    candidates = by_name(make(model, accept={"annotations": str(labels), "max_map_drop": 90}))
    assert candidates["fp16"].outcome == "refused" and "allowed accept.max_map_drop 90" in candidates["fp16"].reason
    assert candidates["fp32"].outcome == "chosen" and candidates["fp32"].score is not None
    planned(values={"output0": 0})
    with pytest.raises(AccuracyGateFailed, match=r"every candidate is refused: fp32: found 0.0 mAP, .*; fp16: "):
        make(model, accept={"annotations": str(labels), "max_map_drop": 10})


def test_without_labels_detections_are_compared_with_fp32s(model: Path, labels: Path, planned: Plan) -> None:
    good = squares.answer(labels)
    for path in labels.parent.glob("[1-9].png"):
        path.unlink()
    planned({"fp32": {"values": good}, "fp16": {"values": {"output0": 0}}})
    candidates = by_name(make(model, accept={"images": str(labels.parent)}))
    assert candidates["fp32"].agreement is not None and candidates["fp32"].agreement.recall == 1.0
    assert "finds 100 % of FP32's 6 boxes on 1 images, which is weaker than a score" in candidates["fp32"].reason
    assert candidates["fp16"].outcome == "refused"
    assert "found 0 % of FP32's 6 boxes, and 0 % of its own are FP32's too" in candidates["fp16"].reason


def test_a_candidate_that_scores_well_with_shifted_confidences_is_refused(
    model: Path, labels: Path, planned: Plan
) -> None:
    for path in labels.parent.glob("[1-9].png"):
        path.unlink()
    good = squares.answer(labels)
    halved = {
        name: np.concatenate([np.array(value)[:, :4], np.array(value)[:, 4:] / 2], 1).tolist()
        for name, value in good.items()
    }
    planned({"fp32": {"seconds": 0.01, "values": good}, "fp16": {"values": halved}})
    accept = {"images": str(labels.parent), "max_confidence_shift": 0.1}
    candidates = by_name(make(model, accept=accept))
    assert candidates["fp16"].outcome == "refused", candidates["fp16"]
    assert "allowed accept.max_confidence_shift 0.1" in candidates["fp16"].reason
    assert candidates["fp16"].shift is not None and candidates["fp16"].shift.median > 0.1
    assert candidates["fp32"].shift is not None and candidates["fp32"].shift.median < 0.1
    planned(values={"output0": 0})
    with pytest.raises(AccuracyGateFailed, match=r"none of FP32.s boxes, allowed accept\.max_confidence_shift 1"):
        make(model, accept={"images": str(labels.parent), "max_confidence_shift": 1, "min_agreement": 0})
    with pytest.raises(ConfigError, match=r"max_confidence_shift needs images to compare on: set accept\.images"):
        make(model, accept={"max_confidence_shift": 0.1})


def test_a_range_of_batches_and_a_dla_core_reach_build_and_load(model: Path, planned: Plan) -> None:
    planned(seconds=0.001)
    manifest = make(model, ["fp16"], build={"batch": {"min": 1, "opt": 1, "max": 4}, "dla": 1})
    assert (manifest.batch, manifest.dla) == ((1, 1, 4), 1)
    assert by_name(manifest)["fp16"].command == "null --onnx=model-open.onnx fp16"


def test_a_batch_that_cannot_be_open_fails_the_candidate(model: Path, planned: Plan) -> None:
    planned(seconds=0.001)
    network = onnx.load(str(model))
    network.graph.output[0].name = "all"
    network.graph.initializer.append(numpy_helper.from_array(np.ones((2, 6, squares.CELLS), np.float32), "two"))
    network.graph.node.append(helper.make_node("Mul", ["output0", "two"], ["all"]))
    onnx.save(network, str(model))
    with pytest.raises(BuildError, match=r"no candidate could be built: fp16: .*batch"):
        make(model, ["fp16"], build={"batch": {"min": 1, "opt": 2, "max": 4}})

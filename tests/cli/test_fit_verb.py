"""`edgesparse fit`: the ladder, what is written, resuming, the time limit, refusals."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import squares
from commands import Command
from onnx import helper

from edgesparse.backends import null
from edgesparse.compress import narrow
from edgesparse.tasks import fit_changes, fit_reference, fit_search, fit_stages, inputs
from edgesparse.tasks.fit_reference import PARTS

CHOOSE = ("--annotations", "choose", "--images", "choose")


@pytest.fixture
def recipe(tmp_path: Path, images: Path) -> Path:
    """A detector with a side path of wide layers that adds nothing, scored on `images`; labels to choose on."""
    shutil.copytree(images, tmp_path / "choose")
    rng = np.random.default_rng(0)
    nodes, weights, name = [], {}, "images"
    for i, channels in enumerate((3, 64, 64)):
        weights[f"w{i}"] = rng.standard_normal((64, channels, 1, 1)).astype(np.float32) / 8
        nodes += [helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], f"side{i}")]
        nodes += [helper.make_node("Relu", [f"c{i}"], [f"r{i}"])]
        name = f"r{i}"
    squares.detector(tmp_path / "side.onnx", more=(nodes, weights, name))
    path = tmp_path / "side.yaml"
    path.write_text("model: side.onnx\naccept:\n  annotations: images/instances_val.json\n")
    return path


def test_the_ladder_its_files_and_a_second_run_from_what_is_stored(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--json")
    assert ended.code == 0, ended.err
    rungs = {rung["name"]: rung for rung in ended.json["rungs"]}
    assert {"FP32", "FP16", "INT8", "smaller input", "slim", "channels", "2:4", "ReLU"} == set(rungs)
    kept = [rung for rung in rungs.values() if rung["outcome"] == "kept"]
    assert [rung["name"] for rung in kept] == ["FP32", "FP16", "channels", "INT8"]
    assert all(a["ms"] > b["ms"] for a, b in pairwise(kept))
    assert all(rung["evaluated"] is not None for rung in kept) and "fixed at 64x64" in rungs["smaller input"]["why"]
    assert ended.json["drop"] <= 1 and ended.json["speedup"] > 1.3 and "predicted" in ended.json["milliseconds"]
    chosen = [trial for trial in ended.json["trials"] if trial["outcome"] == "chosen"]
    assert [trial["ms"] for trial in chosen] == [kept[-1]["ms"]] and kept[0]["score"] - chosen[0]["score"] <= 1
    page = (tmp_path / "out/ladder.html").read_text()
    assert "not measured" in page and "<svg" in page and "http" not in page
    first = (tmp_path / "out/model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load(tmp_path / "out/model.onnx"), full_check=True)
    assert edgesparse("build", "out/fit.yaml", "--store", "store").code == 0

    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE)
    assert ended.code == 2 and "--force" in ended.message
    monkeypatch.setattr(fit_stages, "quantize_file", None)
    monkeypatch.setattr(fit_changes, "changes", None)
    monkeypatch.setattr(narrow, "rebuild", None)
    monkeypatch.setattr(narrow, "fewer", None)
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--force")
    assert ended.code == 0 and "channels + INT8: predicted" in ended.out, ended.err
    assert (tmp_path / "out/model.onnx").read_bytes() == first


def test_the_best_networks_are_built_and_timed_and_the_fastest_engine_decides(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: dict[str, Any] = {
        "inputs": [["images", [1, 3, 64, 64], "float32"]],
        "outputs": [["output0", [1, 6, 84], "float32"]],
    }
    plan["builds"] = {"fp32": {"seconds": 0.002}, "fp16": {"seconds": 0.001}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setenv(null.PLAN, str(tmp_path / "plan.json"))
    recipe.write_text("model: side.onnx\nbuild: {backend: 'null'}\n")
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--build", 2, "--json")
    assert ended.code == 0, ended.err
    timed = [trial for trial in ended.json["trials"] if trial["engine"]]
    assert len(timed) == 2 and {trial["engine"] for trial in timed} == {"fp16"}
    assert all(0.9 < trial["measured"] < 10 for trial in timed)
    (chosen,) = (trial for trial in timed if trial["outcome"] == "chosen")
    last = [rung for rung in ended.json["rungs"] if rung["outcome"] == "kept"][-1]
    assert last["measured"] == chosen["measured"] == min(trial["measured"] for trial in timed)
    assert "Engines on this machine" in (tmp_path / "out/ladder.html").read_text()

    (tmp_path / "plan.json").write_text(json.dumps({**plan, "error": "no kernel"}))
    shutil.rmtree(tmp_path / "out/engines")
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--build", 1, "--force")
    assert ended.code == 0 and "no kernel" in ended.out and "channels + INT8: predicted 1.5" in ended.out, ended.err


def test_an_interrupted_search_keeps_what_it_measured(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(narrow.Narrowing, "without", stopped)
        assert edgesparse("fit", recipe, "-o", "out", *CHOOSE).code == 130
    networks = json.loads((tmp_path / "out/costs.json").read_text())["networks"]
    (ms,) = (network["ms"] for network in networks.values() if network["precision"] == "int8")
    assert not (tmp_path / "out/fit.json").exists()
    # A target that INT8 alone reaches: nothing is measured or quantized again, and no channels are removed.
    monkeypatch.setattr(fit_changes, "changes", None)
    monkeypatch.setattr(fit_stages, "quantize_file", None)
    monkeypatch.setattr(narrow.Narrowing, "without", None)
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--target-ms", f"{ms + 0.001}", "--json")
    assert ended.code == 0, ended.err
    assert {rung["why"] for rung in ended.json["rungs"] if rung["name"] == "slim"} == {"the target is met"}


def test_the_time_limit_ends_the_search_and_what_was_found_is_written(
    edgesparse: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, quantize = [0.0], fit_stages.quantize_file

    def slow(*arguments: Any) -> Any:
        passed[0] += 61
        return quantize(*arguments)

    monkeypatch.setattr(fit_search, "monotonic", lambda: passed[0])
    monkeypatch.setattr(fit_stages, "quantize_file", slow)
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--minutes", "1", "--json")
    assert ended.code == 0, ended.err
    assert [rung["why"] for rung in ended.json["rungs"] if "time of --minutes" in rung["why"]] != []
    assert ended.json["rungs"][0]["evaluated"] is not None and ended.json["written"]


def test_a_student_is_another_network_to_start_from(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    squares.detector(tmp_path / "small.onnx")
    squares.detector(tmp_path / "off.onnx", shift=3.0)
    students = ("--student", tmp_path / "off.onnx", "--student", tmp_path / "small.onnx")
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, *students, "--json")
    assert ended.code == 0 and ended.json["chosen"].startswith("student small.onnx"), ended.err
    notes = {rung["name"]: rung["why"] for rung in ended.json["rungs"] if rung["outcome"] == "not tried"}
    assert "points in float: 1 are allowed" in notes["student off.onnx"] and "ReLU" not in notes
    assert onnx.load(tmp_path / "out/model.onnx").graph.node[0].op_type != "Conv"


def test_without_labels_the_boxes_of_the_float_network_take_their_place(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_search, "KINDS", ("INT8",))
    ended = edgesparse("fit", recipe, "-o", "out", "--images", "choose", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["measure"] == "agreement" and "errors count as correct" in ended.json["scores"]
    first = ended.json["rungs"][0]
    assert first["score"] == first["evaluated"] == 100 and ended.json["max_drop"] == 15
    choosing, evaluation = (set((tmp_path / f"out/reference/{part}/images").iterdir()) for part in PARTS)
    names = [{path.name for path in part} for part in (choosing, evaluation)]
    assert names[0] and names[1] and not names[0] & names[1]
    assert "max_map_drop" not in (tmp_path / "out/fit.yaml").read_text()
    assert "agreement, not accuracy" in (tmp_path / "out/ladder.html").read_text()

    with monkeypatch.context() as patch:
        patch.setattr(fit_reference, "opened", None)  # what was written is used again
        ended = edgesparse("fit", recipe, "-o", "out", "--images", "choose", "--force")
    assert ended.code == 0 and "agreement, not accuracy" in ended.out, ended.err

    before = json.loads((tmp_path / "out/costs.json").read_text())["networks"]
    (tmp_path / "fewer").mkdir()
    for number, cells in enumerate(([(1, 1, 0)], [(2, 2, 1)])):
        cv2.imwrite(str(tmp_path / f"fewer/{number}.png"), squares.image(cells))
    ended = edgesparse("fit", recipe, "-o", "out", "--images", "fewer", "--force")
    assert ended.code == 0, ended.err
    assert len(list((tmp_path / "out/reference").glob("*/images/*"))) == 2, "none of the other images is left"
    assert len(json.loads((tmp_path / "out/costs.json").read_text())["networks"]) == 2 * len(before) == 2


def test_images_that_were_replaced_in_their_folder_are_measured_again(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_search, "KINDS", ("INT8",))

    def stored() -> list[int]:
        assert edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--force").code == 0
        costs = json.loads((tmp_path / "out/costs.json").read_text())
        return [len(costs["networks"]), len(costs["scores"])]

    before = stored()
    assert stored() == before
    image = sorted((tmp_path / "choose").glob("*.png"))[0]
    cv2.imwrite(str(image), squares.image([(3, 3, 0)]))
    assert all(more > fewer for more, fewer in zip(stored(), before, strict=True))


def test_without_labels_images_without_objects_are_refused(edgesparse: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "blank").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"blank/{name}.png"), np.zeros((64, 64, 3), np.uint8))
    for _ in range(2):  # the folder can be used again
        ended = edgesparse("fit", recipe, "-o", "out", "--images", "blank")
        assert ended.code == 2 and "keeps no box (confidence 0.25 or more) on 1 images" in ended.message


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            ["--annotations", "images/instances_val.json", "--images", "choose"],
            2,
            "must not be chosen on the images",
        ),
        (["--annotations", "images", "--images", "choose"], 2, "must not be chosen on the images"),
        (["--annotations", "choose"], 2, "no images to calibrate on"),
        (["--images", "choose", "--annotated-images", "choose"], 2, "--annotated-images needs --annotations"),
        ([*CHOOSE, "--device", "orin-nan-8gb"], 2, "did you mean orin-nano-8gb"),
        ([*CHOOSE, "--student", "none.onnx"], 2, "none.onnx"),
        ([*CHOOSE, "--steps", "2"], 3, "--steps needs PyTorch"),
        ([*CHOOSE, "--minutes", "0.00001"], 1, "before the original was scored"),
    ],
)
def test_refusals_are_one_line(
    edgesparse: Command, recipe: Path, options: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "find_spec", lambda _: None)  # as where PyTorch is not installed
    ended = edgesparse("fit", recipe, "-o", "out", *options)
    assert (ended.code, words in ended.message) == (code, True), ended.err
    assert not (recipe.parent / "out/fit.json").exists()


def test_a_target_out_of_reach_is_not_met_and_a_foreign_folder_is_left_alone(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    assert "holds other files" in edgesparse("fit", recipe, "-o", "mine", *CHOOSE, "--force").message
    monkeypatch.setattr(fit_search, "KINDS", ())
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--target-ms", "0.0001")
    assert ended.code == 1 and "needed 0.0001" in ended.err and (tmp_path / "out/fit.yaml").exists()

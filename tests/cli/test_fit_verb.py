"""`edgesparse fit`: the ladder, what is written, resuming, the time limit, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
from edgesparse.progress import Progress
from edgesparse.tasks import fit, fit_reference, fit_steps
from edgesparse.tasks.fit_reference import PARTS
from edgesparse.tasks.fit_steps import Network, Settings

CHOOSE = ("--annotations", "choose", "--images", "choose")


@pytest.fixture
def recipe(tmp_path: Path, images: Path) -> Path:
    """A detector with a side path of wide layers that adds nothing, scored on `images`; labels to choose on."""
    shutil.copytree(images, tmp_path / "choose")
    rng = np.random.default_rng(0)
    nodes, weights, name = [], {}, "images"
    for i, inputs in enumerate((3, 64, 64)):
        weights[f"w{i}"] = rng.standard_normal((64, inputs, 1, 1)).astype(np.float32) / 8
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
    assert list(rungs) == ["FP32", "FP16", "INT8", "smaller input", "slim", "channels", "2:4", "ReLU"]
    kept = [rung for rung in rungs.values() if rung["outcome"] == "kept"]
    assert {"INT8", "channels"} <= {rung["name"] for rung in kept}
    assert all(a["ms"] > b["ms"] for a, b in pairwise(kept))
    assert all(rung["evaluated"] is not None for rung in kept) and "fixed at 64x64" in rungs["smaller input"]["why"]
    assert ended.json["drop"] <= 1 and ended.json["speedup"] > 1.3 and "predicted" in ended.json["milliseconds"]
    page = (tmp_path / "out/ladder.html").read_text()
    assert "not measured" in page and "<svg" in page and "http" not in page
    first = (tmp_path / "out/model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load(tmp_path / "out/model.onnx"), full_check=True)
    assert edgesparse("build", "out/fit.yaml", "--store", "store").code == 0

    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE)
    assert ended.code == 2 and "--force" in ended.message
    monkeypatch.setattr(fit_steps, "prune_file", None)
    monkeypatch.setattr(fit_steps, "quantize_file", None)
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--force")
    assert ended.code == 0 and "times as fast as FP32" in ended.out, ended.err
    assert (tmp_path / "out/model.onnx").read_bytes() == first


def test_the_best_networks_are_built_and_timed_and_the_fastest_engine_decides(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
        path = settings.folder / "faster.onnx"
        shutil.copy(network.model, path)
        return replace(network, model=path, recipe=network.recipe.model_copy(update={"model": path}))

    plan: dict[str, Any] = {
        "inputs": [["images", [1, 3, 64, 64], "float32"]],
        "outputs": [["output0", [1, 6, 84], "float32"]],
    }
    plan["builds"] = {"fp32": {"seconds": 0.002}, "fp16": {"seconds": 0.001}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setenv(null.PLAN, str(tmp_path / "plan.json"))
    recipe.write_text("model: side.onnx\nbuild: {backend: 'null'}\n")
    monkeypatch.setattr(fit_steps, "STEPS", {"faster": faster})
    monkeypatch.setattr(fit_steps, "milliseconds", lambda network, _: 1.0 if network.model.stem == "base" else 0.5)
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--build", 2, "--json")
    assert ended.code == 0, ended.err
    timed = {rung["name"]: rung for rung in ended.json["rungs"] if rung["engine"]}
    assert set(timed) == {"FP32", "faster"} and {rung["engine"] for rung in timed.values()} == {"fp16"}
    assert all(0.9 < rung["measured"] < 10 for rung in timed.values())
    assert ended.json["chosen"] == min(timed.values(), key=lambda rung: rung["measured"])["name"]
    assert "Engines on this machine" in (tmp_path / "out/ladder.html").read_text()

    (tmp_path / "plan.json").write_text(json.dumps({**plan, "error": "no kernel"}))
    shutil.rmtree(tmp_path / "out/engines")
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--build", 1, "--force")
    assert ended.code == 0 and "no kernel" in ended.out and "faster: predicted 2.00 times" in ended.out, ended.err


def test_an_interrupted_search_keeps_what_it_measured(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    few = {name: fit_steps.STEPS[name] for name in ("INT8", "channels")}
    monkeypatch.setattr(fit_steps, "STEPS", few)
    with monkeypatch.context() as patch:
        patch.setattr(fit_steps, "prune_file", stopped)
        assert edgesparse("fit", recipe, "-o", "out", *CHOOSE).code == 130
    costs = json.loads((tmp_path / "out/costs.json").read_text())["steps"]
    assert any(cost["precision"] == "int8" for cost in costs.values()) and not (tmp_path / "out/fit.json").exists()
    # A target that INT8 reaches: nothing is quantized again, and nothing is pruned.
    for name in ("prune_file", "quantize_file"):
        monkeypatch.setattr(fit_steps, name, None)
    most = max(cost["ms"] for cost in costs.values())
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--target-ms", f"{most + 0.001}", "--json")
    assert ended.code == 0, ended.err
    assert {rung["why"] for rung in ended.json["rungs"] if rung["name"] == "channels"} == {"the target is met"}


def test_the_time_limit_ends_a_step_and_what_was_kept_is_written(
    edgesparse: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]

    def slow(network: Network, settings: Settings, left: float, progress: Progress) -> Network:
        passed[0] += 61
        progress("slow", 0, 1)
        return network

    monkeypatch.setattr(fit, "monotonic", lambda: passed[0])
    monkeypatch.setattr(fit_steps, "STEPS", {"slow": slow, "later": slow})
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--minutes", "1", "--json")
    assert ended.code == 0, ended.err
    assert [r["why"] for r in ended.json["rungs"] if "time of --minutes" in r["why"]] != []
    assert ended.json["rungs"][0]["evaluated"] is not None and ended.json["written"]


def test_without_labels_the_boxes_of_the_float_network_take_their_place(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_steps, "STEPS", {"INT8": fit_steps.STEPS["INT8"]})
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

    before = json.loads((tmp_path / "out/costs.json").read_text())["steps"]
    (tmp_path / "fewer").mkdir()
    for number, cells in enumerate(([(1, 1, 0)], [(2, 2, 1)])):
        cv2.imwrite(str(tmp_path / f"fewer/{number}.png"), squares.image(cells))
    ended = edgesparse("fit", recipe, "-o", "out", "--images", "fewer", "--force")
    assert ended.code == 0, ended.err
    assert len(list((tmp_path / "out/reference").glob("*/images/*"))) == 2, "none of the other images is left"
    assert len(json.loads((tmp_path / "out/costs.json").read_text())["steps"]) == 2 * len(before) == 2


def test_images_that_were_replaced_in_their_folder_are_measured_again(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_steps, "STEPS", {"INT8": fit_steps.STEPS["INT8"]})

    def stored() -> list[int]:
        assert edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--force").code == 0
        costs = json.loads((tmp_path / "out/costs.json").read_text())
        return [len(costs["steps"]), len(costs["scores"])]

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
        (["--annotations", "choose"], 2, "no images to calibrate on"),
        (["--images", "choose", "--annotated-images", "choose"], 2, "--annotated-images needs --annotations"),
        ([*CHOOSE, "--device", "orin-nan-8gb"], 2, "did you mean orin-nano-8gb"),
        ([*CHOOSE, "--minutes", "0.00001"], 1, "before the original was scored"),
    ],
)
def test_refusals_are_one_line(edgesparse: Command, recipe: Path, options: list[str], code: int, words: str) -> None:
    ended = edgesparse("fit", recipe, "-o", "out", *options)
    assert (ended.code, words in ended.message) == (code, True), ended.err
    assert not (recipe.parent / "out/fit.json").exists()


def test_a_target_out_of_reach_is_not_met_and_a_foreign_folder_is_left_alone(
    edgesparse: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    assert "holds other files" in edgesparse("fit", recipe, "-o", "mine", *CHOOSE, "--force").message
    monkeypatch.setattr(fit_steps, "STEPS", {})
    ended = edgesparse("fit", recipe, "-o", "out", *CHOOSE, "--target-ms", "0.0001")
    assert ended.code == 1 and "needed 0.0001" in ended.err and (tmp_path / "out/fit.yaml").exists()

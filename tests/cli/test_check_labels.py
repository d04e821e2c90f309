"""`edgesparse check-labels`: every fault, the score of each mapping, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import squares
from commands import Command


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return squares.coco_annotations(tmp_path)


def change(path: Path, **parts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def test_sound_labels_and_a_detector_that_scores(edgesparse: Command, labels: Path, tmp_path: Path) -> None:
    squares.detector(tmp_path / "squares.onnx")
    ended = edgesparse("check-labels", labels.name)
    assert ended.code == 0 and "4 images, 24 boxes" in ended.out and "the labels can be used" in ended.out
    report = edgesparse("check-labels", labels.name, "squares.onnx", "--json")
    assert report.code == 0 and report.json["sound"] and report.json["faults"] == []
    scores = {guess["mapping"]: guess["map"] for guess in report.json["guesses"]}
    assert scores["by name"] == pytest.approx(100) and scores["categories in alphabetical order"] == pytest.approx(0)


def test_every_fault_is_listed_with_its_count_and_examples(edgesparse: Command, labels: Path, tmp_path: Path) -> None:
    content = json.loads(labels.read_text())
    content["images"][0].update(width=128, height=128)
    content["annotations"][8].update(category_id=7)
    content["annotations"][9].update(category_id=7)
    content["annotations"].append({"id": 99, "image_id": 50, "category_id": 0, "bbox": [0, 0, 9, 9]})
    labels.write_text(json.dumps(content))
    (tmp_path / "3.png").write_bytes(b"damaged")
    ended = edgesparse("check-labels", labels.name)
    assert ended.code == 1 and "the labels cannot be used in this state" in ended.out
    for line in (
        "fault: boxes of unknown categories: 2 (annotation 9: category 7, annotation 10: category 7)",
        "fault: images whose size differs from the labels': 1 (0.png is 64x64, instances_val.json says 128x128",
        "fault: images that cannot be read: 1 (cannot read the image 3.png",
        "note: boxes of unknown images: 1 (annotation 99: image 50); they are left out",
    ):
        assert line in ended.out


def test_with_other_names_the_best_mapping_is_on_top(edgesparse: Command, labels: Path, tmp_path: Path) -> None:
    squares.detector(tmp_path / "squares.onnx")
    change(labels, categories=[{"id": 0, "name": "rouge"}, {"id": 1, "name": "vert"}])
    report = edgesparse("check-labels", labels.name, "squares.onnx", "--json")
    assert report.code == 1 and not report.json["sound"]
    assert report.json["guesses"][0]["mapping"] == "in the order of the category ids"
    assert report.json["guesses"][0]["map"] == pytest.approx(100)
    assert "2 of 2 categories are no class of the detector: found 'rouge', 'vert'" in report.json["diagnosis"]


def test_a_detector_that_does_not_score_is_told_why(edgesparse: Command, labels: Path, tmp_path: Path) -> None:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "swapped.txt").write_text("green\nred\n")
    ended = edgesparse("check-labels", labels.name, "squares.onnx", "--names", "swapped.txt")
    assert ended.code == 1 and "the detector does not score: its boxes match the labels'" in ended.out


def test_what_is_no_labels_file_is_one_line(edgesparse: Command, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[]")
    ended = edgesparse("check-labels", "labels.json")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "found a list, as COCO results are" in ended.err


@pytest.mark.parametrize("verb", ["quantize", "prune"])
def test_quantize_and_prune_refuse_a_reference_that_does_not_score(
    edgesparse: Command, labels: Path, tmp_path: Path, verb: str
) -> None:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "recipe.yaml").write_text("model: squares.onnx\ninput: {mean: [0, 0, -2]}\n")
    method = ("--method", "reconstruct") if verb == "prune" else ()
    ended = edgesparse(
        verb, "recipe.yaml", "-o", "out.onnx", "--images", ".", "--annotations", labels.name, "--max-drop", "1", *method
    )
    assert ended.code == 1 and "the reference itself scores 0.0 mAP" in ended.err and "it finds nothing" in ended.err
    assert not (tmp_path / "out.onnx").exists()


def test_evaluate_notes_what_it_left_out_and_warns_of_a_detector_that_does_not_score(
    edgesparse: Command, labels: Path, tmp_path: Path
) -> None:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "hidden.yaml").write_text("model: squares.onnx\ninput: {mean: [0, 0, -2]}\n")
    content = json.loads(labels.read_text())
    content["annotations"].append({"id": 99, "image_id": 50, "category_id": 0, "bbox": [0, 0, 9, 9]})
    labels.write_text(json.dumps(content))
    ended = edgesparse("evaluate", "hidden.yaml", "--annotations", labels.name)
    assert "mAP 0.0" in ended.out
    assert "note: boxes of unknown images: 1 (annotation 99: image 50); they are left out" in ended.err
    assert "warning: the detector does not score on these labels: it finds nothing on 4 images" in ended.err

"""`edgesparse quantize`: files, page, the score after each step, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares
from commands import Command
from onnx import helper, numpy_helper

from edgesparse.int8 import calibration_table
from edgesparse.int8.calibration import Calibration

UNEVEN = np.array([1, 60, 0.02, 1, 5, 0.3], np.float32)
IMAGES = ("--images", "images/*.png")


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """The detector of squares after three layers that preserve the colors: scaled unevenly, scaled back, averaged."""
    model = onnx.load(squares.detector(tmp_path / "deep.onnx"))
    twice = np.concatenate([np.eye(3)] * 2).astype(np.float32)
    stored = {
        "w1": (twice * UNEVEN[:, None])[..., None, None],
        "w2": (1 / UNEVEN)[:, None, None, None],
        "w3": twice.T[..., None, None] / 2,
    }
    nodes = [
        helper.make_node("Conv", ["mean", "w1"], ["c1"], "uneven"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "even", group=6),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["colour"], "averaged"),
    ]
    model.graph.node[1].input[0] = "colour"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([kept[0], *nodes, *kept[1:]])
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), n) for n, value in stored.items())
    onnx.save(model, str(tmp_path / "deep.onnx"))
    return tmp_path / "deep.onnx"


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_every_file_and_the_score_after_each_step(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    ended = edgesparse(
        *("quantize", detector, "-o", "out.onnx", *IMAGES, "--annotations", images, "--max-drop", "1", "--json"),
        *("--calibration", "ranges.json", "--table", "deep.cache", "--html", "page.html"),
    )
    assert ended.code == 0, ended.err
    steps = [(step["what"], step["score"]) for step in ended.json["steps"]]
    assert [what for what, _ in steps] == ["float (FP32)", "ranges, even channels", "biases corrected"]
    assert steps[0][1] > 50 and ended.json["drop"] <= 1
    assert [layer["name"] for layer in ended.json["layers"] if layer["int8"]] == ["uneven", "even", "averaged"]
    assert [tensor["layers"] for tensor in ended.json["equalised"]] == [["even"]]
    assert ended.json["confidence"]["boxes"] > 0 and ended.json["confidence"]["median"] < 0.1
    assert operators(tmp_path / "out.onnx").count("QuantizeLinear") == 6
    owner = onnx.load(tmp_path / "deep.cache.onnx")
    assert "QuantizeLinear" not in operators(tmp_path / "deep.cache.onnx")
    scales = calibration_table.read((tmp_path / "deep.cache").read_bytes()).scales
    assert {"images", "mean", "c1", "r2"} <= set(scales)
    assert set(scales) <= {"images"} | {name for node in owner.graph.node for name in node.output}
    page = (tmp_path / "page.html").read_text()
    assert "biases corrected" in page and "Confidences" in page and "averaged" in page and "http" not in page
    assert sorted(ended.json["written"]) == ["deep.cache", "deep.cache.onnx", "out.onnx", "page.html", "ranges.json"]


def test_a_calibration_is_reused_only_where_it_fits(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    options = ("quantize", detector, *IMAGES, "--calibration", "ranges.json")
    assert edgesparse(*options, "-o", "one.onnx").code == 0
    before = (tmp_path / "ranges.json").read_bytes()
    again = edgesparse(*options, "-o", "two.onnx")
    assert again.code == 0 and "calibrating" not in again.err
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    other = edgesparse(*options, "-o", "three.onnx", "--count", "2")
    assert other.code == 0 and "ranges.json belongs to another model, images or settings" in other.err
    assert (tmp_path / "ranges.json").read_bytes() == before
    assert edgesparse(*options, "-o", "four.onnx", "--count", "2", "--force").code == 0
    assert Calibration.load(tmp_path / "ranges.json").images == 2


def test_ranges_from_a_tensorrt_table(edgesparse: Command, detector: Path, images: Path, tmp_path: Path) -> None:
    """Including another program's table, which has every quantized tensor of this model and a constant of its own."""
    lines = ["images: 3c010a14", "mean: 3c010a14", "r1: 3e000000", "c1: 3e000000", "r2: 3c010a14", "colour: 3c010a14"]
    text = "\n".join(["TRT-100300-EntropyCalibration2", "(Unnamed Layer* 3) [Constant]_output: 3c010a14", *lines])
    (tmp_path / "theirs.cache").write_text(text)
    options = ("quantize", detector, "-o", "out.onnx", *IMAGES, "--from-table", "theirs.cache", "--json")
    ended = edgesparse(*options)
    assert ended.code == 0, ended.err
    assert [step["what"] for step in ended.json["steps"]][1:] == ["ranges from the table", "biases corrected"]
    assert ended.json["ranges"]["r1"]["amax"] == 127 * 0.125 and not ended.json["equalised"]
    (tmp_path / "theirs.cache").write_text("\n".join([text.splitlines()[0], *lines[:2]]))
    ended = edgesparse(*options, "--force")
    assert ended.code == 2 and "no scale for the tensor r1" in ended.message


def test_integer_attributes_become_tensors(edgesparse: Command, detector: Path, images: Path, tmp_path: Path) -> None:
    """TensorRT 8.5 reads `value_ints` as empty."""
    squares.hold_integers(detector)
    assert squares.held(detector) == {"value_ints"}
    ended = edgesparse("quantize", detector, "-o", "out.onnx", *IMAGES, "--table", "deep.cache")
    assert ended.code == 0, ended.err
    assert squares.held(tmp_path / "out.onnx") == squares.held(tmp_path / "deep.cache.onnx") == {"value"}


def test_kept_layers_and_warnings_are_printed(edgesparse: Command, detector: Path, images: Path) -> None:
    ended = edgesparse("quantize", detector, "-o", "out.onnx", *IMAGES, "--keep", "even")
    assert ended.code == 0 and "kept in float, as requested" in ended.out and "warning: " in ended.err
    assert "step by step" in ended.out and "wrote out.onnx; next: edgesparse evaluate out.onnx" in ended.out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((*IMAGES, "--max-drop", "1"), 2, "--max-drop needs --annotations"),
        ((*IMAGES, "--min-map", "30"), 2, "--min-map needs --annotations"),
        ((*IMAGES, "--max-confidence-shift", "0"), 2, "--max-confidence-shift: found 0, needed more than 0"),
        ((*IMAGES, "--max-confidence-shift", "0.1", "--annotations", "images"), 2, "needs no labels: leave out"),
        ((), 2, "Missing option '--images'"),
        (("--images", "nowhere"), 2, "nowhere"),
        ((*IMAGES, "--keep", "evn"), 2, "did you mean 'even'?"),
        ((*IMAGES, "--html", "deep.onnx"), 2, "cannot write deep.onnx: it is an input"),
        ((*IMAGES, "--table", "deep.onnx/folder.cache"), 2, "deep.onnx is a file: name a folder"),
        ((*IMAGES, "--from-table", "none.cache"), 2, "cannot read none.cache"),
        ((*IMAGES, "--from-table", "deep.onnx"), 2, "deep.onnx: not a TensorRT calibration table"),
    ],
)
@pytest.mark.usefixtures("images")
def test_refusals(
    edgesparse: Command, detector: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    ended = edgesparse("quantize", detector, "-o", "out.onnx", *options)
    assert ended.code == code and message in ended.message
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_that_is_already_quantized(edgesparse: Command, detector: Path, images: Path, tmp_path: Path) -> None:
    assert edgesparse("quantize", detector, "-o", "out.onnx", *IMAGES).code == 0
    ended = edgesparse("quantize", "out.onnx", "-o", "again.onnx", *IMAGES)
    assert ended.code == 2 and "already has" in ended.message and not (tmp_path / "again.onnx").exists()


def test_a_recipes_input_is_used_and_no_package_is_built(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    """With two more units of blue the detector finds nothing, which shows in the reference score."""
    (tmp_path / "good.yaml").write_text("model: deep.onnx\n")
    (tmp_path / "bad.yaml").write_text("model: deep.onnx\ninput: {mean: [0, 0, -2]}\n")
    scores: dict[str, Any] = {}
    for name in ("good", "bad"):
        ended = edgesparse("quantize", f"{name}.yaml", "-o", f"{name}.onnx", *IMAGES, "--annotations", images, "--json")
        scores[name] = ended.json["steps"][0]["score"] if ended.code == 0 else None
    assert scores["good"] > 50 and (scores["bad"] is None or scores["bad"] < 1)
    assert not (tmp_path / "engines").exists()


def test_confidences_within_a_limit_without_labels(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer in INT8 shifts them by 0.1: weights and what the layer reads have a pair each."""
    options = ("quantize", detector, "-o", "out.onnx", *IMAGES, "--json", "--force", "--max-confidence-shift")
    assert edgesparse(*options, "0.01").code == 0
    assert operators(tmp_path / "out.onnx").count("QuantizeLinear") == 6, "these confidences do not shift"
    monkeypatch.setattr("edgesparse.tasks.quantize.shift_meter", lambda *arguments: lambda model: 0.1 * _int8(model))
    ended = edgesparse(*options, "0.15")
    assert ended.code == 0, ended.err
    assert sum(layer["int8"] for layer in ended.json["layers"]) == 1
    assert all(step["score"] is None for step in ended.json["steps"])
    ended = edgesparse(*options, "0.05")
    assert ended.code == 2 and "no layer can be INT8 and leave a shift of 0.050: allow more" in ended.message


def _int8(model: onnx.ModelProto) -> int:
    stored = {tensor.name for tensor in model.graph.initializer}
    return sum(node.op_type == "QuantizeLinear" and node.input[0] in stored for node in model.graph.node)

"""`edgesparse inspect` of a model, and `edgesparse prune` by magnitude."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from commands import Command
from onnx import TensorProto, helper, numpy_helper

from edgesparse.sparsity.inspect import inspect


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution that can be 2:4 and one, the first, that cannot."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((64, 3, 3, 3)), "b": rng.standard_normal((64, 64, 3, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], "first <1>", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["h", "b"], ["y"], "second", pads=[1, 1, 1, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, "h", "w"])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_inspect_prints_a_table_with_the_reasons(edgesparse: Command, model: Path) -> None:
    ended = edgesparse("inspect", model)
    note = "input x has an open shape: assumed 1x3x640x640; --shape x=1x3x640x640 sets another"
    assert ended.code == 0 and note in ended.err
    assert "first layer (3 input channels): stays dense (1 layer)" in ended.out
    assert "2 layers, 15807 M multiply-accumulates" in ended.out
    row = next(line.split() for line in ended.out.splitlines() if line.startswith("second"))
    assert row == ["second", "Conv", "64x64x3x3", "float32", "dense", "2", "15099.5", "95.5", "147.5", "0", "9216/9216"]


def test_json_of_inspect_has_layers_and_predictions(edgesparse: Command, model: Path) -> None:
    ended = edgesparse("inspect", model, "--shape", "x=1x3x32x32", "--device", "orin-nano-8gb", "--json")
    report = ended.json
    assert ended.code == 0 and report["macs"] == 32 * 32 * 64 * 9 * (3 + 64)
    assert [layer["state"] for layer in report["layers"]] == ["ineligible", "dense"]
    times = {name: entry["ms"] for name, entry in report["prediction"]["predicted"].items()}
    assert times["FP16 2:4"] < times["FP16"] and [gain["name"] for gain in report["prediction"]["gains"]] == ["second"]
    layers = report["prediction"]["predicted"]["FP16"]["layers"]
    assert [layer["name"] for layer in layers] == ["first <1>", "second"]
    assert sum(layer["ms"] for layer in layers) == pytest.approx(times["FP16"], abs=1e-4)
    assert {layer["bound"] for layer in layers} <= {"math", "memory", "launch"}


def test_inspect_takes_the_input_size_of_a_recipe(edgesparse: Command, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "m.yaml"
    recipe.write_text("model: m.onnx\ninput: {size: [32, 64]}\n")
    assert edgesparse("inspect", recipe, "--json").json["macs"] == 32 * 64 * 64 * 9 * (3 + 64)
    assert edgesparse("inspect", recipe, "--shape", "x=1x3x8x8", "--json").json["macs"] == 64 * 64 * 9 * (3 + 64)
    squares.detector(model)
    ended = edgesparse("inspect", recipe)
    assert ended.code == 2 and "the input is 64x64, input.size is 32x64: make them equal" in ended.message
    ended = edgesparse("inspect", model, "--shape", f"{onnx.load(model).graph.input[0].name}=1x3x32x32")
    assert ended.code == 2 and "is 1x3x64x64, not 1x3x32x32: leave out its shape" in ended.message


def test_inspect_predicts_that_sparsity_can_pay(edgesparse: Command, model: Path) -> None:
    ended = edgesparse("inspect", model, "--shape", "x=1x3x1080x1920", "--device", "orin-nano-4gb:10W")
    assert ended.code == 0
    assert "2:4 may pay off in FP16 2:4, INT8 2:4, INT8 2:4 with ReLU: only a build on the board shows" in ended.out
    for name in ("FP16", "FP16 2:4", "INT8", "INT8 2:4"):
        assert any(line.startswith(f"{name}  ") for line in ended.out.splitlines())


def test_inspect_predicts_that_sparsity_cannot_pay(edgesparse: Command, tmp_path: Path) -> None:
    small = squares.detector(tmp_path / "small.onnx")
    ended = edgesparse("inspect", small, "--device", "orin-nano-4gb:10W")
    assert "2:4 does not pay off here: most of the time goes to starting each layer" in ended.out


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.bars, self.links, self.text = 0, 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.bars += tag == "a" and "height" in (attributes.get("style") or "")
        self.links += any((attributes.get(name) or "").startswith("http") for name in ("src", "href"))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_inspect_is_self_contained(edgesparse: Command, model: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--html", page, "--shape", "x=1x3x32x32", "--device", "orin-nx-16gb:MAXN")
    assert edgesparse("inspect", model, *options).code == 0
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.bars == 2 and tags.links == 0
    assert "first <1>" in tags.text and "stays dense" in tags.text and "orin-nx-16gb in MAXN" in tags.text
    assert "2:4 does not pay off here" in tags.text or "2:4 may pay" in tags.text
    ended = edgesparse("inspect", model, *options)
    assert ended.code == 2 and "pass --force" in ended.err


def test_prune_writes_a_2to4_model_and_warns(edgesparse: Command, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ended = edgesparse("prune", model, "-o", out, "--json")
    assert ended.code == 0 and "usually destroys a trained detector" in ended.err
    assert ended.json["layers"][0]["name"] == "second"
    assert [layer.state for layer in inspect(onnx.load(out)).layers] == ["ineligible", "sparse"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]
    ended = edgesparse("prune", out, "-o", tmp_path / "again.onnx")
    assert ended.code == 0 and "already 2:4" in ended.out and "warning" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "none.onnx"], 2, "no model"),
        (["inspect", "{model}", "--device", "orin-nan-8gb"], 2, "did you mean orin-nano-8gb"),
        (["inspect", "{model}", "--shape", "x=0x3"], 2, "NAME=SIZES"),
        (
            ["inspect", "{model}", "--html", "/proc/none/page.html"],
            2,
            "cannot write to folder /proc/none: No such file",
        ),
        (["prune", "{model}", "-o", "{model}", "--force"], 2, "it is an input"),
        (["prune", "{model}", "-o", "out.onnx", "--method", "reconstruct"], 2, "--images"),
        (["prune", "{model}", "-o", "out.onnx", "--max-drop", "1"], 2, "--max-drop needs --method reconstruct"),
        (["prune", "{model}", "-o", "out.onnx", "--layers", "auto"], 2, "--layers auto needs --method reconstruct"),
        (["prune", "{model}", "-o", "out.onnx", "--layers", "secnd"], 2, "did you mean 'second'"),
        (["prune", "{model}", "-o", "out.onnx", "--layers", "first <1>"], 1, "first layer"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    edgesparse: Command, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(model.parent)
    ended = edgesparse(*(argument.format(model=model.name) for argument in arguments))
    assert ended.code == code and words in ended.message
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]

"""`edgesparse prune --method channels`: fewer channels within a drop, page, resuming, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from commands import Command
from onnx import ModelProto, helper

from edgesparse.compress import narrow
from edgesparse.sparsity.rebuild import State

CHANNELS = ("--method", "channels", "--images", "images/*.png")


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A detector with a side path of wide layers at full resolution that adds nothing."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], {}, "images"
    for i, inputs in enumerate((3, 64, 64)):
        weights[f"w{i}"] = rng.standard_normal((64, inputs, 1, 1)).astype(np.float32) / 8
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], f"side{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        name = f"r{i}"
    return squares.detector(tmp_path / "side.onnx", more=(nodes, weights, name))


def widths(path: Path) -> list[int]:
    """The output channels of the side layers."""
    model = onnx.load(path)
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [shapes[node.input[1]][0] for node in model.graph.node if node.name.startswith("side")]


def test_as_many_channels_as_one_point_allows_and_a_page(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    options = ("prune", detector, *CHANNELS, "--annotations", images, "--state", "state")
    ended = edgesparse(*options, "-o", "out.onnx", "--html", "page.html", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["drop"] == 0 and ended.json["speedup"] > 1 and ended.json["method"] == "channels"
    assert widths(tmp_path / "out.onnx") == [32, 32, 64]  # what the last one writes reaches the output
    layers = {layer["name"]: layer for layer in ended.json["layers"]}
    assert layers["side1"]["inputs"] == [64, 32] == layers["side1"]["outputs"] and layers["side1"]["saved_ms"] > 0
    assert 0 <= layers["side1"]["error"] < 1 and layers["side1"]["change"] is not None
    page = (tmp_path / "page.html").read_text()
    assert page.count("narrower") == 4 and "0.0 points lost" in page and "http" not in page
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    again = edgesparse(*options, "-o", "again.onnx")
    assert again.code == 0 and "side1" in again.out and "times as fast" in again.out
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.usefixtures("images")
def test_what_was_measured_before_an_interruption_is_not_measured_again(
    edgesparse: Command, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("prune", detector, *CHANNELS, "--share", "0.01", "-o", "out.onnx", "--state", "state")
    measured, put = [], State.put

    def stopped(state: State, name: str, arrays: dict[str, np.ndarray]) -> None:
        put(state, name, arrays)
        measured.append(name)
        if name == "block-0":
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "put", stopped)
    assert edgesparse(*options).code == 130
    assert measured == ["block-0"] and not (tmp_path / "out.onnx").exists()
    monkeypatch.setattr(State, "put", lambda state, name, arrays: (measured.append(name), put(state, name, arrays)))
    assert edgesparse(*options).code == 0
    assert measured[1] == "block-1" and measured.count("block-0") == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "needs labeled data to score on"),
        (["--layers", "side1"], 2, "--layers does not apply to --method channels"),
        (["--permute"], 2, "--permute only applies to --method magnitude"),
        (["--share", "0.9"], 1, "of the predicted time: needed 90%"),
        (["--share", "0.1", "--device", "orin-nan-8gb"], 2, "did you mean orin-nano-8gb"),
    ],
)
@pytest.mark.usefixtures("images")
def test_refusals_are_one_line(
    edgesparse: Command, detector: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    ended = edgesparse("prune", detector, "-o", "out.onnx", *CHANNELS, *options)
    assert (ended.code, words in ended.message) == (code, True), ended.err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.usefixtures("images")
def test_a_network_whose_channels_cannot_be_followed_is_refused_by_its_node(
    edgesparse: Command, tmp_path: Path
) -> None:
    ended = edgesparse(
        "prune", squares.detector(tmp_path / "plain.onnx"), "-o", "out.onnx", *CHANNELS, "--share", "0.1"
    )
    assert ended.code == 1 and "they reach Reshape" in ended.message and "cannot be followed" in ended.message


@pytest.mark.usefixtures("images")
def test_a_removal_that_changes_the_outputs_is_refused(
    edgesparse: Command, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = narrow.remove

    def damaged(coupled: object, model: ModelProto, dropped: object) -> ModelProto:
        copy = removed(coupled, model, dropped)  # type: ignore[arg-type]
        for tensor in copy.graph.initializer:
            if len(tensor.dims) == 4:
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) / 2).tobytes()
        return copy

    monkeypatch.setattr(narrow, "remove", damaged)
    ended = edgesparse("prune", detector, "-o", "out.onnx", *CHANNELS, "--share", "0.01")
    assert ended.code == 1 and "found more than rounding" in ended.message
    assert not (tmp_path / "out.onnx").exists()

"""`edgesparse prune --method reconstruct`: chosen layers, page, resuming after a kill, refusals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from commands import Command, Started
from onnx import numpy_helper

from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.prune import prune

LAYERS = 6
RECONSTRUCT = ("--method", "reconstruct", "--images", "images/*.png")


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return squares.chained(tmp_path / "side.onnx", LAYERS)


def states(path: Path) -> list[str]:
    return [layer.state for layer in inspect(onnx.load(path)).eligible]


def test_as_many_layers_as_one_point_allows_and_a_page(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    ended = edgesparse(
        *("prune", detector, "-o", "out.onnx", *RECONSTRUCT, "--layers", "auto", "--annotations", images),
        *("--html", "page.html", "--json"),
    )
    assert ended.code == 0, ended.err
    assert ended.json["share_of_eligible_macs"] == 1 and ended.json["drop"] == 0 and ended.json["dense_score"] > 50
    assert states(tmp_path / "out.onnx") == ["sparse"] * LAYERS
    page = (tmp_path / "page.html").read_text()
    assert "Confidences" in page and "mean in the original" in page
    assert ended.json["confidence"]["boxes"] > 0 and ended.json["confidence"]["median"] == 0
    assert page.count('<a style="--c:var(--sparse)') == 2 * LAYERS and "0.0 points lost" in page and "http" not in page


def test_a_share_by_predicted_gain_on_a_board_needs_no_labels(
    edgesparse: Command, detector: Path, images: Path, tmp_path: Path
) -> None:
    ended = edgesparse("prune", detector, "-o", "out.onnx", *RECONSTRUCT, "--share", "0.3", "--device", "orin-nano-8gb")
    assert ended.code == 0 and "33 % of the eligible multiply-accumulates are 2:4" in ended.out
    assert "confidences shift by 0.000 (median)" in ended.out
    assert states(tmp_path / "out.onnx").count("sparse") == 2


def test_resumed_after_a_kill_it_writes_the_same_file(
    edgesparse: Command, started: Started, detector: Path, images: Path, tmp_path: Path
) -> None:
    options = ("prune", detector, *RECONSTRUCT, "--state", "state", "-o")
    slowly = (
        "import time; from edgesparse.sparsity import rebuild; fit = rebuild.fit_layer\n"
        "rebuild.fit_layer = lambda *a, **k: (time.sleep(1), fit(*a, **k))[1]"
    )
    process = started(*options, "killed.onnx", before=slowly)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "state").rglob("layer-*.npz"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("layer-*.npz")}
    assert 2 <= len(saved) < LAYERS and not (tmp_path / "killed.onnx").exists()
    assert edgesparse(*options, "resumed.onnx").code == 0
    assert all(path.stat().st_mtime_ns == when for path, when in saved.items())
    assert not list((tmp_path / "state").rglob("tape-*"))
    assert edgesparse("prune", detector, *RECONSTRUCT, "-o", "whole.onnx").code == 0
    assert (tmp_path / "resumed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--layers", "auto"], 2, "needs labeled data to score on"),
        (["--max-drop", "1"], 2, "needs labeled data to score on"),
        (["--device", "orin-nano-8gb"], 2, "needs labeled data to score on"),
        (["--layers", "side1", "--share", "0.5"], 2, "--layers side1 names what to prune"),
        (["--device", "orin-nan-8gb", "--share", "0.5"], 2, "did you mean orin-nano-8gb"),
        (["--html", "side.onnx/page.html"], 2, "side.onnx is a file: name a folder"),
        (["--state", "/proc/state"], 2, "cannot write to folder /proc/state: No such file or directory; name another"),
        (["--layers", "sde1"], 2, "did you mean 'side1'"),
    ],
)
@pytest.mark.usefixtures("images")
def test_refusals_are_one_line(
    edgesparse: Command, detector: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    ended = edgesparse("prune", detector, "-o", "out.onnx", *RECONSTRUCT, *options)
    assert (ended.code, words in ended.message) == (code, True), ended.err
    assert not (tmp_path / "out.onnx").exists()


def test_an_empty_image_is_refused_by_name(edgesparse: Command, detector: Path, images: Path, tmp_path: Path) -> None:
    (images / "2.png").write_bytes(b"")
    ended = edgesparse("prune", detector, "-o", "out.onnx", *RECONSTRUCT)
    assert ended.code == 2 and "cannot read the image images/2.png: the file is empty" in ended.message
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        ("sparse", 1, f"all {LAYERS} layers to prune are already 2:4: nothing to do"),
        ("NaN", 2, "side2: weights hold NaN or infinity: export the model again"),
    ],
)
def test_weights_that_cannot_be_refitted_end_in_one_line(
    edgesparse: Command, detector: Path, tmp_path: Path, spoil: str, code: int, words: str
) -> None:
    model = onnx.load(detector)
    if spoil == "sparse":
        prune(model)
    else:
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
        value = numpy_helper.to_array(stored).copy()
        value[3, 4] = np.nan
        stored.CopyFrom(numpy_helper.from_array(value, "w2"))
    onnx.save(model, detector)
    ended = edgesparse("prune", detector, "-o", "out.onnx", *RECONSTRUCT)
    assert (ended.code, words in ended.message) == (code, True), ended.err
    assert not (tmp_path / "out.onnx").exists()


def test_layers_that_share_weights_are_named_and_stay_dense(edgesparse: Command, detector: Path, images: Path) -> None:
    model = onnx.load(detector)
    next(node for node in model.graph.node if node.name == "side3").input[1] = "w2"
    onnx.save(model, detector)
    ended = edgesparse("prune", detector, "-o", "out.onnx", *RECONSTRUCT, "--json")
    layers = {layer["name"]: layer for layer in ended.json["layers"]}
    assert ended.code == 0 and layers["side2"]["state"] == "dense"
    assert layers["side2"]["why"].startswith("shares its weights with side3")

"""`edgesparse distill` and `prune --steps`: refusals before any work, and the whole training of a toy model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from commands import Command

from benchmarks.orin_slice import networks
from edgesparse.compress import start
from edgesparse.sparsity.inspect import inspect
from edgesparse.tasks import distill, inputs

IMAGES = ("--images", "images")
RECONSTRUCT = ("--method", "reconstruct", *IMAGES)


@pytest.fixture
def yolo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.0625, 128))
    onnx.save(networks.yolov8("tiny", "silu", 64, 3), str(tmp_path / "yolo.onnx"))
    (tmp_path / "images").mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), noise)
    return tmp_path / "yolo.onnx"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--images", "images"), "nothing to learn: pass --relu"),
        (("--images", "nowhere", "--relu"), "nowhere"),
        (("--images", "images", "--relu", "--annotated-images", "images"), "needs --annotations"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    edgesparse: Command, yolo: Path, arguments: tuple[str, ...], reason: str
) -> None:
    ended = edgesparse("distill", yolo, "-o", "out.onnx", *arguments)
    assert ended.code == 2 and reason in ended.message and not yolo.with_name("out.onnx").exists()


def test_without_pytorch_the_machine_lacks_something(
    edgesparse: Command, yolo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "find_spec", lambda name: None)
    ended = edgesparse("distill", yolo, "-o", "out.onnx", "--images", "images", "--relu")
    assert ended.code == 3 and "pip install 'edgesparse[train]'" in ended.message
    ended = edgesparse("prune", yolo, "-o", "out.onnx", *RECONSTRUCT, "--steps", "2")
    assert ended.code == 3 and ended.message.startswith("--steps needs PyTorch") and not Path("out.onnx").exists()
    ended = edgesparse("quantize", yolo, "-o", "out.onnx", *IMAGES, "--steps", "2")
    assert ended.code == 3 and ended.message.startswith("--steps needs PyTorch") and not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--steps", "3"), "--steps needs --method reconstruct, found magnitude"),
        ((*RECONSTRUCT, "--steps", "-1"), "-1 is not in the range x>=0"),
    ],
)
def test_steps_that_cannot_be_are_refused(
    edgesparse: Command, yolo: Path, arguments: tuple[str, ...], reason: str
) -> None:
    ended = edgesparse("prune", yolo, "-o", "out.onnx", *arguments)
    assert ended.code == 2 and reason in ended.message


@pytest.mark.torch
def test_a_pruned_model_is_trained_and_a_second_call_finds_the_result(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    ended = edgesparse("prune", yolo, "-o", "out.onnx", *RECONSTRUCT, "--steps", "4", "--state", "work", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["training"]["images"] == 4 and ended.json["training"]["held_out"] == 1
    assert all(layer.sparse for layer in inspect(onnx.load("out.onnx")).eligible)
    again = edgesparse("prune", yolo, "-o", "again.onnx", *RECONSTRUCT, "--steps", "4", "--state", "work")
    assert again.code == 0 and "on images held out (1 of 4)" in again.out
    assert Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()


@pytest.mark.torch
def test_a_student_with_relu_starts_refitted_and_a_second_call_finds_the_result(
    edgesparse: Command, yolo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    arguments = ("--images", "images", "--relu", "--minutes", "1e-6", "--json")
    ended = edgesparse("distill", yolo, "-o", "out.onnx", *arguments, "--state", "work")
    assert ended.code == 0, ended.err
    layers = len(list(Path("work/refitted").rglob("layer-*.npz")))
    assert layers == sum(node.op_type == "Conv" for node in onnx.load(yolo).graph.node)
    again = edgesparse("distill", yolo, "-o", "again.onnx", *arguments, "--state", "work")
    assert again.code == 0 and Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()
    monkeypatch.setattr(start, "_refitted", lambda original, changed, *_: changed)
    plain = edgesparse("distill", yolo, "-o", "plain.onnx", *arguments)
    starts = [each.json["history"][0]["held_out"] for each in (ended, plain)]
    assert starts[0] < 0.8 * starts[1]


@pytest.mark.torch
def test_relu_in_a_part_of_the_work_leaves_the_rest_smooth(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    arguments = ("--images", "images", "--relu", "0.5", "--minutes", "1e-6", "--state", "work")
    ended = edgesparse("distill", yolo, "-o", "out.onnx", *arguments)
    assert ended.code == 0, ended.err
    before, after = ([node.op_type for node in onnx.load(path).graph.node] for path in (yolo, "out.onnx"))
    assert before.count("Sigmoid") - after.count("Sigmoid") == after.count("Relu") > 0
    assert after.count("Sigmoid") > before.count("Relu") == 0
    refused = edgesparse("distill", yolo, "-o", "no.onnx", "--images", "images", "--relu", "0.2", "--sparse", "0.5")
    assert refused.code == 2 and "needed --relu 0.5 or more" in refused.err and not Path("no.onnx").exists()
    refused = edgesparse("distill", yolo, "-o", "no.onnx", "--images", "images", "--sparse", "0.5", "--int8")
    assert refused.code == 2 and "or add --relu, since none has SiLU behind it" in refused.err


@pytest.mark.torch
def test_relu_2to4_and_int8_start_as_three_verbs_would_and_a_second_call_finds_the_result(
    edgesparse: Command, yolo: Path
) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    arguments = ("--images", "images", "--relu", "0.6", "--sparse", "0.5", "--int8", "--minutes", "1e-6", "--json")
    ended = edgesparse("distill", yolo, "-o", "out.onnx", *arguments, "--state", "work")
    assert ended.code == 0, ended.err
    student = onnx.load("out.onnx")
    eligible = inspect(student).eligible
    share = sum(layer.macs or 0 for layer in eligible if layer.sparse) / sum(layer.macs or 0 for layer in eligible)
    assert share >= 0.5 and {"Relu", "Sigmoid", "QuantizeLinear"} <= {node.op_type for node in student.graph.node}
    again = edgesparse("distill", yolo, "-o", "again.onnx", *arguments, "--state", "work")
    assert again.code == 0 and Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()


@pytest.mark.torch
def test_an_int8_model_is_trained_and_a_second_call_finds_the_result(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    ended = edgesparse("quantize", yolo, "-o", "out.onnx", *IMAGES, "--steps", "4", "--state", "work", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["training"]["images"] == 4 and ended.json["training"]["held_out"] == 1
    written = Path("work/training.pt").stat().st_mtime_ns
    again = edgesparse(
        "quantize", yolo, "-o", "again.onnx", *IMAGES, "--steps", "4", "--state", "work", "--html", "p.html"
    )
    assert again.code == 0 and "on images held out (1 of 4)" in again.out
    assert "on images held out (1 of 4)" in Path("p.html").read_text()
    assert Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()
    assert Path("work/training.pt").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--steps", "-1"), "-1 is not in the range x>=0"),
        (("--state", "work"), "--state keeps the progress of --steps: pass --steps, or leave it out"),
    ],
)
def test_steps_of_quantize_that_cannot_be_are_refused(
    edgesparse: Command, yolo: Path, arguments: tuple[str, ...], reason: str
) -> None:
    ended = edgesparse("quantize", yolo, "-o", "out.onnx", *IMAGES, *arguments)
    assert ended.code == 2 and reason in ended.message and not Path("out.onnx").exists()


@pytest.mark.torch
def test_a_model_that_cannot_be_trained_is_refused_before_any_layer_is_fitted(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch")
    model = onnx.load(yolo)
    relu = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    relu.op_type, relu.name = "Erf", "odd"
    onnx.save(model, yolo)
    ended = edgesparse("prune", yolo, "-o", "out.onnx", *RECONSTRUCT, "--steps", "4", "--state", "work")
    assert ended.code == 2 and "Erf odd has no counterpart in PyTorch" in ended.message
    assert not Path("work").exists()


def two_class_maps_at_one_stride(model: onnx.ModelProto) -> None:
    """Make the scores of the finest stride the sum of two convolutions."""
    place, conv = next((i, node) for i, node in enumerate(model.graph.node) if node.name == "conv301")
    twin = onnx.NodeProto()
    twin.CopyFrom(conv)
    both = onnx.helper.make_node("Add", ["first", "second"], [conv.output[0]], "both")
    conv.output[0], twin.output[0], twin.name = "first", "second", "twin"
    model.graph.node.insert(place + 1, twin)
    model.graph.node.insert(place + 2, both)


def open_size(model: onnx.ModelProto) -> None:
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (two_class_maps_at_one_stride, "maps of 4x4 have 67 channels and those of 8x8 70, needed the same number at"),
        (open_size, "the map conv288 has no static shape: export the model with a static input"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused_before_the_work(
    edgesparse: Command, yolo: Path, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch")
    model = onnx.load(yolo)
    change(model)
    onnx.save(model, yolo)
    Path("recipe.yaml").write_text("model: yolo.onnx\ninput: {size: [64, 64]}\n")
    for arguments in (
        ("prune", "recipe.yaml", "-o", "out.onnx", *RECONSTRUCT, "--steps", "4", "--state", "work"),
        ("distill", "recipe.yaml", "-o", "out.onnx", "--images", "images", "--relu", "--state", "work"),
    ):
        ended = edgesparse(*arguments)
        assert ended.code == 2 and reason in ended.message, ended.err
        assert not Path("work").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("classes", "student", "reason"),
    [
        (3, "missing.onnx", "no model missing.onnx: pass the path"),
        (4, "student.onnx", "the student's conv301 is 1x4x8x8, needed 1x3x8x8 as the teacher's"),
        (3, "student.onnx", "Erf odd has no counterpart in PyTorch"),
    ],
)
def test_a_student_that_cannot_learn_is_refused_before_images_are_read(
    edgesparse: Command, yolo: Path, monkeypatch: pytest.MonkeyPatch, classes: int, student: str, reason: str
) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch")
    monkeypatch.setattr(distill, "pixels_of", None)
    model = networks.yolov8("tiny", "silu", 64, classes)
    sigmoid = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    sigmoid.op_type, sigmoid.name = "Erf", "odd"
    onnx.save(model, "student.onnx")
    ended = edgesparse("distill", yolo, "-o", "out.onnx", "--images", "images", "--student", student)
    assert ended.code == 2 and reason in ended.message, ended.err


@pytest.mark.torch
def test_a_student_is_trained_and_written(edgesparse: Command, yolo: Path) -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    ended = edgesparse(
        "distill", yolo, "-o", "out.onnx", "--images", "images", "--relu", "--minutes", "0.05", "--batch", "2"
    )
    assert ended.code == 0, ended.err
    assert "steps on 4 images, cpu" in ended.out and "wrote out.onnx" in ended.out
    student = onnx.load(str(yolo.with_name("out.onnx")))
    assert "Relu" in {node.op_type for node in student.graph.node}
    assert sorted(path.name for path in yolo.parent.iterdir()) == ["images", "out.onnx", "yolo.onnx"]

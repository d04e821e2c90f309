"""A student learns from its teacher without labels, on a CPU, with a network small enough for a test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import model, node, random, run

from benchmarks.orin_slice import networks
from edgesparse.compress.lesson import compared, read_result
from edgesparse.compress.maps import cut
from edgesparse.compress.student import StudentOptions, with_relu
from edgesparse.config import DetectorSpec
from edgesparse.errors import ConfigError, ModelError
from edgesparse.progress import quiet
from edgesparse.runtime.heads.base import CENTERED
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.permute import permute
from edgesparse.tasks.distill import prepared, start_data

pytestmark = [pytest.mark.torch, pytest.mark.long]
OPTIONS = StudentOptions(relu=1.0, sparse=0.3, int8=True, minutes=5, steps=40, batch=2, rate=3e-3)


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder prepared for distilling a very narrow YOLOv8 into one with ReLU, 2:4 and INT8."""
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    folder = tmp_path_factory.mktemp("lesson")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.SCALES, "tiny", (1 / 3, 0.125, 128))
        teacher = networks.yolov8("tiny", "silu", 64, 3)
    spec = DetectorSpec(head="yolov8", classes=("a", "b", "c"), input=CENTERED.model_copy(update={"size": (64, 64)}))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 3, 64, 64), np.uint8)
    data = start_data(teacher, spec, pixels, folder / "start")
    prepared(teacher, None, spec, OPTIONS, data, quiet).write(folder, pixels)
    return folder


@pytest.fixture
def lesson(prepared_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder's files."""
    for name in ("teacher.onnx", "student.onnx", "images.npy", "distill.json"):
        shutil.copy(prepared_once / name, tmp_path)
    return tmp_path


def test_features_whose_channels_the_student_reordered_are_not_compared(lesson: Path) -> None:
    from edgesparse.training import distill

    def compared() -> list[str]:
        return distill._Training(lesson, distill.torch.device("cpu"), quiet).features

    features = json.loads((lesson / "distill.json").read_text())["features"]
    teacher = onnx.load(str(lesson / "teacher.onnx"))
    onnx.save(teacher, str(lesson / "student.onnx"))
    assert compared() == features
    student = onnx.load(str(lesson / "student.onnx"))
    report = permute(student, [layer.name for layer in inspect(student).layers])
    onnx.save(student, str(lesson / "student.onnx"))
    # some layers keep most of their order
    assert report.moved and len(compared()) < 0.2 * len(features)


def disturb(path: Path) -> None:
    """Change the weights that are not 0, so that there is much to learn."""
    student, noise = onnx.load(str(path)), np.random.default_rng(1)
    for tensor in student.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            changed = values * noise.normal(1, 0.5, values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    onnx.save(student, str(path))


def test_relu_2to4_and_int8_are_learned_and_the_training_continues_where_it_stopped(lesson: Path) -> None:
    from edgesparse.training import distill

    values = json.loads((lesson / "distill.json").read_text())
    assert values["placement"] == "sparse" and len(values["features"]) > 3 and values["int8_layers"]
    disturb(lesson / "student.onnx")
    training = distill._Training(lesson, distill.torch.device("cpu"), quiet)
    training._record()
    for _ in range(5):
        training._step(0.0)
        training.state.step += 1
    training._save()
    report = distill.distill(lesson, quiet)
    assert report["step"] == OPTIONS.steps and report["history"][0]["step"] == 0
    assert report["least"] < 0.95 * report["history"][0]["held_out"]
    student, _ = read_result(lesson)
    operators = {node.op_type for node in student.graph.node}
    assert "Relu" in operators and "QuantizeLinear" in operators
    sparse = [layer.name for layer in inspect(student).layers if layer.sparse and layer.eligible]
    before = [
        layer.name for layer in inspect(onnx.load(str(lesson / "student.onnx"))).layers if layer.state == "sparse"
    ]
    assert sparse and set(before) <= set(sparse)
    assert [value.name for value in student.graph.output] == ["output0"] and np.isfinite(run(student)[0]).all()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
    from edgesparse.training.steps import save_checkpoint

    path, save = tmp_path / "checkpoint.pt", torch.save

    def failing(values: object, file: object) -> None:
        save(values, file)
        raise OSError(28, "No space left on device")

    save_checkpoint(path, {"step": 1})
    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1} and list(tmp_path.iterdir()) == [path]


def test_a_machine_with_a_gpu_needs_only_pytorch_numpy_and_onnx() -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch")
    others = {"click", "cv2", "onnxruntime", "pydantic", "rich", "yaml"}
    code = (
        f"import sys, edgesparse.training.distill; print(*({others} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_another_training_in_the_same_folder_is_refused(lesson: Path) -> None:
    from edgesparse.training import distill

    training = distill._Training(lesson, distill.torch.device("cpu"), quiet)
    training._save()
    values = json.loads((lesson / "distill.json").read_text())
    (lesson / "distill.json").write_text(json.dumps(values | {"rate": 1.0}))
    with pytest.raises(ConfigError, match="of another training"):
        distill.distill(lesson, quiet)


def test_a_network_in_pytorch_computes_what_onnx_runtime_does(lesson: Path) -> None:
    import torch

    from edgesparse.training.network import Network

    teacher = onnx.load(str(lesson / "teacher.onnx"))
    maps = cut(teacher)
    names = [value.name for value in maps.graph.output]
    x = random(1, 3, 64, 64)
    with torch.no_grad():
        values = Network(teacher, names)(torch.from_numpy(np.concatenate([x, x])))
    for name, expected in zip(names, run(maps, x), strict=True):
        np.testing.assert_allclose(values[name][:1].numpy(), expected, atol=1e-4, rtol=1e-4)


def test_a_copy_of_a_network_computes_with_its_own_weights(lesson: Path) -> None:
    """The averaged weights, which are the result, were judged by those that were trained."""
    from copy import deepcopy

    import torch

    from edgesparse.training.network import Network

    teacher = onnx.load(str(lesson / "teacher.onnx"))
    names = [value.name for value in cut(teacher).graph.output]
    network, x = Network(teacher, names).requires_grad_(False), torch.from_numpy(random(1, 3, 64, 64))
    copy, expected = deepcopy(network), network(x)
    for parameter in network.parameters():
        parameter.mul_(2)
    assert all(torch.equal(copy(x)[name], expected[name]) for name in names)
    assert not any(torch.equal(network(x)[name], expected[name]) for name in names)


def test_a_node_without_a_counterpart_is_named() -> None:
    pytest.importorskip("torch", reason="torch: needs PyTorch")
    from edgesparse.training.network import Network

    source = model([node("Conv", ["x", "w"], ["c"]), node("Erf", ["c"], ["y"], "odd")], {"w": random(4, 64, 1, 1)})
    with pytest.raises(ModelError, match="Erf odd has no counterpart in PyTorch"):
        Network(source, ["y"])


def test_a_model_whose_outputs_come_from_no_convolutions_is_refused_with_a_remedy() -> None:
    tail = [node("Conv", ["x", "w"], ["c"]), node("Flatten", ["c"], ["f"]), node("Gemm", ["f", "g"], ["y"], "dense")]
    network = model(tail, {"w": random(2, 3, 1, 1), "g": random(32, 7)}, (1, 3, 4, 4))
    spec = DetectorSpec(head="detr", classes=("a",), input=CENTERED.model_copy(update={"size": (4, 4)}))
    with pytest.raises(ModelError, match="Gemm dense, needed a Conv: this model cannot be trained here; leave out"):
        compared(network, network, spec)


def test_a_model_without_smooth_activations_has_nothing_for_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.0625, 128))
    teacher = networks.yolov8("tiny", "relu", 64, 3)
    with pytest.raises(ModelError, match="no SiLU"):
        with_relu(teacher)


def test_the_weights_with_the_least_error_on_images_held_out_are_the_result(tmp_path: Path, lesson: Path) -> None:
    """A student that is the original: no training can make it better."""
    from edgesparse.training import distill

    teacher = onnx.load(str(lesson / "teacher.onnx"))
    values = json.loads((lesson / "distill.json").read_text())
    values |= {"steps": 12, "rate": 0.02, "readers": {}, "scales": {}, "int8_layers": []}
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / "distill.json").write_text(json.dumps(values))
    for name in ("teacher.onnx", "student.onnx"):
        onnx.save(teacher, str(folder / name))
    (folder / "images.npy").write_bytes((lesson / "images.npy").read_bytes())
    report = distill.distill(folder, quiet)
    assert report["best_step"] == 0 and report["step"] == 12
    assert (
        report["history"][-1]["held_out"] > report["least"] and report["pace"] < 1
    )  # smaller steps after a bad result
    trained = {tensor.name: tensor for tensor in onnx.load(str(folder / "trained.onnx")).graph.initializer}
    assert all(trained[tensor.name].raw_data == tensor.raw_data for tensor in teacher.graph.initializer)


def test_a_feature_that_relu_computes_is_compared_apart_from_a_constant(lesson: Path) -> None:
    import torch

    from edgesparse.training.lessons import feature_loss

    values = json.loads((lesson / "distill.json").read_text())
    student = onnx.load(str(lesson / "student.onnx"))
    relu = {node.output[0] for node in student.graph.node if node.op_type == "Relu"}
    assert values["shifted"] and set(values["shifted"]) <= relu & set(values["features"])
    target = torch.from_numpy(random(2, 4, 8, 8))
    moved = target + torch.arange(4.0).reshape(1, 4, 1, 1)
    assert (
        feature_loss({"y": moved}, {"y": target}, ["y"])
        > 1
        > 1e-6
        > feature_loss({"y": moved}, {"y": target}, ["y"], ["y"])
    )

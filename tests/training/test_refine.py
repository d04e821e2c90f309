"""A pruned or INT8 network is trained to match the original: at 2:4, never for the worse, resumed exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.orin_slice import networks
from edgesparse.compress.lesson import compared
from edgesparse.compress.start import rounding
from edgesparse.config import DetectorSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.placement import plan
from edgesparse.int8.quantize import quantize
from edgesparse.model.activations import stream
from edgesparse.progress import quiet
from edgesparse.runtime.heads.base import CENTERED
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.prune import prune
from edgesparse.tasks.training import training_values

if TYPE_CHECKING:
    from edgesparse.training.refine import Refiner

pytestmark = [pytest.mark.torch, pytest.mark.long]
SPEC = DetectorSpec(head="yolov8", classes=("a", "b", "c"), input=CENTERED.model_copy(update={"size": (64, 64)}))
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 3, 64, 64), np.uint8)


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    pytest.importorskip("torch", reason="torch: needs PyTorch").set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.SCALES, "tiny", (1 / 3, 0.125, 128))
        return networks.yolov8("tiny", "silu", 64, 3)


def refiner(dense: onnx.ModelProto, **changes: Any) -> Refiner:
    from edgesparse.training.refine import Refiner

    return Refiner.of(PIXELS, {**compared(dense, dense, SPEC), "steps": 24, "batch": 2, "rate": 3e-3, **changes})


@pytest.fixture(scope="module")
def student(dense: onnx.ModelProto) -> onnx.ModelProto:
    """At 2:4, with weights a tenth smaller: training can only help."""
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    prune(model)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.9), tensor.name))
    return model


def same(first: onnx.ModelProto, second: onnx.ModelProto) -> bool:
    return first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_training_lowers_the_error_on_images_held_out_and_keeps_2to4(
    dense: onnx.ModelProto, student: onnx.ModelProto
) -> None:
    result = refiner(dense)(dense, student, None, quiet)
    model, training = result.model, result.report
    assert result.scales == {} and training.kept and training.after < 0.9 * training.before
    assert (training.images, training.held_out) == (12, 2)
    assert str(training).startswith(f"trained {training.steps} steps: error on images held out (2 of 12) ")
    assert all(layer.sparse for layer in inspect(model).eligible) and not same(model, student)


def test_an_interrupted_training_continues_to_the_same_bytes(
    dense: onnx.ModelProto, student: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.training.steps.EVERY", 2)  # masks have moved by then
    shown = list[int]()

    def stopping(step: str, done: int, total: int) -> None:
        shown.append(done)
        if done == 11:
            raise KeyboardInterrupt

    file, train = tmp_path / "training.pt", refiner(dense)
    with pytest.raises(KeyboardInterrupt):
        train(dense, student, file, stopping)
    result = train(dense, student, file, lambda step, done, total: shown.append(done))
    assert shown[:12] == list(range(12)) and shown[12] == 9 and shown[-1] == 24
    whole = train(dense, student, None, quiet)
    assert same(result.model, whole.model) and result.report == whole.report
    assert train(dense, student, file, quiet).report == whole.report
    other = refiner(dense, seed=1)(dense, student, file, quiet)
    assert not same(other.model, result.model)


@pytest.mark.parametrize("rate", [30.0, float("inf")])
def test_a_training_that_only_makes_it_worse_is_dropped_and_that_is_reported(
    dense: onnx.ModelProto, student: onnx.ModelProto, rate: float
) -> None:
    result = refiner(dense, rate=rate)(dense, student, None, quiet)
    training = result.report
    assert not training.kept and training.steps < 24 and same(result.model, student)
    assert str(training).endswith("steps, without a gain on images held out (2 of 12): weights as before")


def test_a_step_is_relative_to_the_weights_and_images_held_out_teach_nothing(
    dense: onnx.ModelProto, student: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesparse.training.refine import WARM, _Training

    monkeypatch.setattr("edgesparse.training.moving.DECAY", 0.0)
    train = refiner(dense, rate=0.1)
    training = _Training(train, train.lesson.network(dense).requires_grad_(False), train.lesson.network(student), None)
    np.testing.assert_array_equal(training.held_out.numpy(), PIXELS[[0, 10]])
    assert len(training.images) == 10
    before = [parameter.detach().clone() for parameter in training.sizes]
    training._step()
    pairs = zip(before, training.sizes.items(), strict=True)
    moved = [((parameter.detach() - old).abs() / size.clamp_min(1e-12)).flatten() for old, (parameter, size) in pairs]
    steps = np.concatenate([part.numpy() for part in moved])
    # Adam's first step is the learning rate, whatever the gradient
    assert steps.max() < 1.01 * 0.1 / WARM
    assert np.median(steps[steps > 0]) == pytest.approx(0.1 / WARM, rel=0.05)


def test_a_step_is_smaller_for_larger_inputs(dense: onnx.ModelProto, student: onnx.ModelProto) -> None:
    import torch

    from edgesparse.training.refine import _Training

    train = refiner(dense)
    network = train.lesson.network(student)
    alike = network.magnitudes()
    training = _Training(train, train.lesson.network(dense), network, None)
    assert training.masks is not None and training.masks.inputs
    for key, weight in network.weights.items():
        torch.testing.assert_close(training.sizes[weight], alike[weight] / training.masks.inputs.get(key, 1.0))


def test_masks_move_and_stay_2to4_at_every_step(
    dense: onnx.ModelProto, student: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesparse.training.refine import _Training

    monkeypatch.setattr("edgesparse.training.steps.EVERY", 2)
    train = refiner(dense, rate=0.05)
    networks = [train.lesson.network(model) for model in (dense, student)]
    training = _Training(train, networks[0].requires_grad_(False), networks[1], None)
    masks = [{key: mask.clone() for key, mask in training.student.masks.items()}]
    for training.state.step in range(24):
        training._step()
        masks.append({key: mask.clone() for key, mask in training.student.masks.items()})
        for network in (training.student, training.average, training.best):
            model = onnx.ModelProto()
            model.CopyFrom(student)
            network.write_to(model)
            assert all(layer.sparse for layer in inspect(model).eligible)
    changed = [any(not first[key].equal(second[key]) for key in first) for first, second in pairwise(masks)]
    assert any(changed[:12]) and not any(changed[12:])


def test_in_int8_weights_and_ranges_are_trained_and_zeros_stay(
    dense: onnx.ModelProto, student: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.training.refine.INT8_RATE", 3e-3)
    qdq = plan(student)
    start = dict.fromkeys(qdq.readers, 0.05)
    train = refiner(dense).rounding({**rounding(qdq), "scales": start})
    result = train(dense, student, tmp_path / "training.pt", quiet)
    assert result.report.after < 0.95 * result.report.before
    assert result.scales.keys() == start.keys() and all(scale > 0 for scale in result.scales.values())
    assert all(result.scales[name] == result.scales[group] for name, group in qdq.scales_of.items())
    assert not set(result.scales.values()).intersection(start.values())
    assert all(layer.sparse for layer in inspect(result.model).eligible) and not same(result.model, student)
    again = train(dense, student, tmp_path / "training.pt", quiet)
    assert same(again.model, result.model) and again.scales == result.scales and again.report == result.report


def test_the_rounded_network_computes_what_its_onnx_file_does(dense: onnx.ModelProto) -> None:
    import torch

    qdq = plan(dense)
    scales = dict.fromkeys(qdq.readers, 0.05)
    lesson = refiner(dense).rounding({**rounding(qdq), "scales": scales}).lesson
    images = lesson.input(torch.from_numpy(PIXELS[:1]))
    with torch.no_grad():
        maps = lesson.student(dense)(images)
        floats = lesson.network(dense)(images)
    quantized, _ = quantize(dense, scales)
    outputs = next(stream(quantized, lambda: [images.numpy()], list(lesson.maps)))
    for name in lesson.maps:
        apart = [float(np.square(values.numpy() - outputs[name]).mean()) for values in (maps[name], floats[name])]
        assert apart[0] < 0.05 * apart[1], name  # a value in the middle between two steps may be rounded either way


def test_gradients_of_rounding_are_those_of_learned_step_sizes() -> None:
    """Esser et al., 2020, equation 3, and gradients of values within the range pass straight through."""
    torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
    from edgesparse.training.quantizer import Quantizer

    quantizer = Quantizer(0.1)
    x = torch.tensor([0.0, 0.26, -0.12, 12.6, 12.8, -40.0], requires_grad=True)
    factors = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (quantizer(x) * factors).sum().backward()
    torch.testing.assert_close(quantizer(x).detach(), torch.tensor([0.0, 0.3, -0.1, 12.6, 12.7, -12.7]))
    assert x.grad.tolist() == [1, 2, 3, 4, 0, 0]
    own = 2 * (3 - 2.6) + 3 * (-1 + 1.2) + 5 * 127 - 6 * 127
    assert quantizer.scale.grad is not None
    assert quantizer.scale.grad.item() == pytest.approx(own / (6 * 127) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(("gpu", "images"), [(False, (4, 0)), (True, (16, 8))])
def test_a_gpu_trains_on_more_images_and_changes_half_of_them_strongly(
    dense: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, gpu: bool, images: tuple[int, int]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    from edgesparse.training.lessons import Lesson

    lesson = Lesson.of(training_values(dense, dense, SPEC))
    assert (lesson.batch, lesson.strong) == images


def test_one_image_cannot_train_and_judge(dense: onnx.ModelProto) -> None:
    with pytest.raises(CalibrationError, match="found 1 image, needed two or more"):
        replace(refiner(dense), pixels=PIXELS[:1])


@pytest.mark.parametrize("strong", [0, 4, 9])
def test_training_images_are_varied_alike_for_a_seed(strong: int) -> None:
    torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
    from edgesparse.training.augment import mixed, varied

    images = torch.from_numpy(PIXELS)
    first, again, other = (mixed(images, 8, strong, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (8, 3, 64, 64) and first.dtype == torch.float32
    assert float(first.min()) >= 0 and float(first.max()) <= 255
    assert torch.equal(first, again) and not torch.equal(first, other)
    own = images.float()
    assert not any(torch.equal(image, known) for image in first for known in own)
    assert torch.equal(first, varied(images, 8, torch.Generator().manual_seed(1))) == (strong == 0)


def test_features_count_as_often_as_the_lesson_says(dense: onnx.ModelProto, student: onnx.ModelProto) -> None:
    import torch

    losses = []
    for weight in (0.0, 1.0, 4.0):
        lesson = refiner(dense, feature_weight=weight).lesson
        networks = [lesson.network(model) for model in (student, dense)]
        with torch.no_grad():
            images = lesson.input(torch.from_numpy(PIXELS[:2]))
            losses.append(lesson.loss(networks[0], networks[1], images, lesson.features).item())
    assert losses[1] > losses[0] and losses[2] - losses[0] == pytest.approx(4 * (losses[1] - losses[0]), rel=1e-4)

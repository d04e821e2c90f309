"""A student starts with the layers chosen that change the outputs least, refitted to the original, and set for INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import random, run

from benchmarks.orin_slice import networks
from edgesparse.compress.lesson import network_inputs, prepare_lesson, rounded
from edgesparse.compress.maps import cut
from edgesparse.compress.start import Start, StartData, start
from edgesparse.compress.student import StudentOptions, smooth_source, with_relu
from edgesparse.config import DetectorSpec
from edgesparse.errors import ModelError
from edgesparse.model.layers import layer_name
from edgesparse.model.load import Model
from edgesparse.model.wiring import Wiring
from edgesparse.progress import quiet
from edgesparse.runtime.heads.base import CENTERED
from edgesparse.sparsity import rebuild
from edgesparse.sparsity.inspect import inspect


def images(count: int, seed: int) -> np.ndarray:
    """Smooth color gradients, uint8 [count, 3, 64, 64]."""
    coarse = random(count, 3, 8, 8, seed=seed) * 60 + 128
    return coarse.repeat(8, 2).repeat(8, 3).clip(0, 255).astype(np.uint8)


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.125, 128))
    return networks.yolov8("tiny", "silu", 64, 3)


SPEC = DetectorSpec(head="yolov8", classes=("a", "b", "c"), input=CENTERED.model_copy(update={"size": (64, 64)}))


def data(pixels: np.ndarray, folder: Path) -> StartData:
    return StartData(
        lambda: network_inputs(pixels, SPEC.input),
        lambda batches: (np.ones((1, 64, 64), np.float32) for _ in batches()),
        None,
        folder,
    )


def started(teacher: Model, pixels: np.ndarray, folder: Path, **options: float) -> Start:
    return start(teacher, None, StudentOptions(**options), data(pixels, folder), quiet)  # type: ignore[arg-type]


def error(teacher: Model, student: Model) -> float:
    """The squared error of the maps on other images than the fit's, as a share of their variance."""
    image = (images(1, 9) / 255).astype(np.float32)
    pairs = zip(run(cut(teacher), image), run(cut(student), image), strict=True)
    return float(np.mean([((a - b) ** 2).mean() / a.var() for a, b in pairs]))


@pytest.mark.parametrize("sparse", [0.0, 0.5])
def test_maps_of_images_that_were_not_fitted_are_much_closer(teacher: Model, sparse: float, tmp_path: Path) -> None:
    begun = started(teacher, images(12, 1), tmp_path, relu=1.0, sparse=sparse)
    assert error(teacher, begun.student) < 0.4 * error(teacher, with_relu(teacher))
    layers = inspect(begun.student).eligible
    share = sum(layer.macs or 0 for layer in layers if layer.sparse) / sum(layer.macs or 0 for layer in layers)
    assert sparse <= share < sparse + 0.3
    assert "Sigmoid" not in {node.op_type for node in cut(begun.student).graph.node}
    # channels are reordered for 2:4, in both networks
    assert error(teacher, begun.teacher) < 1e-6 and (begun.teacher is teacher) == (sparse == 0)


def test_layers_that_were_fitted_before_an_interruption_are_not_fitted_again(
    teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, fit = 0, rebuild.fit_layer

    def stopping(*args: object) -> object:
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return fit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(rebuild, "fit_layer", stopping)
    with pytest.raises(KeyboardInterrupt):
        started(teacher, images(4, 1), tmp_path, relu=1.0)
    continued = started(teacher, images(4, 1), tmp_path, relu=1.0)
    layers = sum(node.op_type == "Conv" for node in teacher.graph.node)
    assert layers <= count <= layers + 1
    assert started(teacher, images(4, 1), tmp_path, relu=1.0).student == continued.student and count <= layers + 1
    assert started(teacher, images(4, 1), tmp_path / "other", relu=1.0).student == continued.student
    assert count > 2 * layers - 3
    # other images are another fit
    assert started(teacher, images(4, 2), tmp_path, relu=1.0).student != continued.student


def test_only_layers_without_smooth_activation_behind_them_become_2to4(teacher: Model, tmp_path: Path) -> None:
    begun = started(teacher, images(4, 1), tmp_path, relu=0.5, sparse=0.3)
    wiring = Wiring(begun.student.graph)
    smooth = {name for each in begun.student.graph.node if (name := smooth_source(wiring, each)) is not None}
    relu = [node for node in begun.student.graph.node if node.op_type == "Relu"]
    sparse = {layer.name for layer in inspect(begun.student).layers if layer.state == "sparse"}
    assert smooth and sparse and len(relu) >= len(sparse)
    assert not sparse & {layer_name(wiring.producer[name]) for name in smooth}


def test_a_student_of_its_own_keeps_its_order_of_channels(teacher: Model, tmp_path: Path) -> None:
    student = Model()
    student.CopyFrom(teacher)
    begun = start(teacher, student, StudentOptions(sparse=0.5), data(images(4, 1), tmp_path), quiet)
    assert begun.teacher is teacher and any(layer.sparse for layer in inspect(begun.student).eligible)


def test_int8_starts_with_calibrated_ranges_and_the_placement_for_sparse_kernels(
    teacher: Model, tmp_path: Path
) -> None:
    pixels = images(6, 1)
    plain = started(teacher, pixels, tmp_path, relu=1.0, sparse=0.3)
    begun = started(teacher, pixels, tmp_path, relu=1.0, sparse=0.3, int8=True)
    scales = begun.rounding["scales"]
    assert set(scales) == set(begun.rounding["readers"]) and all(scale > 0 for scale in scales.values())
    lesson = prepare_lesson(begun, SPEC, StudentOptions())
    assert lesson.values["placement"] == "sparse" and lesson.values["scales"] is scales
    quantized = rounded(begun.student, lesson.values, scales)
    assert error(teacher, quantized) < 2 * error(teacher, plain.student)


def test_sparse_int8_without_relu_is_refused_for_a_network_with_silu(teacher: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needed 50%: ask for less, or add --relu"):
        started(teacher, images(2, 1), tmp_path, sparse=0.5, int8=True)

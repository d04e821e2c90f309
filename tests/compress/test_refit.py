"""A student with ReLU starts refitted to the network with the activations that ReLU replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import random, run

from benchmarks.orin_slice import networks
from edgesparse.compress.lesson import PreparedLesson, StudentOptions, prepare_lesson
from edgesparse.compress.maps import cut
from edgesparse.config import DetectorSpec
from edgesparse.model.load import Model
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


def prepared(teacher: Model, sparse: float = 0.0, relu: float = 1.0) -> PreparedLesson:
    return prepare_lesson(teacher, teacher, SPEC, StudentOptions(relu=relu, sparse=sparse))


def refitted(lesson: PreparedLesson, pixels: np.ndarray, folder: Path) -> PreparedLesson:
    return lesson.refitted(pixels, (np.ones((1, 64, 64), np.float32) for _ in pixels), folder, quiet)


def error(teacher: Model, student: Model) -> float:
    """The squared error of the maps on other images than the fit's, as a share of their variance."""
    image = (images(1, 9) / 255).astype(np.float32)
    pairs = zip(run(cut(teacher), image), run(cut(student), image), strict=True)
    return float(np.mean([((a - b) ** 2).mean() / a.var() for a, b in pairs]))


@pytest.mark.parametrize("sparse", [0.0, 0.5])
def test_maps_of_images_that_were_not_fitted_are_much_closer(teacher: Model, sparse: float, tmp_path: Path) -> None:
    before = prepared(teacher, sparse=sparse)
    after = refitted(before, images(12, 1), tmp_path)
    assert error(teacher, after.student) < 0.4 * error(teacher, before.student)
    states = [[layer.state for layer in inspect(lesson.student).layers] for lesson in (before, after)]
    assert states[0] == states[1] and ("sparse" in states[0]) == (sparse > 0)
    assert "Sigmoid" not in {node.op_type for node in cut(after.student).graph.node}


def test_layers_that_were_fitted_before_an_interruption_are_not_fitted_again(
    teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson, count, fit = prepared(teacher), 0, rebuild.fit_layer

    def stopping(*args: object) -> object:
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return fit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(rebuild, "fit_layer", stopping)
    with pytest.raises(KeyboardInterrupt):
        refitted(lesson, images(4, 1), tmp_path)
    continued = refitted(lesson, images(4, 1), tmp_path)
    layers = sum(node.op_type == "Conv" for node in lesson.student.graph.node)
    assert layers <= count <= layers + 1
    assert refitted(lesson, images(4, 1), tmp_path).student == continued.student and count <= layers + 1
    assert refitted(lesson, images(4, 1), tmp_path / "other").student == continued.student
    assert count > 2 * layers - 3
    # other images are another fit
    assert refitted(lesson, images(4, 2), tmp_path).student != continued.student


def test_a_student_that_keeps_its_activations_is_not_refitted(teacher: Model, tmp_path: Path) -> None:
    lesson = prepared(teacher, relu=0.0, sparse=0.5)
    assert refitted(lesson, images(2, 1), tmp_path / "none") is lesson and not (tmp_path / "none").exists()

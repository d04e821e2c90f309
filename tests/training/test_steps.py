"""The step that both trainings share, as a GPU takes it."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import pytest
from small_models import model, node, random

pytestmark = pytest.mark.torch


def steps(recorded: bool) -> Any:
    """Steps of two layers, whose loss is the mean square of their output."""
    torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
    from edgesparse.training.network import Network
    from edgesparse.training.steps import Steps, step_sizes

    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"], "relu"), node("Conv", ["r", "v"], ["y"])]
    source = model(nodes, {"w": random(8, 3, 1, 1), "v": random(4, 8, 1, 1)}, (1, 3, 4, 4))
    student = Network(source, ["y"])
    average = deepcopy(student).requires_grad_(False)
    trainer: Any = Steps(student, average, lambda n, x: n(x)["y"].square().mean(), step_sizes(student, {}), None, 0.99)
    trainer.recorded = recorded
    trainer.pixels = torch.from_numpy(random(2, 3, 4, 4))
    return trainer


def test_where_a_step_cannot_be_recorded_it_is_said_once_and_the_training_goes_on_alike(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch

    recorded, plain = steps(True), steps(False)
    with caplog.at_level(logging.WARNING):
        for step in range(8):
            for each in (recorded, plain):
                assert each.take(each.pixels, step, 0.01, False)
    assert len(caplog.messages) == 1 and "slower: no CUDA graph" in caplog.messages[0]
    for first, second in ((recorded.student, plain.student), (recorded.average, plain.average)):
        for own, other in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(own, other)
    assert recorded.mean() == pytest.approx(plain.mean(), rel=1e-5)


def test_a_loss_that_is_not_finite_is_found_at_the_next_look_and_forgotten() -> None:
    from edgesparse.training.steps import LOOK

    trainer = steps(True)
    good = deepcopy(trainer.student.state_dict())
    for step in range(LOOK - 1):
        assert trainer.take(trainer.pixels * (float("nan") if step == 3 else 1), step, 0.01, False)
    assert not trainer.take(trainer.pixels, LOOK - 1, 0.01, False)
    for network in (trainer.student, trainer.average):
        network.load_state_dict(good)
    trainer.forget()
    assert all(trainer.take(trainer.pixels, step, 0.01, False) for step in range(2 * LOOK))
    assert trainer.loss(trainer.student, trainer.pixels) < trainer.loss(trainer.average, trainer.pixels)

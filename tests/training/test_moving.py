"""Masks that move: sizes of inputs, where pruned weights begin, which are exchanged, and that all stays 2:4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from edgesparse.training.network import Network

torch = pytest.importorskip("torch", reason="torch: needs PyTorch")
pytestmark = pytest.mark.torch
DENSE = np.array([[4, 3, 2, -1], [1, -8, 1, 1], [1, 2, 3, 4]], np.float32)
PRUNED = np.array([[5, 3, 0, 0], [0, -8, 1, 0], [0, 0, 3, 4]], np.float32)


def model(weight: np.ndarray) -> onnx.ModelProto:
    """One 1x1 convolution with these weights [O, I]."""
    shapes = (weight.shape[1], weight.shape[0])
    image, out = (helper.make_tensor_value_info(name, 1, [1, n, 2, 2]) for name, n in zip("xy", shapes, strict=True))
    stored = numpy_helper.from_array(weight[:, :, None, None], "w")
    return helper.make_model(
        helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [image], [out], [stored])
    )


def network(weight: np.ndarray) -> Network:
    from edgesparse.training.network import Network

    return Network(model(weight), ["y"])


def values(net: Network) -> np.ndarray:
    """The weights, as they would count without masks."""
    (weight,) = net.weights.values()
    array: np.ndarray = weight.detach().numpy()[:, :, 0, 0].copy()
    return array


def test_inputs_are_measured_relative_to_those_of_the_layer() -> None:
    from edgesparse.training.moving import input_sizes

    x = torch.tensor([1.0, 2.0, 0.0, 100.0]).reshape(1, 4, 1, 1).expand(3, 4, 2, 2) * torch.tensor([1, -1]).float()
    sizes = input_sizes(network(DENSE), [x[:2], x[2:]])
    root = np.sqrt((1 + 4 + 0 + 1e4) / 4)
    assert [s.shape for s in sizes.values()] == [(1, 4, 1, 1)]
    np.testing.assert_allclose(next(iter(sizes.values())).flatten(), [0.25, 0.25, 0.25, 100 / root], rtol=1e-5)
    even = input_sizes(network(DENSE), [torch.tensor([3.0, 4, 3, 4]).reshape(1, 4, 1, 1).expand(2, 4, 2, 2)])
    np.testing.assert_allclose(next(iter(even.values())).flatten(), np.array([3, 4, 3, 4]) / np.sqrt(12.5), rtol=1e-5)


def test_pruned_weights_begin_as_the_dense_ones_but_below_the_kept_ones_and_do_not_count() -> None:
    from edgesparse.training.moving import MovingMasks

    student, x = network(PRUNED), torch.rand(1, 4, 2, 2)
    before = student(x)["y"]
    MovingMasks(student, network(DENSE), {})
    begun = np.array([[5, 3, 2, -1], [0.9, -8, 1, 0.9], [1, 2, 3, 4]])
    np.testing.assert_allclose(values(student), begun, rtol=1e-6)
    for student.straight in (False, True):
        torch.testing.assert_close(student(x)["y"], before)


@pytest.mark.parametrize("straight", [False, True])
def test_gradients_reach_pruned_weights_only_while_masks_move(straight: bool) -> None:
    student = network(PRUNED)
    student.straight = straight
    student(torch.ones(1, 4, 2, 2))["y"].sum().backward()
    (weight,) = student.weights.values()
    np.testing.assert_array_equal(weight.grad[:, :, 0, 0] != 0, straight | (PRUNED != 0))


def test_a_weight_replaces_another_once_it_matters_more_and_the_file_stays_2to4() -> None:
    from copy import deepcopy

    from edgesparse.training.moving import DECAY, MovingMasks

    student, (key,) = network(PRUNED), network(PRUNED).weights
    inputs = {key: torch.tensor([1.0, 1.0, 2.0, 1.0]).reshape(1, 4, 1, 1)}
    moving, average = MovingMasks(student, network(DENSE), inputs), deepcopy(student)
    moving.choose(average)  # nothing has changed yet
    np.testing.assert_array_equal(average.masks[key][:, :, 0, 0], PRUNED != 0)
    with torch.no_grad():
        student.weights[key][0, 2] = 1.6  # of an input twice as large as that of the 3
    moving.choose(average)
    for net in (student, average):
        np.testing.assert_array_equal(net.masks[key][0, :, 0, 0], [True, False, True, False])
        written = model(PRUNED)
        net.write_to(written)
        assert (numpy_helper.to_array(written.graph.initializer[0]) != 0).reshape(3, 4).sum(1).max() == 2
    before = values(student)
    moving.decay()
    kept = student.masks[key][:, :, 0, 0].numpy()
    np.testing.assert_allclose(values(student), np.where(kept, before, (1 - DECAY) * before), rtol=1e-6)


def test_masks_are_part_of_what_a_checkpoint_holds() -> None:
    first, second = network(PRUNED), network(np.roll(PRUNED, 1, 1))
    second.load_state_dict(first.state_dict())
    for own, other in zip(first.masks.values(), second.masks.values(), strict=True):
        assert torch.equal(own, other)

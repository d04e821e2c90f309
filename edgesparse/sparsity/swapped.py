"""ReLU in place of a smooth activation: the line in front of it with which it comes closest.

ReLU of a multiple of a layer's outputs, shifted, follows SiLU of these outputs far better than ReLU of the outputs
themselves: for each channel, the kink goes where its values make it cost least. A constant that is left over costs
nothing, since the layers behind, which are refitted next, absorb it in their biases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.model.activations import Tape
from edgesparse.model.unfold import Product
from edgesparse.model.wiring import Array, Wiring
from edgesparse.sparsity.activated import Activation, activation_of

Single = npt.NDArray[np.float32]
KINKS = np.linspace(1, -8, 73, dtype=np.float32)
"""Where the kink may be, in order of trial: the lower, the larger the constant, which padding behind does not have."""
GAIN = 1e-3
"""By how much a lower kink must lower the error, as a share of the variance."""
POSITIONS = 4096
"""About how many positions a line is fitted to."""


class Line(NamedTuple):
    """`scale` and `shift` [channels] of a layer's outputs."""

    scale: Single
    shift: Single

    def of(self, outputs: Array) -> Array:
        """Return `outputs` [N, channels, ...], scaled and shifted."""
        shape = (1, -1, *[1] * (outputs.ndim - 2))
        moved: Array = outputs * self.scale.reshape(shape) + self.shift.reshape(shape)
        return moved


def line_of(dense: Tape, changed: Tape, work: Product) -> Line | None:
    """Return the line in front of the ReLU that alone reads a layer in `changed`, to come closest to the activation of
    `dense`; None where that is ReLU too, or unknown. Both tapes hold what the layer reads or computes.
    """
    name = work.node.output[0]
    smooth = replaced(dense.wiring, changed.wiring, name)
    if smooth is None or work.node.op_type != "Conv":
        return None
    some = [spread(work.outputs(batch), dense.count) for batch in dense.read(name)]
    return line_to(smooth, np.concatenate(some))


def line_to(smooth: Activation, outputs: Single) -> Line:
    """Return the line for which ReLU comes closest to `smooth` of `outputs` [positions, channels], but for a constant
    per channel: least squares, with the best of KINKS.
    """
    target = smooth(outputs)
    target = target - target.mean(0)
    variance = target.var(0)
    least = np.full(target.shape[1], np.inf, np.float32)
    scale, shift = np.ones_like(least), np.zeros_like(least)
    for kink in KINKS:
        ramp = np.maximum(outputs - kink, 0)
        ramp -= ramp.mean(0)
        product = (ramp * target).mean(0)
        slope = product / np.maximum(ramp.var(0), 1e-9)
        error = variance - slope * product
        better = (slope > 0) & (error < least - GAIN * variance)
        least, scale = np.where(better, error, least), np.where(better, slope, scale)
        shift = np.where(better, -slope * kink, shift)
    return Line(scale, shift)


def replaced(before: Wiring, after: Wiring, name: str) -> Activation | None:
    """Return the activation that alone reads the tensor `name` in `before`, if ReLU replaced it in `after`."""
    kinds = [[node.op_type for node in wiring.consumers[name]] for wiring in (before, after)]
    if kinds[1] != ["Relu"] or kinds[0] == kinds[1]:
        return None
    return smooth_function(before, name)


def smooth_function(wiring: Wiring, name: str) -> Activation | None:
    """Return the activation that alone reads the tensor `name`: HardSwish, or what `activation_of` knows."""
    kinds = [node.op_type for node in wiring.consumers[name]]
    return _hard_swish if kinds == ["HardSwish"] else activation_of(wiring, name)


def _hard_swish(x: Single) -> Single:
    values: Single = x * np.clip(x / 6 + np.float32(0.5), 0, 1)
    return values


def spread(outputs: Single, batches: int) -> Single:
    """Return a copy of some of a batch's `outputs` [positions, channels], so that all `batches` have POSITIONS."""
    return outputs[:: -(-len(outputs) // -(-POSITIONS // batches))].copy()

"""The 2:4 pattern, in NumPy: which weights are kept, what violates the pattern, and which layers can have it.

The pattern is that of TensorRT and Ampere: of each four consecutive input channels, at one output channel and one
kernel position, at least two weights are zero (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021,
arXiv:2104.08378; TensorRT 8.0 release notes).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.errors import SparsityError

Array = npt.NDArray[Any]
GROUP, KEEP = 4, 2
MIN_CHANNELS = 32
"""Fewest channels of an eligible layer. TensorRT's sparse INT8 convolutions store channels in blocks of 32
(layout NC/32HW32), its FP16 ones process 64 at a time, so a narrower layer would mostly multiply padding. Real gains
begin well above that, at about 256 channels: eligible means "may be considered", not "faster"."""


def mask_2to4(weight: Array, axis: int = 1) -> npt.NDArray[np.bool_]:
    """Return a mask of the weights to keep: the two largest magnitudes of every four consecutive ones along `axis`.

    Of equal magnitudes the lower index is kept; NaN counts as zero. `weight` is any numeric array; the mask is bool, of
    the same shape. Raises SparsityError where the length along `axis` is not a multiple of four.
    """
    groups = np.moveaxis(_groups(weight, axis), axis % weight.ndim + 1, 0)
    magnitude = np.fmax(np.abs(groups.astype(np.promote_types(groups.dtype, np.float32), copy=False)), 0)
    # six comparisons of whole planes are four times faster than sorting each group
    beaten = np.zeros(magnitude.shape, np.int8)
    for low, high in combinations(range(GROUP), 2):
        larger = magnitude[high] > magnitude[low]
        beaten[low] += larger
        beaten[high] += ~larger
    mask = np.moveaxis(beaten < KEEP, 0, axis % weight.ndim + 1)
    return np.ascontiguousarray(mask).reshape(weight.shape)


def violations(weight: Array, axis: int = 1) -> tuple[int, int]:
    """Return the number of groups of four along `axis` with more than two non-zero weights, and of all groups. Raises
    SparsityError where the length along `axis` is not a multiple of four.
    """
    nonzero = np.count_nonzero(_groups(weight, axis), axis=axis % weight.ndim + 1)
    return int(np.count_nonzero(nonzero > KEEP)), nonzero.size


def ineligible(weight_shape: Sequence[int], group: int = 1) -> str | None:
    """Return why TensorRT cannot use 2:4 in this layer, in words that a user can act on, or None if it can.

    `weight_shape` is a convolution's [K, C/group, R, S] or a matrix's [K, C]: K output, C input channels.
    """
    outputs, inputs = int(weight_shape[0]), int(weight_shape[1])
    if group > 1:
        kind = "depthwise" if inputs == 1 else f"grouped ({group} groups)"
        return f"{kind} convolution: TensorRT has no sparse kernel for it, only for group=1"
    if inputs <= 3:
        return f"first layer ({inputs} input channel{'s' * (inputs > 1)}): stays dense"
    if inputs % GROUP:
        return f"{inputs} input channels: not a multiple of {GROUP}; use a width that is"
    for count, side in ((inputs, "input"), (outputs, "output")):
        if count < MIN_CHANNELS:
            return f"{count} {side} channels: too narrow for a sparse kernel, {MIN_CHANNELS} or more needed"
    return None


def _groups(weight: Array, axis: int) -> Array:
    """Return `weight` with `axis` split into fours: n becomes n / 4, 4."""
    axis %= weight.ndim
    if weight.shape[axis] % GROUP:
        raise SparsityError(
            f"2:4 needs a multiple of {GROUP} channels along axis {axis}, found {weight.shape[axis]}: "
            "leave this layer dense"
        )
    return weight.reshape(*weight.shape[:axis], weight.shape[axis] // GROUP, GROUP, *weight.shape[axis + 1 :])

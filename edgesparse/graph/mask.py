"""The 2:4 pattern itself, in numpy: which weights stay, what breaks the pattern, which layers can have it.

The pattern is TensorRT's and Ampere's: of each four consecutive input channels, at one output channel and
one kernel position, at least two weights are zero (Mishra et al., "Accelerating Sparse Deep Neural
Networks", 2021, arXiv:2104.08378; TensorRT 8.0 release notes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesparse.errors import SparsityError

GROUP, KEEP = 4, 2
MIN_CHANNELS = 32
"""The narrowest layer that counts as eligible. TensorRT's sparse INT8 convolutions hold channels in blocks of
32 (layouts NC/32HW32), its FP16 ones walk 64 at a time, so a narrower layer would mostly multiply padding.
Real gains begin well above that, at about 256 channels: eligible says "may be considered", never "faster"."""


def mask_2to4(weight: np.ndarray, axis: int = 1) -> np.ndarray:
    """True where a weight stays: the two largest magnitudes of each four consecutive along `axis`.

    Of equal magnitudes the lower index stays. `weight` is any numeric array; the mask is bool, of its shape.
    Raises SparsityError when the length along `axis` is no multiple of four.
    """
    groups = _groups(weight, axis)
    magnitude = np.abs(groups.astype(np.promote_types(groups.dtype, np.float32), copy=False))
    kept = np.argsort(-magnitude, axis=-1, kind="stable")[..., :KEEP]
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, kept, True, axis=-1)
    moved = np.moveaxis(weight, axis, -1).shape
    return np.ascontiguousarray(np.moveaxis(mask.reshape(moved), -1, axis))


def violations(weight: np.ndarray, axis: int = 1) -> tuple[int, int]:
    """(groups of four along `axis` with more than two non-zero weights, all groups).

    Raises SparsityError when the length along `axis` is no multiple of four.
    """
    nonzero = np.count_nonzero(_groups(weight, axis), axis=-1)
    return int(np.count_nonzero(nonzero > KEEP)), nonzero.size


def ineligible(weight_shape: Sequence[int], group: int = 1) -> str | None:
    """Why TensorRT cannot use 2:4 in this layer, in words a user can act on; None when it can.

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


def _groups(weight: np.ndarray, axis: int) -> np.ndarray:
    """`weight` with `axis` last and cut into fours: [..., n / 4, 4]."""
    moved = np.moveaxis(weight, axis, -1)
    if moved.shape[-1] % GROUP:
        raise SparsityError(
            f"2:4 needs a multiple of {GROUP} channels along axis {axis}, found {moved.shape[-1]}: "
            "leave this layer dense"
        )
    return moved.reshape(*moved.shape[:-1], -1, GROUP)

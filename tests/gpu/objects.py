"""Compares what two detectors found, by the position of the objects rather than by their order."""

from __future__ import annotations

import numpy as np

from edgesparse.runtime.detections import Detections


def matched(ours: Detections, right: Detections) -> int:
    """How many objects are the same, which all but a few at the threshold must be."""
    most = max(len(ours), len(right))
    if not len(ours) or not len(right):
        assert most <= 1
        return 0
    far = np.abs(ours.xyxy[:, None] - right.xyxy[None]).max(axis=2)
    far += 50 * np.abs(ours.confidence[:, None] - right.confidence[None])  # a box may be there twice, less confident
    far[ours.class_id[:, None] != right.class_id[None]] = np.inf
    mine = np.flatnonzero(far.min(axis=1) <= 0.5)
    other = far.argmin(axis=1)[mine]
    assert len(mine) >= 0.97 * most - 1, (len(mine), len(ours), len(right))
    for left, reference in ((ours.keypoints, right.keypoints), (ours.rotated, right.rotated)):
        assert (left is None) == (reference is None)
        if left is not None and reference is not None:
            np.testing.assert_allclose(left[mine], reference[other], atol=0.5)
    assert (ours.masks is None) == (right.masks is None)
    if ours.masks is not None and right.masks is not None:
        for i, j in zip(mine, other, strict=True):
            assert abs(ours.masks[i].area - right.masks[j].area) <= 0.02 * right.masks[j].area + 8
    return len(mine)

"""The training loss: task-aligned targets, then class, overlap and distribution losses.

Targets after Feng et al., TOOD, 2021, arXiv:2108.07755; complete IoU after Zheng et al., 2020, arXiv:1911.08287;
distribution focal loss after Li et al., 2020, arXiv:2006.04388. All shapes are fixed, so that a GPU never waits for the
CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from demo_training.net import BINS, Detector

ALPHA, BETA, CANDIDATES = 0.5, 6.0, 10
BOX, CLASS, DISTRIBUTION = 7.5, 0.5, 1.5


def detection_loss(detector: Detector, outputs: tuple[Tensor, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
    """Return the weighted (overlap, class, distribution) losses, [3]. `outputs` are the raw outputs of a batch. `boxes`
    [B, M, 4] xyxy in input pixels and `classes` [B, M] int64 are the truth, padded with class -1.
    """
    logits, scores = outputs[0].float(), outputs[1].float().transpose(1, 2)
    predicted = detector.boxes(logits)
    index, weight = assign(scores.detach().sigmoid(), predicted.detach(), boxes, classes, detector.points[0].T)
    total = weight.sum().clamp_min(1)
    truth = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    targets = functional.one_hot(classes.clamp_min(0).gather(1, index), scores.shape[2]) * weight[..., None]
    overlap = ((1 - complete_iou(predicted, truth)) * weight).sum() / total
    label = functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum") / total
    sides = _sides(truth, detector.points) / detector.strides
    spread = (distribution_loss(logits, sides) * weight).sum() / total
    return torch.stack([BOX * overlap, CLASS * label, DISTRIBUTION * spread])


@torch.no_grad()
def assign(scores: Tensor, predicted: Tensor, boxes: Tensor, classes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each cell the index of the box to predict, [B, N], and its weight, [B, N] (0: background).

    `scores` [B, N, C] and `predicted` [B, N, 4] are the detector's own; `points` [N, 2] the cells' centers.
    """
    valid = classes >= 0
    near, far = points - boxes[..., None, :2], boxes[..., None, 2:] - points
    inside = (torch.cat([near, far], 3).amin(3) > 1e-3) & valid[..., None]
    overlap = iou(boxes[:, :, None], predicted[:, None]) * inside
    own = classes.clamp_min(0)[..., None].expand(-1, -1, scores.shape[1])
    aligned = scores.transpose(1, 2).gather(1, own).pow(ALPHA) * overlap.pow(BETA) * inside
    best = aligned.topk(CANDIDATES, 2).indices
    chosen = torch.zeros_like(inside).scatter_(2, best, True) & inside
    claimed = torch.where(chosen, overlap, -1.0)
    index = claimed.argmax(1)
    chosen &= functional.one_hot(index, boxes.shape[1]).transpose(1, 2).bool()
    aligned, overlap = aligned * chosen, overlap * chosen
    scale = overlap.amax(2, keepdim=True) / aligned.amax(2, keepdim=True).clamp_min(1e-9)
    return index, (aligned * scale).amax(1)


def area(boxes: Tensor) -> Tensor:
    """Return the area of xyxy boxes [..., 4], without prod, whose gradient searches for zeros and waits for the GPU."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).unbind(-1)
    return width * height


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of xyxy boxes [..., 4], with broadcasting."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = area(torch.cat([low, high], -1))
    return shared / (area(a) + area(b) - shared + 1e-7)


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return IoU minus the distance of the centers and the difference in shape."""
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    diagonal = (high - low).square().sum(-1) + 1e-7
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    angle_a, angle_b = (torch.atan2(*(x[..., 2:] - x[..., :2]).clamp_min(1e-3).unbind(-1)) for x in (a, b))
    shape = (4 / math.pi**2) * (angle_a - angle_b).square()
    overlap = iou(a, b)
    share = (shape / (1 - overlap + shape + 1e-7)).detach()
    return overlap - apart / diagonal - share * shape


def distribution_loss(logits: Tensor, sides: Tensor) -> Tensor:
    """Return the cross entropy with the two bins next to `sides` [B, 4, N], averaged over the four sides, [B, N]."""
    target = sides.clamp(0, BINS - 1.01)
    lower = target.floor()
    share = target - lower
    log = logits.log_softmax(1)
    at = lower.long()[:, None]
    low, high = log.gather(1, at)[:, 0], log.gather(1, at + 1)[:, 0]
    return -(low * (1 - share) + high * share).mean(1)


def _sides(boxes: Tensor, points: Tensor) -> Tensor:
    """Return the distances from points [1, 2, N] to the sides of boxes [B, N, 4]: [B, 4, N]."""
    boxes = boxes.transpose(1, 2)
    return torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1)

"""Networks for benchmarks/trained_tasks.py: the demo's detector with what segmentation, poses and rotated boxes add.

Outputs are those of Ultralytics' YOLOv8 exports for these tasks, written here from their documentation. As there, boxes
are distributions of distances to four sides; masks are a linear combination of prototypes (Bolya et al., YOLACT, 2019);
keypoints are offsets from a cell; a rotated box has its sides at an angle around the cell. Needs PyTorch.
"""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from demo_training.loss import assign, complete_iou, distribution_loss
from demo_training.net import STRIDES, Block, Distances, Head, Neck

from benchmarks.task_scenes import CLASSES
from edgesparse.runtime.heads.grid import grid

SIZE, WIDTH = (128, 160), 32
PROTOTYPES, KEYPOINTS = 16, (17, 3)
EXTRA = {"segment": PROTOTYPES, "pose": KEYPOINTS[0] * KEYPOINTS[1], "obb": 1}
"""Values per cell besides its box and class scores."""
OPSET = 17
BOX, CLASS, DISTRIBUTION = 7.5, 0.5, 1.5
GAINS = {"segment": 7.5, "pose": 12.0, "obb": 10.0}
"""Weights of the losses: those of the box as in the demo's training, and of what a task adds."""
CHOSEN = 128
"""Cells of a batch, at most, whose masks or keypoints are compared in a step: masks take long."""
SPREAD = 2 * np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
"""Deviations that COCO's keypoint score allows, as a share of the object's size: twice its published sigmas."""


class Backbone(nn.Module):
    """A narrow backbone, which learns in minutes on one core."""

    def __init__(self) -> None:
        super().__init__()
        self.stage8 = nn.Sequential(Block(3, 16, stride=2), Block(16, 32, stride=2), Block(32, WIDTH, stride=2))
        self.stage8.extend(Block(WIDTH, WIDTH) for _ in range(2))
        self.stage16 = nn.Sequential(Block(WIDTH, 128, stride=2), Block(128, 128))
        self.stage32 = nn.Sequential(Block(128, 128, stride=2), Block(128, 128))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage8(images)
        middle = self.stage16(fine)
        return fine, middle, self.stage32(middle)


class TaskNetwork(nn.Module):
    """`forward` returns the exported outputs for images [B, 3, *SIZE], 0..1: `output0` [B, 4 + C + EXTRA, N] and, for
    segmentation, `output1`, the prototypes [B, PROTOTYPES, H / 4, W / 4].
    """

    points: Tensor
    strides: Tensor

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task, self.classes = task, len(CLASSES[task])
        self.backbone, self.neck, self.head = Backbone(), Neck(WIDTH), Head(self.classes, WIDTH)
        self.distances = Distances()
        self.extra = nn.ModuleList(
            nn.Sequential(Block(WIDTH, WIDTH), nn.Conv2d(WIDTH, EXTRA[task], 1)) for _ in STRIDES
        )
        if task == "segment":
            doubled = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
            self.prototypes = nn.Sequential(
                Block(WIDTH, WIDTH), doubled, Block(WIDTH, WIDTH), Block(WIDTH, PROTOTYPES, 1)
            )
        corners, strides = (torch.from_numpy(values).T[None] for values in grid(SIZE, STRIDES))
        self.register_buffer("points", (corners + 0.5) * strides, False)
        self.register_buffer("strides", strides.float(), False)

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """What the last convolutions return: `sides` [B, BINS, 4, N], `scores` [B, C, N], `extra` [B, EXTRA, N] and
        `prototypes`.
        """
        levels = self.neck(*self.backbone(images))
        sides, scores = self.head(levels)
        extra = torch.cat([branch(x).flatten(2) for branch, x in zip(self.extra, levels, strict=True)], 2)
        result = {"sides": sides, "scores": scores, "extra": extra}
        return result | ({"prototypes": self.prototypes(levels[0])} if self.task == "segment" else {})

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        raw = self.raw(images)
        boxes, extra = self.boxes(raw), raw["extra"]
        if self.task == "pose":
            places, seen = self.keypoints(extra), _by_keypoint(extra)[:, :, 2:].sigmoid()
            extra = torch.cat([places, seen], 2).flatten(1, 2)
        output = torch.cat([boxes[:, :4], raw["scores"].sigmoid(), boxes[:, 4:] if self.task == "obb" else extra], 1)
        return (output, raw["prototypes"]) if self.task == "segment" else output

    def boxes(self, raw: dict[str, Tensor]) -> Tensor:
        """Rotated boxes [B, 5, N] in pixels: center, size and angle, which is 0 unless the task is obb."""
        near, far = self.distances(raw["sides"]).split(2, 1)
        size, (x, y) = (near + far) * self.strides, ((far - near) * (self.strides * 0.5)).split(1, 1)
        if self.task != "obb":
            return torch.cat([self.points + torch.cat([x, y], 1), size, torch.zeros_like(x)], 1)
        angle = (raw["extra"].sigmoid() - 0.25) * math.pi
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([self.points + torch.cat([x * cos - y * sin, x * sin + y * cos], 1), size, angle], 1)

    def keypoints(self, extra: Tensor) -> Tensor:
        """Places [B, 17, 2, N] of keypoints in pixels."""
        places: Tensor = _by_keypoint(extra)[:, :, :2] * 2 * self.strides + (self.points - self.strides * 0.5)
        return places


def loss(net: TaskNetwork, batch: dict[str, Tensor]) -> Tensor:
    """The weighted losses of overlap, classes, distributions and what the task adds, [4].

    `batch`: `images`; the truth, padded to M objects: `boxes` [B, M, 5] as `TaskNetwork.boxes`, `classes` [B, M], -1
    for none; `keypoints` [B, M, 17, 2]; `owner` [B, H / 2, W / 2], whose pixel it is, counting from 1.
    """
    raw = net.raw(batch["images"])
    predicted, scores = net.boxes(raw).transpose(1, 2), raw["scores"].transpose(1, 2)
    around = _upright(predicted.detach()), _upright(batch["boxes"])
    index, weight = assign(scores.detach().sigmoid(), *around, batch["classes"], net.points[0].T)
    total = weight.sum().clamp_min(1)
    truth = batch["boxes"].gather(1, index[..., None].expand(-1, -1, 5))
    sides, target = net.distances(raw["sides"]).transpose(1, 2), _sides(net, truth)
    overlap = ((1 - complete_iou(_from_cell(sides), _from_cell(target))) * weight).sum() / total
    labels = functional.one_hot(batch["classes"].clamp_min(0).gather(1, index), net.classes) * weight[..., None]
    label = functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / total
    spread = (distribution_loss(raw["sides"], target.transpose(1, 2)) * weight).sum() / total
    if net.task == "obb":  # the same after half a turn
        more = ((predicted[..., 4] - truth[..., 4]).sin().square() * weight).sum() / total
    else:
        places = weight.nonzero()
        image, cell = places[torch.randperm(len(places))[:CHOSEN].sort().values].T
        own = (_masks if net.task == "segment" else _poses)(net, raw, batch, (image, cell, index[image, cell]))
        more = (own * weight[image, cell]).sum() / weight[image, cell].sum().clamp_min(1)
    return torch.stack([BOX * overlap, CLASS * label, DISTRIBUTION * spread, GAINS[net.task] * more])


def export(net: TaskNetwork, path: Path) -> None:
    """Write the network with folded batch norms, and metadata as Ultralytics writes it."""
    for module in net.eval().modules():
        if isinstance(module, Block):
            module.fuse()
    names = ["output0", "output1"][: 1 + (net.task == "segment")]
    options: dict[str, Any] = {"opset_version": OPSET, "input_names": ["images"], "output_names": names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the only exporter without additional dependencies is called legacy
        torch.onnx.export(net, (torch.zeros(1, 3, *SIZE),), path, dynamo=False, **options)
    model = onnx.load(path)
    metadata = {
        "task": net.task,
        "stride": "32",
        "imgsz": str(list(SIZE)),
        "names": str(dict(enumerate(CLASSES[net.task]))),
    }
    if net.task == "pose":
        metadata["kpt_shape"] = str(list(KEYPOINTS))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


Chosen = tuple[Tensor, Tensor, Tensor]
"""Image, cell and object [P] of the cells that are to predict one."""


def _masks(net: TaskNetwork, raw: dict[str, Tensor], batch: dict[str, Tensor], chosen: Chosen) -> Tensor:
    """The mean cross entropy inside each object's box, [P], at half the input's resolution."""
    image, cell, number = chosen
    coefficients, prototypes = raw["extra"][image, :, cell], raw["prototypes"]
    logits = torch.cat([coefficients[image == i] @ each.flatten(1) for i, each in enumerate(prototypes)])
    logits = logits.reshape(-1, *prototypes.shape[2:])
    logits = functional.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
    target = (batch["owner"][image] == number[:, None, None] + 1).float()
    x1, y1, x2, y2 = (_upright(batch["boxes"])[image, number] / 2).T[..., None, None]
    rows, columns = torch.arange(logits.shape[1])[:, None] + 0.5, torch.arange(logits.shape[2]) + 0.5
    inside = (rows > y1) & (rows < y2) & (columns > x1) & (columns < x2)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * inside
    mean: Tensor = each.sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
    return mean


def _poses(net: TaskNetwork, raw: dict[str, Tensor], batch: dict[str, Tensor], chosen: Chosen) -> Tensor:
    """What COCO's keypoint similarity lacks, [P]; the distance as a share of the size, which leads there; and the cross
    entropy of being visible, as all are.
    """
    image, cell, number = chosen
    places = net.keypoints(raw["extra"])[image, :, :, cell]
    apart = (places - batch["keypoints"][image, number]).square().sum(2)
    area = 0.53 * batch["boxes"][image, number, 2:4].prod(1)[:, None]
    similar = torch.exp(-apart / (2 * area * torch.from_numpy(SPREAD).float().square()))
    seen = _by_keypoint(raw["extra"])[image, :, 2, cell]
    shown = functional.softplus(-seen)
    return ((1 - similar) + (apart / area + 1e-6).sqrt() + 0.1 * shown).mean(1)


def _by_keypoint(extra: Tensor) -> Tensor:
    """[B, 17, 3, N]"""
    return extra.reshape(len(extra), *KEYPOINTS, -1)


def _sides(net: TaskNetwork, boxes: Tensor) -> Tensor:
    """Distances [B, N, 4] from the cells to the sides of boxes [B, N, 5], along these, in strides."""
    x, y = (boxes[..., :2] - net.points[0].T).unbind(-1)
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    center = torch.stack([x * cos + y * sin, y * cos - x * sin], -1)
    return torch.cat([boxes[..., 2:4] / 2 - center, boxes[..., 2:4] / 2 + center], -1) / net.strides[0].T


def _from_cell(sides: Tensor) -> Tensor:
    """xyxy of a box around a cell at the origin, in its own direction."""
    return torch.cat([-sides[..., :2], sides[..., 2:]], -1)


def _upright(boxes: Tensor) -> Tensor:
    """xyxy [..., 4] around rotated boxes [..., 5]."""
    (width, height), cos, sin = boxes[..., 2:4].unbind(-1), boxes[..., 4].cos().abs(), boxes[..., 4].sin().abs()
    reach = torch.stack([width * cos + height * sin, width * sin + height * cos], -1) / 2
    return torch.cat([boxes[..., :2] - reach, boxes[..., :2] + reach], -1)

"""The demo's detector: an anchor-free YOLO of convolution, batch norm and ReLU, strides 8, 16 and 32.

The backbone is similar to VGG and Darknet, with a path-aggregation neck (Liu et al., PANet, 2018, arXiv:1803.01534), a
decoupled head (Ge et al., YOLOX, 2021, arXiv:2107.08430) whose boxes are distributions of the distances to the four
sides (Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388). Widths are multiples of 32 and a ReLU follows each
convolution directly, as TensorRT's sparse INT8 kernels require.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = (8, 16, 32)
BINS = 16


class Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, momentum=0.03)
        self.relu = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.norm(self.conv(x)))
        return out

    def fuse(self) -> None:
        """Fold the batch norm into the convolution. It scales whole output channels, so zeros remain zero."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Block(3, 32, stride=2), Block(32, 64, stride=2), Block(64, 64))
        self.stage8 = nn.Sequential(Block(64, 64, stride=2), Block(64, 64), Block(64, 64))
        self.stage16 = nn.Sequential(Block(64, 128, stride=2), Block(128, 128), Block(128, 128))
        self.stage32 = nn.Sequential(Block(128, 128, stride=2), Block(128, 128))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage8(self.stem(images))
        middle = self.stage16(fine)
        return fine, middle, self.stage32(middle)


class Neck(nn.Module):
    """Passes features from coarse to fine levels and back; 64 channels per level."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lateral32, self.lateral16 = Block(128, width, 1), Block(128, width, 1)
        self.down16, self.down8 = Block(2 * width, width), Block(2 * width, width)
        self.shrink8, self.shrink16 = Block(width, width, stride=2), Block(width, width, stride=2)
        self.up16, self.up32 = Block(2 * width, width), Block(2 * width, width)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        coarse = self.lateral32(coarse)
        middle = self.down16(torch.cat([self.lateral16(middle), _double(coarse)], 1))
        fine = self.down8(torch.cat([fine, _double(middle)], 1))
        middle = self.up16(torch.cat([self.shrink8(fine), middle], 1))
        coarse = self.up32(torch.cat([self.shrink16(middle), coarse], 1))
        return [fine, middle, coarse]


class Distances(nn.Module):
    """The expected value of each side's distribution: [B, BINS, 4, N] logits to [B, 4, N] in strides."""

    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1), False)

    def forward(self, logits: Tensor) -> Tensor:
        mean = functional.conv2d(logits.softmax(1), self.bins)
        return mean.reshape(logits.shape[0], 4, logits.shape[3])


class Head(nn.Module):
    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.box = nn.ModuleList(Block(width, width) for _ in STRIDES)
        self.box_out = nn.ModuleList(nn.Conv2d(width, 4 * BINS, 1) for _ in STRIDES)
        self.classes = nn.ModuleList(Block(width, width) for _ in STRIDES)
        self.class_out = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in STRIDES)
        for stride, layer in zip(STRIDES, self.class_out, strict=True):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.constant_(layer.bias, math.log(10 / classes / (320 / stride) ** 2))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(side distributions [B, BINS, 4, N], class logits [B, classes, N])."""
        boxes, scores = [], []
        for i, x in enumerate(levels):
            count = x.shape[2] * x.shape[3]
            boxes.append(self.box_out[i](self.box[i](x)).reshape(x.shape[0], BINS, 4, count))
            scores.append(self.class_out[i](self.classes[i](x)).reshape(x.shape[0], -1, count))
        return torch.cat(boxes, 3), torch.cat(scores, 2)


class Detector(nn.Module):
    """`forward` in training: the head's raw outputs. In evaluation: [B, 4 + classes, N] in YOLOv8's layout: center x,
    center y, width, height in input pixels, then class scores 0..1.
    """

    points: Tensor
    strides: Tensor

    def __init__(self, classes: int, size: int = 320) -> None:
        super().__init__()
        self.size, self.classes = size, classes
        self.backbone, self.neck, self.head = Backbone(), Neck(), Head(classes)
        self.distances = Distances()
        points, strides = grid(size)
        self.register_buffer("points", points, False)
        self.register_buffer("strides", strides, False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        logits, scores = self.head(self.neck(*self.backbone(images)))
        if self.training:
            return logits, scores
        near, far = self.distances(logits).split(2, 1)
        centre = self.points + (far - near) * (self.strides * 0.5)
        size = (near + far) * self.strides
        return torch.cat([centre, size, scores.sigmoid()], 1)

    def boxes(self, logits: Tensor) -> Tensor:
        """Convert side distributions [B, BINS, 4, N] to xyxy [B, N, 4] in input pixels."""
        near, far = (self.distances(logits) * self.strides).split(2, 1)
        return torch.cat([self.points - near, self.points + far], 1).transpose(1, 2)

    def fuse(self) -> Detector:
        """Fold every batch norm. Only for evaluation and export."""
        for module in self.modules():
            if isinstance(module, Block):
                module.fuse()
        return self


def grid(size: int) -> tuple[Tensor, Tensor]:
    """Return the cell centers of all levels, [1, 2, N] in pixels, and their strides [1, 1, N]."""
    points, strides = [], []
    for stride in STRIDES:
        count = size // stride
        middles = (torch.arange(count) + 0.5) * stride
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, count * count), float(stride)))
    return torch.cat(points, 1)[None], torch.cat(strides, 1)[None]


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")

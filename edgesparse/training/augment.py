"""Augmentation on the training device: mild, or strong with mosaics, color and noise.

The teacher sees the same images as the student, so they need not look natural, only varied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PAD = 114.0
"""The gray that letterboxes are padded with."""
MOSAIC = 0.6
"""Share of the images that are mosaics of four."""


@dataclass(frozen=True)
class View:
    """How far an image may be moved: least and largest scale and ratio of width to height, and the largest shift, of
    which 1 is half of the image.
    """

    scale: tuple[float, float]
    stretch: tuple[float, float]
    shift: float


STRONG = View((0.4, 1.8), (0.85, 1.18), 0.5)
MILD = View((0.7, 1.4), (1.0, 1.0), 0.25)
LIGHT = (0.7, 1.3)
"""The least and the largest brightness of a mildly changed image."""


def augmented(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` augmented images [count, 3, H, W], float32 0..255, of images uint8 [N, 3, H, W]."""
    views = torch.stack([_views(images, count, generator, STRONG) for _ in range(4)])
    corner = _uniform((count, 2, 1, 1), 0.25, 0.75, generator, images)
    alone = _uniform((count, 1, 1, 1), 0, 1, generator, images) > MOSAIC
    corner = torch.where(alone, torch.ones_like(corner), corner)
    height, width = images.shape[2:]
    rows = torch.linspace(0, 1, height, device=images.device).reshape(1, height, 1) < corner[:, 0]
    columns = torch.linspace(0, 1, width, device=images.device).reshape(1, 1, width) < corner[:, 1]
    quarter = (~rows).long() * 2 + (~columns).long()
    mixed = torch.gather(views, 0, quarter[None, :, None].expand(1, count, 3, height, width))[0]
    return _colored(mixed, generator)


def mixed(images: Tensor, count: int, strong: int, generator: torch.Generator) -> Tensor:
    """Return `count` images as `varied` does, but the first `strong` as `augmented` does."""
    if strong == 0:
        return varied(images, count, generator)
    if strong >= count:
        return augmented(images, count, generator)
    return torch.cat([augmented(images, strong, generator), varied(images, count - strong, generator)])


def varied(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` images [count, 3, H, W], float32 0..255, of images uint8 [N, 3, H, W], mildly changed: scaled,
    shifted, brighter or darker, and half of them mirrored.
    """
    views = _views(images, count, generator, MILD)
    return (views * _uniform((count, 1, 1, 1), *LIGHT, generator, images)).clamp(0, 255)


def _views(images: Tensor, count: int, generator: torch.Generator, view: View) -> Tensor:
    """Random images, each scaled, shifted and possibly mirrored."""
    chosen = torch.randint(len(images), (count,), generator=generator, device=images.device)
    low, high = torch.tensor(view.scale).log().tolist()
    zoom = _uniform((count,), low, high, generator, images).exp()
    mirror = torch.where(_uniform((count,), 0, 1, generator, images) < 0.5, -1.0, 1.0)
    stretch = _uniform((count,), *view.stretch, generator, images)
    shift = _uniform((count, 2), -view.shift, view.shift, generator, images)
    zero = torch.zeros_like(zoom)
    matrix = torch.stack([
        torch.stack([mirror / zoom, zero, shift[:, 0]], 1),
        torch.stack([zero, stretch / zoom, shift[:, 1]], 1),
    ], 1)  # fmt: skip
    pixels = images[chosen].float() - PAD
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False) + PAD


def _colored(images: Tensor, generator: torch.Generator) -> Tensor:
    count = len(images)
    gain = _uniform((count, 3, 1, 1), 0.85, 1.15, generator, images)
    light = _uniform((count, 1, 1, 1), 0.55, 1.35, generator, images)
    gray = images.mean(1, keepdim=True)
    color = _uniform((count, 1, 1, 1), 0.4, 1.5, generator, images)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = _uniform((count, 1, 1, 1), 0.7, 1.3, generator, images)
    changed = ((gray + (images - gray) * color - mean) * contrast + mean) * gain * light
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    strength = _uniform((count, 1, 1, 1), 0, 6, generator, images)
    return (changed + noise * strength).clamp(0, 255)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator, like: Tensor) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=like.device)

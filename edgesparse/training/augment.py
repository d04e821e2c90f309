"""Augmentation on the training device: mirrored images, or strong: mosaics, scale, shift, flips, color, noise.

The teacher sees the same images as the student, so they need not look natural, only varied.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PAD = 114.0
"""The gray that letterboxes are padded with."""
SCALES = (0.4, 1.8)
"""Smallest and largest scale factor of an image."""
MOSAIC = 0.6
"""Share of the images that are mosaics of four."""


def augmented(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` augmented images [count, 3, H, W], float32 0..255, of images uint8 [N, 3, H, W]."""
    views = torch.stack([_views(images, count, generator) for _ in range(4)])
    corner = _uniform((count, 2, 1, 1), 0.25, 0.75, generator, images)
    alone = _uniform((count, 1, 1, 1), 0, 1, generator, images) > MOSAIC
    corner = torch.where(alone, torch.ones_like(corner), corner)
    height, width = images.shape[2:]
    rows = torch.linspace(0, 1, height, device=images.device).reshape(1, height, 1) < corner[:, 0]
    columns = torch.linspace(0, 1, width, device=images.device).reshape(1, 1, width) < corner[:, 1]
    quarter = (~rows).long() * 2 + (~columns).long()
    mixed = torch.gather(views, 0, quarter[None, :, None].expand(1, count, 3, height, width))[0]
    return _colored(mixed, generator)


def mirrored(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` images [count, 3, H, W], float32 0..255, of images uint8 [N, 3, H, W], half of them mirrored."""
    chosen = images[torch.randint(len(images), (count,), generator=generator, device=images.device)].float()
    mirror = _uniform((count, 1, 1, 1), 0, 1, generator, chosen) < 0.5
    return torch.where(mirror, chosen.flip(3), chosen)


def _views(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random images, each scaled, shifted and possibly flipped."""
    chosen = torch.randint(len(images), (count,), generator=generator, device=images.device)
    low, high = torch.tensor(SCALES).log().tolist()
    zoom = _uniform((count,), low, high, generator, images).exp()
    mirror = torch.where(_uniform((count,), 0, 1, generator, images) < 0.5, -1.0, 1.0)
    stretch = _uniform((count,), 0.85, 1.18, generator, images)
    shift = _uniform((count, 2), -0.5, 0.5, generator, images)
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

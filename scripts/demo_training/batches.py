"""Training images in device memory as uint8, and augmented batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from demo_training.data import MOST, PAD, SIZE, Order, Stills
from demo_training.loss import area

SMALLEST = 0.3  # share of a box's area that must be inside the image, or the box is dropped


@dataclass(frozen=True)
class Batch:
    """`images` float [B, 3, SIZE, SIZE] 0..1, `boxes` [B, MOST, 4] xyxy pixels, `classes` [B, MOST] (-1: padding)."""

    images: Tensor
    boxes: Tensor
    classes: Tensor


class Album:
    """The scenes drawn so far. `fill` adds those that are ready, so that training need not wait for all of them."""

    def __init__(self, order: Order, capacity: int, device: torch.device) -> None:
        self._order = order
        self._images = torch.empty(capacity, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        self._boxes = torch.zeros(capacity, MOST, 4, device=device)
        self._classes = torch.full((capacity, MOST), -1, dtype=torch.int64, device=device)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def fill(self, at_least: int = 0) -> None:
        """Add the scenes that are ready; wait until there are `at_least`."""
        for stills in self._order.ready():
            self._add(stills)
        while len(self) < at_least and self._order.pending:
            self._add(self._order.next())

    def batch(self, size: int, random: torch.Generator, strength: float) -> Batch:
        """Return `size` random augmented scenes; `strength`, 0..1, is the share that is also scaled, shifted and
        mirrored.
        """
        index = torch.randint(self._count, (size,), generator=random, device=random.device)
        images = self._images[index].float().div_(255)
        batch = Batch(images, self._boxes[index], self._classes[index])
        if strength:
            batch = moved(batch, random, strength)
        return Batch(tinted(batch.images, random), batch.boxes, batch.classes)

    def _add(self, stills: Stills) -> None:
        low, high = self._count, min(self._count + len(stills), len(self._images))
        count = high - low
        self._images[low:high] = torch.from_numpy(stills.images[:count])
        self._boxes[low:high] = torch.from_numpy(stills.boxes[:count])
        self._classes[low:high] = torch.from_numpy(stills.classes[:count])
        self._count = high


def moved(batch: Batch, random: torch.Generator, share: float) -> Batch:
    """Mirror, scale (0.7 to 1.4) and shift (up to a tenth) a share of the images, with their boxes."""
    count, device = len(batch.images), batch.images.device
    uniform = torch.rand(6, count, generator=random, device=device)
    chosen = uniform[0] < share
    scale = torch.where(chosen, torch.exp((uniform[1] * 2 - 1) * 0.35), 1.0)
    shift = torch.where(chosen, (uniform[2:4] * 2 - 1) * 0.1, 0.0)
    mirror = torch.where((uniform[4:6] < 0.5) & chosen, -1.0, 1.0)
    gain = (mirror * scale).T
    # The image at u shows the point (u - shift) / gain, both relative to the center in half sides.
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = (1 / gain).unbind(1)
    theta[:, :, 2] = -2 * shift.T / gain
    places = functional.affine_grid(theta, list(batch.images.shape), align_corners=False)
    gray = PAD / 255
    images = functional.grid_sample(batch.images - gray, places, align_corners=False) + gray
    middle = SIZE / 2
    corners = (batch.boxes.view(count, MOST, 2, 2) - middle) * gain[:, None, None]
    corners = corners + middle + shift.T[:, None, None] * SIZE
    whole = torch.cat([corners.amin(2), corners.amax(2)], 2)
    boxes = whole.clamp(0, SIZE)
    kept = area(boxes) > SMALLEST * area(whole)
    return Batch(images, boxes, torch.where(kept, batch.classes, -1))


def tinted(images: Tensor, random: torch.Generator) -> Tensor:
    """Vary brightness, contrast, saturation and white balance of each image."""
    count = len(images)
    uniform = torch.rand(count, 6, 1, 1, generator=random, device=images.device) * 2 - 1
    light, contrast, colour = 1 + 0.2 * uniform[:, :1], 1 + 0.2 * uniform[:, 1:2], 1 + 0.3 * uniform[:, 2:3]
    gray = images.mean(1, keepdim=True)
    mean = gray.mean((2, 3), keepdim=True)
    images = gray + (images - gray) * colour
    images = ((images - mean) * contrast + mean * light) * (1 + 0.06 * uniform[:, 3:])
    return images.clamp_(0, 1)

"""One part on the belt: rotated, lit and scaled, with its shadow, and drawn onto an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.demo.light import SIDE, Light
from edgesparse.demo.parts import model

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pose:
    """How a part is drawn: `longest` side in pixels, `angle` in radians, `slant`: the tilt of its surface."""

    class_id: int
    variant: int
    longest: float
    angle: float
    slant: tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """A part before lighting. `maps` uint8 [2h,2w,4]: its model's channels, rotated; `cover` uint8 [h,w];
    `mask` bool [h,w], the silhouette: at least half covered."""

    pose: Pose
    maps: Bytes
    cover: Bytes
    mask: Mask


@dataclass(frozen=True)
class Sprite:
    """`colour` uint8 BGR [h,w,3], already multiplied by `cover` uint8 [h,w]. `shade` uint8 [h+2m,w+2m]: the light
    that the shadow removes, `margin` m pixels wider on all sides."""

    colour: Bytes
    cover: Bytes
    shade: Bytes
    margin: int


def draw_outline(pose: Pose) -> Outline:
    maps = _turned(pose)
    cover = np.asarray(cv2.resize(maps[..., 3], _half(maps), interpolation=cv2.INTER_AREA), np.uint8)
    return Outline(pose, maps, cover, cover > 127)


def draw_sprite(outline: Outline, light: Light, matcap: Bytes) -> Sprite:
    """Return the outline under `light`, in a metal with this matcap; see Light.matcap."""
    maps = outline.maps
    colour = _lit(maps, outline.pose, matcap)
    weight = cv2.cvtColor(cv2.multiply(maps[..., 2], maps[..., 3], scale=1 / 255), cv2.COLOR_GRAY2BGR)
    cv2.multiply(colour, weight, colour, 1 / 255)
    colour = np.asarray(cv2.resize(colour, _half(maps), interpolation=cv2.INTER_AREA), np.uint8)
    return Sprite(colour, outline.cover, _shadow(outline, light), shadow_reach(outline.pose, light))


def shadow_reach(pose: Pose, light: Light) -> int:
    """Return how far from its outline a part's shadow is visible, in pixels."""
    rise = _rise(pose)
    return math.ceil(max(abs(component * rise) for component in light.shadow) + 6 + rise * 0.5)


def _rise(pose: Pose) -> float:
    return model(pose.class_id, pose.variant).rise * pose.longest


def _half(maps: Bytes) -> tuple[int, int]:
    return maps.shape[1] // 2, maps.shape[0] // 2


def _turned(pose: Pose) -> Bytes:
    """Return the part's maps, rotated and scaled to twice the final size, with an even number of rows and columns."""
    shape = model(pose.class_id, pose.variant)
    scale = 2 * pose.longest / shape.longest
    level = 0
    while level + 1 < len(shape.levels) and scale * 2 ** (level + 1) <= 1:
        level += 1
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    reach = [half * scale for half in shape.half]
    wide = 2 * math.ceil(abs(reach[0] * cos) + abs(reach[1] * sin) + 3)
    high = 2 * math.ceil(abs(reach[0] * sin) + abs(reach[1] * cos) + 3)
    step = 1 / (scale * 2**level)
    return _sample(shape.levels[level], cos * step, sin * step, wide, high)


def _sample(source: Bytes, right: float, down: float, wide: int, high: int) -> Bytes:
    """Return uint8 [high,wide,4]: `source` around its center, where a pixel to the right is (right, -down) pixels of
    `source`. Steps are whole numbers of 1/32768 pixel: warpAffine is faster, but its float steps depend on the SIMD
    level.
    """
    middle = source.shape[0] - 1
    a, b = round(right * 32768), round(down * 32768)
    x = (2 * np.arange(wide, dtype=np.int32) - (wide - 1))[None, :]
    y = (2 * np.arange(high, dtype=np.int32) - (high - 1))[:, None]
    at = np.stack([a * x + b * y, a * y - b * x], axis=-1)  # in 1/65536 pixel, from the center
    at = (at + (middle * 32768 + 1024)) >> 11  # in 1/32 pixel, from the corner
    whole = (at >> 5).astype(np.int16)
    part = ((at[..., 1] & 31) * 32 + (at[..., 0] & 31)).astype(np.uint16)
    bare = (128, 128, 255, 0)
    turned = cv2.remap(source, whole, part, cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, bare)
    return np.asarray(turned, np.uint8)


def _lit(maps: Bytes, pose: Pose, matcap: Bytes) -> Bytes:
    """Look up each normal in the matcap; the bow adds how a near light varies across a flat face."""
    nx = maps[..., 0].astype(np.float32) - np.float32(128)
    ny = maps[..., 1].astype(np.float32) - np.float32(128)
    cos, sin = np.float32(math.cos(pose.angle)), np.float32(math.sin(pose.angle))
    high, wide = nx.shape
    bow = 26.0 / max(high, wide)
    across = ((np.arange(wide) - wide / 2) * bow + 127 * pose.slant[0] + 128).astype(np.float32)
    down = ((np.arange(high) - high / 2) * bow + 127 * pose.slant[1] + 128).astype(np.float32)
    column = np.clip(cos * nx - sin * ny + across[None, :], 0, SIDE - 1).astype(np.int32)
    row = np.clip(sin * nx + cos * ny + down[:, None], 0, SIDE - 1).astype(np.int32)
    lit: Bytes = matcap.reshape(-1, 3).take(row * SIDE + column, axis=0)
    return lit


def _shadow(outline: Outline, light: Light) -> Bytes:
    """Return a tight dark shadow where the part touches the belt, and a wide one cast away from the light."""
    rise, margin = _rise(outline.pose), shadow_reach(outline.pose, light)
    dx, dy = (component * rise for component in light.shadow)
    wide = cv2.copyMakeBorder(outline.cover, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0,))
    near = cv2.GaussianBlur(wide, (0, 0), 2.0)
    far = np.zeros_like(wide)
    for share in (0.4, 0.9):
        sx, sy = round(dx * share), round(dy * share)
        moved = np.roll(wide, (sy, sx), axis=(0, 1))
        np.maximum(far, moved, out=far)
    far = np.asarray(cv2.GaussianBlur(far, (0, 0), 1.5 + rise * 0.12), np.uint8)
    near, far = cv2.multiply(near, near, scale=0.6 / 255), cv2.multiply(far, far, scale=0.55 / 255)
    return np.asarray(cv2.max(near, far), np.uint8)


def lies(outline: Outline, y: int, height: int) -> Mask:
    """Return the silhouette, bool [h,w], of a part whose top is at `y`; False outside rows 0..height."""
    rows = np.arange(y, y + outline.mask.shape[0])
    return outline.mask & ((rows >= 0) & (rows < height))[:, None]


def lay(sprite: Sprite, canvas: Bytes, x: int, y: int) -> None:
    """Draw the sprite with its corner at (x, y) of a canvas uint8 [H,W,3], clipped at the edges."""
    m = sprite.margin
    spot, cut = _overlap(canvas, x - m, y - m, sprite.shade.shape)
    if spot.size:
        cv2.multiply(spot, cv2.cvtColor(255 - sprite.shade[cut], cv2.COLOR_GRAY2BGR), spot, 1 / 255)
    spot, cut = _overlap(canvas, x, y, sprite.cover.shape)
    if spot.size:
        cv2.multiply(spot, cv2.cvtColor(255 - sprite.cover[cut], cv2.COLOR_GRAY2BGR), spot, 1 / 255)
        cv2.add(spot, sprite.colour[cut], spot)


def _overlap(canvas: Bytes, x: int, y: int, shape: tuple[int, ...]) -> tuple[Bytes, tuple[slice, slice]]:
    """Return the part of the canvas under a patch at (x, y), and the same part of the patch."""
    left, top = max(-x, 0), max(-y, 0)
    right, bottom = min(shape[1], canvas.shape[1] - x), min(shape[0], canvas.shape[0] - y)
    cut = slice(top, max(bottom, top)), slice(left, max(right, left))
    return canvas[y + cut[0].start : y + cut[0].stop, x + cut[1].start : x + cut[1].stop], cut

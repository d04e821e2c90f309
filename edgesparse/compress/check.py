"""Whether a rewritten network detects what the original does: all boxes and scores, on an image of noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgesparse.backends.base import TensorSpec
from edgesparse.errors import ModelError
from edgesparse.model.activations import stream
from edgesparse.model.load import info
from edgesparse.model.wiring import Array
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head as head_of

MOST_PIXELS, MOST_SCORE = 0.5, 0.002
"""How much a rewritten network's boxes and scores may differ."""
RELATIVE = 1e-3
"""Relative tolerance for raw outputs and for boxes larger than the image."""


@dataclass(frozen=True)
class Change:
    """The largest difference between the boxes of two networks, in pixels, and between their scores.

    Without a head, `score` is the difference of the raw outputs, relative to their largest value.
    """

    pixels: float
    score: float

    @property
    def small(self) -> bool:
        return self.pixels <= MOST_PIXELS and self.score <= MOST_SCORE


class Original:
    """The outputs of the network before any rewrite. `head`: the head's name, None if no head reads the outputs."""

    def __init__(self, model: ModelProto, head: str) -> None:
        described = info(model)
        size = described.size
        shape = described.inputs[described.image]
        if size is None or None in shape:
            raise ModelError("the input has an open shape: fix it first")
        self._size = size
        noise = np.random.default_rng(0).random([n or 1 for n in shape], np.float32)
        # pixels 0 to 255 for the trainers that do not scale them
        self._image = noise if head == "auto" else _as_input(noise, head)
        outputs = self._run(model)
        self.head, self.headless_because = self._recognized(model, head, outputs)
        self._outputs = self._run(model)

    def change(self, model: ModelProto, head: str | None) -> Change:
        """The difference between the original's outputs and those of `model`, as `head` decodes them."""
        outputs = self._run(model)
        if head is not None:
            check(head, self._layout(outputs))
        if head is None or self.head is None:
            pairs = zip(self._outputs.values(), outputs.values(), strict=True)
            return Change(0.0, max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)) for a, b in pairs))
        (boxes, scores), (own, own_scores) = self._read(self._outputs, self.head), self._read(outputs, head)
        if boxes.shape != own.shape:
            return Change(np.inf, np.inf)
        allowed = np.maximum(1.0, RELATIVE / MOST_PIXELS * np.abs(boxes))
        return Change(float((np.abs(boxes - own) / allowed).max()), float(np.abs(scores - own_scores).max()))

    def _run(self, model: ModelProto) -> Mapping[str, Array]:
        return next(stream(model, lambda: [self._image], [value.name for value in model.graph.output]))

    def _recognized(self, model: ModelProto, head: str, outputs: Mapping[str, Array]) -> tuple[str | None, str]:
        layout = self._layout(outputs)
        try:
            if head != "auto":
                check(head, layout)
                return head, ""
            name = choose(layout, info(model).metadata, list(outputs.values()))
        except ModelError as error:
            return None, str(error)
        self._image = _as_input(self._image, name)
        return name, ""

    def _layout(self, outputs: Mapping[str, Array]) -> Layout:
        specs = tuple(TensorSpec(name, value.shape, value.dtype.name) for name, value in outputs.items())
        return Layout(specs, self._size)

    def _read(self, outputs: Mapping[str, Array], head: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        decode = head_of(head).decode(self._layout(outputs), 0.0, True)
        with np.errstate(over="ignore", invalid="ignore"):
            boxes, scores, _ = decode(list(outputs.values()), 0)
        return np.nan_to_num(boxes), scores


def _as_input(noise: NDArray[np.float32], head: str) -> NDArray[np.float32]:
    """Noise between 0 and 1, preprocessed as the trainers of `head` do it."""
    spec = head_of(head).convention
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    prepared: NDArray[np.float32] = (noise * np.float32(255 * spec.scale) - mean) / std
    return prepared

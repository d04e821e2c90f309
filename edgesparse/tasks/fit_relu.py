"""ReLU in place of smooth activations, as a choice of `fit`: where it allows 2:4 and INT8, and its networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesparse.builder.objects import object_masks
from edgesparse.compress.relu_places import places, with_relu_at
from edgesparse.compress.student import FITTED, POSITIONS, refitted
from edgesparse.int8.equalize import evenable
from edgesparse.model.activations import spread
from edgesparse.model.load import Model
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData
from edgesparse.tasks.inputs import ScoredModel


@dataclass(frozen=True)
class Swap:
    """ReLU in place of the activation that reads the tensor `place`; `change`: by it alone.

    `sparse`: the change by 2:4 in the layer in front; `int8`: by INT8 in depthwise layers behind it; each alone, by
    layer, where only ReLU allows that.
    """

    place: str
    change: float
    sparse: Mapping[str, float] = field(default_factory=dict)
    int8: Mapping[str, float] = field(default_factory=dict)


def evened_by_relu(model: Model) -> dict[str, str]:
    """Return the depthwise layers that read SiLU or HardSwish, and the tensor in front of that, where ReLU instead
    would let INT8 even out the channels (`equalize`).
    """
    smooth = places(model)
    relu = with_relu_at(model, smooth)
    producer = Wiring(relu.graph).producer
    readers = {name: producer[tensor].input[0] for tensor, names in evenable(relu).items() for name in names}
    return {name: place for name, place in readers.items() if place in smooth}


def relu_refitted(scored: ScoredModel, names: Collection[str], folder: Path, progress: Progress) -> Model:
    """Return the model with ReLU in place of the activations that read `names`, all layers refitted to it.

    It is the model itself if none of them is there. Layers stored in `folder` are not fitted again.
    """
    changed = with_relu_at(scored.model, names)
    if changed is scored.model:
        return scored.model
    images = spread(scored.images, FITTED)
    objects = object_masks(scored.model, images, scored.spec)
    progress("finding objects", 0, 0)
    data = FitData(images, PositionWeights.of(objects), scored.model, POSITIONS)
    return refitted(changed, data, folder, progress)

"""Where a student starts, before anything is trained: layers chosen for ReLU and 2:4, refitted, and set for INT8.

The functions are those of `prune --method reconstruct` and `quantize`. Layers are chosen by what ReLU and 2:4 change
together, each measured alone. Then all are refitted in one pass, 2:4 masks searched, each layer on the inputs that it
gets in the student, so that what passes its activation matches the original. In INT8, ranges are calibrated, channels
equalized and biases corrected last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgesparse.compress import relu_places
from edgesparse.compress.student import POSITIONS, StudentOptions, refitted, smooth_source, with_relu
from edgesparse.errors import ModelError
from edgesparse.int8.placement import Placement, QdqPlan, plan
from edgesparse.int8.quantize import shared_scales
from edgesparse.int8.recover import RecoverOptions, recover
from edgesparse.model.activations import Batches, spread
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Read
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.permute import permute
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData
from edgesparse.sparsity.reconstruct import ReconstructOptions, Task, least_sensitive

IMAGES = 512
"""The most images that layers are chosen and refitted on. At the coarsest stride, each has few positions."""
CALIBRATED = 160
"""The most images on which ranges for INT8 are calibrated."""


@dataclass(frozen=True)
class StartData:
    """What the start is measured and fitted on.

    `batches`: images as the networks take them, [1, 3, H, W] each. `objects`: yields where the original detects objects
    in such images, [1, H, W] from 0 to 1. `read`: what `ReferenceOutputs` compares. Measurements and layers that are
    stored in `folder` are not computed again.
    """

    batches: Batches
    objects: Callable[[Batches], Iterable[NDArray[np.float32]]]
    read: Read | None
    folder: Path

    @property
    def fitted(self) -> Batches:
        return spread(self.batches, IMAGES)


@dataclass(frozen=True)
class Start:
    """Both networks; `teacher` has its channels in the student's order. `rounding`: the values of a
    training.lessons.Lesson that say what is rounded to INT8, and from which scales. `equalized`: tensors whose channels
    are scaled in the student alone.
    """

    teacher: ModelProto
    student: ModelProto
    rounding: Mapping[str, Any] = field(default_factory=dict)
    equalized: Collection[str] = ()


def start(
    teacher: ModelProto, student: ModelProto | None, options: StudentOptions, data: StartData, progress: Progress
) -> Start:
    """Return the student's start, from `student` or from the teacher itself (None).

    Channels are reordered for 2:4, as `prune` does it, only if the teacher's can be too: if it is the student's
    original. Raises ModelError, SparsityError and CalibrationError.
    """
    original = student or teacher
    names, places = _chosen(original, options, data, progress)
    if names and student is None and not any(layer.sparse for layer in inspect(original).layers):
        original = ModelProto()
        original.CopyFrom(teacher)
        permute(original, names, progress)
        teacher = original
    changed = with_relu(original, places) if options.relu else original
    if options.relu or names:
        changed = _refitted(original, changed, names, data, progress)
    if not options.int8:
        return Start(teacher, changed)
    placement = placement_of(changed)
    some = spread(data.batches, CALIBRATED)
    recovered = recover(changed, some, RecoverOptions(placement=placement), progress=progress)
    qdq = plan(recovered.model, placement, recovered.keep)
    values = {**rounding(qdq), "scales": shared_scales(qdq, recovered.scales)}
    return Start(teacher, recovered.model, values, [each.tensor for each in recovered.report.equalized])


def sparse_work(model: ModelProto, options: StudentOptions) -> dict[str, float]:
    """Return the multiply-accumulates, by name, of the layers of `model` that may become 2:4: in INT8, those behind
    which no smooth activation remains, since no sparse INT8 kernel has one.

    Raises ModelError if they do not make up `options.sparse`.
    """
    eligible = {layer.name: float(layer.macs or 0) for layer in inspect(model).eligible}
    remains = _smooth(model) if options.int8 and not options.relu else {}
    gains = {name: macs for name, macs in eligible.items() if name not in remains}
    share = sum(gains.values()) / max(1.0, sum(eligible.values()))
    if share < options.sparse:
        raise ModelError(
            f"layers that can have a sparse INT8 kernel make up {share:.0%} of the multiply-accumulates that can be "
            f"2:4, needed {options.sparse:.0%}: ask for less, or add --relu, since none has SiLU behind it"
        )
    return gains


def _smooth(model: ModelProto) -> dict[str, str]:
    """The tensors that smooth activations read, by the name of the layer that computes them."""
    wiring = Wiring(model.graph)
    names = [name for node in model.graph.node if (name := smooth_source(wiring, node)) is not None]
    return {layer_name(wiring.producer[name]): name for name in names if name in wiring.producer}


def _chosen(
    model: ModelProto, options: StudentOptions, data: StartData, progress: Progress
) -> tuple[list[str], list[str] | None]:
    """Return the layers that become 2:4, and the tensors whose activation ReLU replaces, None for all."""
    gains = sparse_work(model, options) if options.sparse else {}
    changes: dict[str, float] | None = None
    also: dict[str, float] = {}
    smooth = _smooth(model)
    if 0 < options.relu < 1:
        changes = relu_places.measure(model, data.batches, data.read, data.folder / "relu", progress)
        also = {layer: changes[name] for layer, name in smooth.items() if name in changes}
        gains = {name: gain for name, gain in gains.items() if name not in smooth or name in also}
    names: list[str] = []
    if options.sparse:
        chosen = ReconstructOptions(share=options.sparse, gains=gains, also=also, state_dir=data.folder / "sparse")
        task = Task(read=data.read, objects=data.objects(data.fitted))
        names = least_sensitive(model, data.fitted, chosen, task, progress)
    if changes is None:
        return names, None
    needed = [smooth[name] for name in names if name in smooth]
    return names, relu_places.choose(model, changes, options.relu, needed)


def _refitted(
    original: ModelProto, changed: ModelProto, names: Collection[str], data: StartData, progress: Progress
) -> ModelProto:
    """Return `changed` with the layers `names` 2:4, and all refitted that differ from `original` or read what does."""
    progress("finding objects", 0, 0)
    weights = PositionWeights.of(data.objects(data.fitted))
    fit = FitData(data.fitted, weights, None if changed is original else original, POSITIONS)
    return refitted(changed, fit, data.folder / "refitted", progress, names)


def placement_of(student: ModelProto) -> Placement:
    """Where Q/DQ pairs go: directly after the layers if any layer is 2:4, since sparse kernels need that."""
    return "sparse" if any(layer.state == "sparse" for layer in inspect(student).layers) else "fuse"


def rounding(qdq: QdqPlan) -> dict[str, Any]:
    """Return those values of a training.lessons.Lesson that say what is rounded to INT8."""
    readers = {name: {node: sorted(places) for node, places in by.items()} for name, by in qdq.readers.items()}
    layers = [layer_name(kernel.node) for kernel in qdq.kernels]
    return {"readers": readers, "scales_of": qdq.scales_of, "int8_layers": layers}

"""Streams images through a model once and keeps a histogram per tensor, for any number of images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto

from edgesparse.config import InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.histograms import MagnitudeHistogram
from edgesparse.int8.representative import ImageStatistics
from edgesparse.model.activations import Batches, input_name, stream
from edgesparse.model.weights import LAYERS
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress, quiet

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass
class Observations:
    """What is kept of the images: a histogram per tensor, image statistics, and a hash of the data."""

    histograms: dict[str, MagnitudeHistogram]
    images: ImageStatistics
    data: str = ""
    batches: int = 0
    earlier: dict[str, MagnitudeHistogram] = field(default_factory=dict)
    """The histograms after `earlier_count` images, which are between a quarter and half of all."""
    earlier_count: int = 0
    _next: dict[str, MagnitudeHistogram] = field(default_factory=dict)
    _next_count: int = 0

    def add(self, batch: npt.NDArray[np.float32], values: Mapping[str, Array]) -> None:
        """Count the tensors of one batch. Raises CalibrationError for a tensor that has no range."""
        self.batches += 1
        self.images.add(batch)
        count = self.images.count
        for name, histogram in self.histograms.items():
            _count(histogram, name, values[name], count)
        if count >= 2 * self._next_count:
            self.earlier, self.earlier_count = self._next, self._next_count
            self._next = {name: histogram.copy() for name, histogram in self.histograms.items()}
            self._next_count = count


def observe(
    model: ModelProto,
    batches: Batches,
    names: Sequence[str],
    spec: InputSpec | None = None,
    progress: Progress = quiet,
) -> Observations:
    """Stream every image once and count each tensor's magnitudes. Raises what `calibrate` raises.

    `spec`: how pixels are converted to inputs, for the image statistics.
    """
    seen = Observations({name: MagnitudeHistogram() for name in names}, ImageStatistics(spec))
    entry, digest = input_name(model), hashlib.sha256()
    for values in stream(model, batches, [*names, entry]):
        feed(digest, values[entry])
        seen.add(values[entry], values)
        progress("calibrating", seen.images.count, 0)
    seen.data = digest.hexdigest()
    return seen


def activations(model: ModelProto) -> list[str]:
    """Return every float tensor that depends on the image, in order of execution: what TensorRT's table may list."""
    wiring, types = Wiring(model.graph), element_types(model)
    names = [input_name(model), *(name for node in model.graph.node for name in node.output if name)]
    return [name for name in names if types.get(name) in FLOATS and not wiring.is_constant(name)]


def layer_inputs(model: ModelProto) -> list[str]:
    """Return the non-constant tensors that convolutions and matrix products read, in order of execution."""
    wiring = Wiring(model.graph)
    names = (name for node in model.graph.node if node.op_type in LAYERS for name in node.input[:2] if name)
    return list(dict.fromkeys(name for name in names if not wiring.is_constant(name)))


def element_types(model: ModelProto) -> dict[str, int]:
    """Return the TensorProto type of each tensor, as far as ONNX can infer it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def resolve(model: ModelProto, tensors: Collection[str] | None) -> list[str]:
    """Check and return `tensors`, or `layer_inputs` for None. Raises CalibrationError for a name that is not an
    activation.
    """
    wiring = Wiring(model.graph)
    known = {value.name for value in model.graph.input if value.name not in wiring.stored} | set(wiring.producer)
    names = list(dict.fromkeys(layer_inputs(model) if tensors is None else tensors))
    for name in names:
        if name not in known or wiring.is_constant(name):
            near = get_close_matches(name, known, 1)
            hint = f": did you mean {near[0]!r}?" if near else ": edgesparse inspect lists the layers"
            raise CalibrationError(f"no activation tensor {name!r} in this model{hint}")
    if not names:
        raise CalibrationError("nothing to calibrate: the model has no convolution and no matrix product")
    return names


def _count(histogram: MagnitudeHistogram, name: str, value: Array, image: int) -> None:
    if value.dtype not in (np.float32, np.float16):
        raise CalibrationError(
            f"the tensor {name} is {value.dtype}: only float32 and float16 have a range; leave it out"
        )
    try:
        histogram.add(value)
    except ValueError as error:
        raise CalibrationError(
            f"the tensor {name} holds {error} at calibration image {image}: check the model and how it is fed"
        ) from None


def feed(digest: hashlib._Hash, batch: npt.NDArray[np.float32]) -> None:
    """Add a batch, its shape included, to the hash of the data."""
    digest.update(repr(batch.shape).encode())
    digest.update(np.ascontiguousarray(batch).data)

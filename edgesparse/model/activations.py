"""The tensors inside a model, by name: runs ONNX Runtime over batches, with memory for one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import islice
from math import prod
from os import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgesparse.errors import CalibrationError, ModelError
from edgesparse.model.layers import behind_selection
from edgesparse.model.size_inputs import size_values
from edgesparse.model.wiring import Array, Wiring

Batches = Callable[[], Iterable[npt.NDArray[np.float32]]]
"""Each call starts from the first batch: float32 [N, 3, H, W], as the model takes them."""


def stream(model: ModelProto, batches: Batches, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Yield the tensors `names`, even inner ones, for each batch. Raises CalibrationError for no or bad batches."""
    wiring = Wiring(model.graph)
    computed = [name for name in names if name not in wiring.stored and name in wiring.producer]
    observed = ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(ValueInfoProto(name=name) for name in computed if name not in wiring.outputs)
    session = _session(observed)
    entry, inputs = input_name(model), Inputs(model)
    for batch in checked(batches):
        # for ONNX Runtime an empty list of names means all outputs
        values = _run(session, computed, inputs.fill(batch)) if computed else []
        yield dict(zip(computed, values, strict=True)) | ({entry: batch} if entry in names else {})


def input_name(model: ModelProto) -> str:
    """Return the input that takes the images. Raises ModelError if there is none, or another input cannot be filled."""
    return Inputs(model).image


class Inputs:
    """The inputs of a model: `image`, and those to fill with the image size (`size_values`)."""

    def __init__(self, model: ModelProto) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        values = [value for value in model.graph.input if value.name not in stored]
        images = [v for v in values if len(values) == 1 or len(v.type.tensor_type.shape.dim) == 4]
        others = [value for value in values if value not in images]
        self._types = {v.name: np.dtype(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)) for v in values}
        self._shapes = {v.name: tuple(dim.dim_value for dim in v.type.tensor_type.shape.dim) for v in others}
        unknown = next((value.name for value in others if self._sizes(value.name, (1, 1)) is None), None)
        if len(images) != 1 or unknown is not None:
            reason = "one image input" if len(images) != 1 else f"{unknown} to be the images' sizes, N x 2 in int64"
            raise ModelError(
                f"the model has {len(values)} inputs ({', '.join(v.name for v in values)}): needed {reason}; "
                "export it with the image as its only input"
            )
        self.image: str = images[0].name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._types)

    def fill(self, batch: npt.NDArray[np.float32]) -> dict[str, Array]:
        """Return all inputs, by name, for a batch of images; sizes are those of the input."""
        feeds: dict[str, Array] = {}
        for name, kind in self._types.items():
            if name == self.image:
                feeds[name] = batch.astype(kind, copy=False)
            elif (values := self._sizes(name, (batch.shape[2], batch.shape[3]))) is not None:
                feeds[name] = np.broadcast_to(values, (len(batch), 2))
        return feeds

    def _sizes(self, name: str, size: tuple[int, int]) -> Array | None:
        shape = self._shapes[name]
        return size_values(name, shape, self._types[name].name, size) if len(shape) == 2 else None


def checked(batches: Batches) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the batches of one pass. Raises CalibrationError if there are none, or a batch is empty or not finite."""
    count = 0
    for count, batch in enumerate(batches(), 1):
        if not batch.size or not np.isfinite(batch).all():
            fault = "is empty" if not batch.size else "holds NaN or infinity"
            raise CalibrationError(f"calibration batch {count} {fault}: check how its images are read")
        yield batch
    if not count:
        raise CalibrationError("no calibration images: pass a folder with images, 100 or more for a good result")


def stride(batches: Batches, count: int) -> int:
    """Return the step that selects at most `count` of the batches, spread evenly over all."""
    return max(1, -(-sum(1 for _ in batches()) // count))


def spread(batches: Batches, count: int) -> Batches:
    """Return at most `count` of the batches, spread evenly over all."""
    return lambda: islice(iter(batches()), 0, None, stride(batches, count))


class Tape:
    """Runs a model segment by segment, each segment over every batch.

    Tensors that later segments read are stored as files in `folder`, so that memory holds one batch for any number of
    batches; weights changed between two segments take effect from there on. The files are FP16 where the values allow
    it.
    """

    def __init__(self, model: ModelProto, folder: Path) -> None:
        self.model = model
        self.wiring = wiring = Wiring(model.graph)
        self.nodes = [node for node in model.graph.node if not all(wiring.is_constant(o) for o in node.output if o)]
        self.behind_selection = behind_selection(wiring)
        self._folder = folder
        self._types: dict[str, np.dtype[Any]] = {}
        self._written: dict[str, list[tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        """(shape, dtype in the file) of each batch, by tensor."""
        self._files: dict[str, str] = {}
        self._at = 0
        self.count = 0

    def load(self, batches: Batches) -> str:
        """Write the batches as the model's input. Returns their sha256."""
        digest, inputs = hashlib.sha256(), Inputs(self.model)
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._open(name)) for name in inputs.names}
            for batch in checked(batches):
                digest.update(repr(batch.shape).encode() + np.ascontiguousarray(batch).tobytes())
                for name, value in inputs.fill(batch).items():
                    self._write(files[name], name, value)
                self.count += 1
        return digest.hexdigest()

    def run_to(self, stop: int, keep: Sequence[str] = ()) -> None:
        """Run `nodes` up to, but excluding, `stop`; the tensors `keep` stay readable even if never read later."""
        segment, rest = self.nodes[self._at : stop], self.nodes[stop:]
        later = {name for node in rest for name in node.input} | self.wiring.outputs | set(keep)
        if segment:
            self._run(segment, later)
        self._at = max(self._at, stop)
        for name in [name for name in self._types if name not in later]:
            self._path(name).unlink()
            del self._types[name], self._written[name]

    def read(self, name: str, step: int = 1, first: int = 0) -> Iterator[Array]:
        """Tensor `name` of every `step`-th batch in turn, without the `first` of these."""
        with self._path(name).open("rb") as file:
            for i, (shape, kind) in enumerate(self._written[name]):
                if i % step or i < first * step:
                    file.seek(prod(shape) * kind.itemsize, SEEK_CUR)
                    continue
                value: Array = np.fromfile(file, kind, prod(shape)).reshape(shape)
                yield _cast(value, TensorProto.FLOAT) if kind != self._types[name] else value

    def rest(self, start: int, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Yield the tensors `names` for each batch, after running all nodes from `start` on without moving the tape.

        The inputs of those nodes must still be stored.
        """
        nodes = self.nodes[start:]
        outputs = {name for node in nodes for name in node.output}
        reads = sorted({name for node in nodes for name in node.input if name in self._types} - outputs)
        computed = [name for name in names if name in outputs]
        session = _session(self._part(nodes, reads, computed))
        stored = [name for name in names if name not in outputs]
        for feeds, others in zip(self._feeds(reads), self._feeds(stored), strict=True):
            values = others | dict(zip(computed, _run(session, computed, feeds), strict=True))
            yield {name: values[name] for name in names}

    def _run(self, segment: Sequence[NodeProto], later: set[str]) -> None:
        outputs = [name for node in segment for name in node.output if name in later]
        reads = sorted({name for node in segment for name in node.input if name in self._types})
        session = _session(self._part(segment, reads, outputs))
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._open(name)) for name in outputs}
            for feeds in self._feeds(reads):
                for name, value in zip(outputs, _run(session, outputs, feeds), strict=True):
                    self._write(files[name], name, value)

    def _feeds(self, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """For each batch the tensors `names`."""
        tensors = [self.read(name) for name in names]
        return (dict(zip(names, map(next, tensors), strict=True)) for _ in range(self.count))

    def _part(self, segment: Sequence[NodeProto], reads: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """Return the nodes of `segment`, with all constants that they need, as a separate model."""
        nodes, stored = self._with_constants(segment)
        graph = helper.make_graph(
            nodes,
            "segment",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self._types[n]), None) for n in reads],
            [ValueInfoProto(name=name) for name in outputs],
            stored,
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _with_constants(self, segment: Sequence[NodeProto]) -> tuple[list[NodeProto], list[TensorProto]]:
        initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        before: dict[str, NodeProto] = {}
        stored: dict[str, TensorProto] = {}
        todo = [name for node in segment for name in node.input if name]
        while todo:
            name = todo.pop()
            if name in initializers:
                stored[name] = initializers[name]
            elif name not in before and name in self.wiring.producer and self.wiring.is_constant(name):
                before[name] = self.wiring.producer[name]
                todo.extend(i for i in before[name].input if i)
        constant = {id(node) for node in before.values()}
        return [n for n in self.model.graph.node if id(n) in constant] + list(segment), list(stored.values())

    def _path(self, name: str) -> Path:
        return self._folder / self._files.setdefault(name, str(len(self._files)))

    def _open(self, name: str) -> BinaryIO:
        self._written[name] = []
        return self._path(name).open("wb")

    def _write(self, file: BinaryIO, name: str, value: Array) -> None:
        """Append one batch of tensor `name` to `file`."""
        self._types[name] = value.dtype
        if value.dtype == np.float32:
            half = _cast(value, TensorProto.FLOAT16)
            value = half if _finite(half) else value
        self._written[name].append((value.shape, value.dtype))
        file.write(np.ascontiguousarray(value).data)


def _cast(values: Array, kind: int) -> Array:
    """Convert float32 to float16 or back with ONNX Runtime: NumPy takes up to ten times as long."""
    result: Array = _caster(kind).run(None, {"x": values})[0]
    return result


@cache
def _caster(kind: int) -> ort.InferenceSession:
    other = TensorProto.FLOAT16 if kind == TensorProto.FLOAT else TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, k, None) for name, k in (("x", other), ("y", kind)))
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=kind)], "cast", [x], [y])
    return _session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def _finite(half: Array) -> bool:
    """Whether all float16 values are finite, by their bits."""
    return bool((half.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)


def _session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # short runs alternate with NumPy, which would lose cores to spinning threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as backends.onnxruntime does
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from None


def _run(session: ort.InferenceSession, names: list[str], feeds: dict[str, Array]) -> list[Array]:
    try:
        values: list[Array] = session.run(names, feeds)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise CalibrationError(f"ONNX Runtime cannot run the model on {shapes}: {_first_line(error)}") from None
    return values


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

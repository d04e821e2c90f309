"""What flows through a model: ONNX Runtime over batches, tensors by name, memory bounded by one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgesparse.errors import CalibrationError, ModelError
from edgesparse.model.wiring import Array, Wiring

Batches = Callable[[], Iterable[npt.NDArray[np.float32]]]
"""Each call starts anew: batches N x 3 x H x W as the model takes them, float32."""


def stream(model: ModelProto, batches: Batches, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """For each batch the tensors of `names`, inner ones too. Raises CalibrationError without or at bad batches."""
    wiring = Wiring(model.graph)
    wanted = [name for name in names if name not in wiring.stored and name in wiring.producer]
    seen = ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name not in wiring.outputs)
    session = _session(seen)
    entry, kind = input_name(model), _input_type(model)
    for batch in checked(batches):
        # ONNX Runtime takes no names for all outputs
        values = _run(session, wanted, {entry: batch.astype(kind, copy=False)}) if wanted else []
        yield dict(zip(wanted, values, strict=True)) | ({entry: batch} if entry in names else {})


def input_name(model: ModelProto) -> str:
    """The model's only input. Raises ModelError where it has another number of them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in stored]
    if len(names) != 1:
        raise ModelError(
            f"the model has {len(names)} inputs ({', '.join(names)}): calibration needs one with one input"
        )
    return names[0]


def _input_type(model: ModelProto) -> np.dtype[Any]:
    name = input_name(model)
    kind = next(value.type.tensor_type.elem_type for value in model.graph.input if value.name == name)
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def checked(batches: Batches) -> Iterator[npt.NDArray[np.float32]]:
    """The batches of one pass. Raises CalibrationError where there are none, or one is empty or not finite."""
    count = 0
    for count, batch in enumerate(batches(), 1):
        if not batch.size or not np.isfinite(batch).all():
            found = "is empty" if not batch.size else "holds NaN or infinity"
            raise CalibrationError(f"calibration batch {count} {found}: check how its images are read")
        yield batch
    if not count:
        raise CalibrationError("no calibration images: give a folder with some, 100 or more for a good result")


def stride(batches: Batches, count: int) -> int:
    """One of how many batches makes at most `count`, evenly over all."""
    return max(1, -(-sum(1 for _ in batches()) // count))


def spread(batches: Batches, count: int) -> Batches:
    """At most `count` of the batches, evenly over all."""
    return lambda: islice(iter(batches()), 0, None, stride(batches, count))


class Tape:
    """A network that is run stretch by stretch, each over every batch.

    What later stretches still read waits in files in `folder`, so memory holds one batch whatever their number, and
    weights that change between two stretches count from there on. Half precision is used for the files where the
    values allow it.
    """

    def __init__(self, model: ModelProto, folder: Path) -> None:
        self.model = model
        self.wiring = wiring = Wiring(model.graph)
        self.nodes = [node for node in model.graph.node if not all(wiring.is_constant(o) for o in node.output if o)]
        self._folder = folder
        self._types: dict[str, np.dtype[Any]] = {}
        self._held: dict[str, list[tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        self._files: dict[str, str] = {}
        self._at = 0
        self.count = 0

    def load(self, batches: Batches) -> str:
        """Take in the batches; returns their sha256."""
        digest, entry, kind = hashlib.sha256(), input_name(self.model), _input_type(self.model)
        with self._open(entry) as file:
            for batch in checked(batches):
                digest.update(repr(batch.shape).encode() + np.ascontiguousarray(batch).tobytes())
                self._write(file, entry, batch.astype(kind, copy=False))
                self.count += 1
        return digest.hexdigest()

    def run_to(self, stop: int, keep: Sequence[str] = ()) -> None:
        """Run `nodes` up to, but without, `stop`; tensors of `keep` stay readable though no later node reads them."""
        stretch, rest = self.nodes[self._at : stop], self.nodes[stop:]
        later = {name for node in rest for name in node.input} | self.wiring.outputs | set(keep)
        if stretch:
            self._run(stretch, later)
        self._at = max(self._at, stop)
        for name in [name for name in self._types if name not in later]:
            self._path(name).unlink()
            del self._types[name], self._held[name]

    def read(self, name: str) -> Iterator[Array]:
        """Tensor `name` of each batch in turn."""
        with self._path(name).open("rb") as file:
            for shape, kind in self._held[name]:
                value: Array = np.fromfile(file, kind, prod(shape)).reshape(shape)
                yield _cast(value, TensorProto.FLOAT) if kind != self._types[name] else value

    def rest(self, start: int, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """The tensors `names` that the nodes from `start` on make, for each batch.

        What those nodes read must be there still; the tape stays where it is.
        """
        nodes = self.nodes[start:]
        made = {name for node in nodes for name in node.output}
        reads = sorted({name for node in nodes for name in node.input if name in self._types} - made)
        wanted = [name for name in names if name in made]
        session = _session(self._part(nodes, reads, wanted))
        kept = [name for name in names if name not in made]
        for feeds, others in zip(self._feeds(reads), self._feeds(kept), strict=True):
            values = others | dict(zip(wanted, _run(session, wanted, feeds), strict=True))
            yield {name: values[name] for name in names}

    def _run(self, stretch: Sequence[NodeProto], later: set[str]) -> None:
        made = [name for node in stretch for name in node.output if name in later]
        reads = sorted({name for node in stretch for name in node.input if name in self._types})
        session = _session(self._part(stretch, reads, made))
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._open(name)) for name in made}
            for feeds in self._feeds(reads):
                for name, value in zip(made, _run(session, made, feeds), strict=True):
                    self._write(files[name], name, value)

    def _feeds(self, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """For each batch the tensors `names`."""
        tensors = [self.read(name) for name in names]
        return (dict(zip(names, map(next, tensors), strict=True)) for _ in range(self.count))

    def _part(self, stretch: Sequence[NodeProto], reads: Sequence[str], made: Sequence[str]) -> ModelProto:
        """The nodes of `stretch` with all the constants that they need, as a model of its own."""
        nodes, stored = self._with_constants(stretch)
        graph = helper.make_graph(
            nodes,
            "stretch",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self._types[n]), None) for n in reads],
            [ValueInfoProto(name=name) for name in made],
            stored,
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _with_constants(self, stretch: Sequence[NodeProto]) -> tuple[list[NodeProto], list[TensorProto]]:
        initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        before: dict[str, NodeProto] = {}
        stored: dict[str, TensorProto] = {}
        todo = [name for node in stretch for name in node.input if name]
        while todo:
            name = todo.pop()
            if name in initializers:
                stored[name] = initializers[name]
            elif name not in before and name in self.wiring.producer and self.wiring.is_constant(name):
                before[name] = self.wiring.producer[name]
                todo.extend(i for i in before[name].input if i)
        constant = {id(node) for node in before.values()}
        return [n for n in self.model.graph.node if id(n) in constant] + list(stretch), list(stored.values())

    def _path(self, name: str) -> Path:
        return self._folder / self._files.setdefault(name, str(len(self._files)))

    def _open(self, name: str) -> BinaryIO:
        self._held[name] = []
        return self._path(name).open("wb")

    def _write(self, file: BinaryIO, name: str, value: Array) -> None:
        """Append one batch of tensor `name` to its `file`."""
        self._types[name] = value.dtype
        if value.dtype == np.float32:
            half = _cast(value, TensorProto.FLOAT16)
            value = half if _finite(half) else value
        self._held[name].append((value.shape, value.dtype))
        file.write(np.ascontiguousarray(value).data)


def _cast(values: Array, kind: int) -> Array:
    """float32 to float16 or back: NumPy takes up to ten times as long."""
    made: Array = _caster(kind).run(None, {"x": values})[0]
    return made


@cache
def _caster(kind: int) -> ort.InferenceSession:
    other = TensorProto.FLOAT16 if kind == TensorProto.FLOAT else TensorProto.FLOAT
    given, made = (helper.make_tensor_value_info(name, k, None) for name, k in (("x", other), ("y", kind)))
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=kind)], "cast", [given], [made])
    return _session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def _finite(half: Array) -> bool:
    """Whether no float16 value is NaN or infinite, by its bits."""
    return bool((half.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)


def _session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # short runs in turn with numpy: threads that spin in wait would take numpy's cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as backends.onnxruntime runs Q/DQ
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

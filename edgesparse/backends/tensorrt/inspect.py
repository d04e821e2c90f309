"""Open a built plan, and read from TensorRT's engine inspector which kernels its layers run."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse.backends.base import EngineLayer
from edgesparse.backends.tensorrt.log import BuildLog, listener, log_file
from edgesparse.errors import BackendUnavailable, BuildError

SPARSE_KERNEL = re.compile(r"spars|sptensor|sp_?gemm|spmma", re.I)
"""Names of kernels that skip the zeros of 2:4 weights, in releases 8.5 to 11. `HasSparseWeights` only states that the
weights are 2:4, whatever kernel runs."""


@dataclass
class Plan:
    """An engine with the objects that must live as long as it does."""

    engine: Any
    runtime: Any
    log: BuildLog
    logger: Any

    @property
    def device_memory(self) -> int:
        """Bytes that an execution context needs in addition to the weights."""
        return device_memory(self.engine)


def open_plan(trt: Any, data: Any, name: str, dla: int | None = None) -> Plan:
    """Deserialize a plan from bytes or any buffer. A plan contains code: open only plans that this device built.

    Raises BuildError for a plan that is damaged or of another release, BackendUnavailable without a GPU.
    """
    log = BuildLog(copy_to=log_file())
    logger = listener(trt, log)
    try:
        runtime = trt.Runtime(logger)
    except TypeError:  # the binding's error for a null pointer
        raise BackendUnavailable(f"TensorRT {trt.__version__} does not start: {log.reason()}: run nvidia-smi") from None
    if dla is not None:
        runtime.DLA_core = dla
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BuildError(
            f"{name}: TensorRT {trt.__version__} cannot load it ({log.reason()}): build it again on this device "
            "with 'edgesparse build --force'"
        )
    return Plan(engine, runtime, log, logger)


def read_plan(trt: Any, path: Path, dla: int | None = None) -> Plan:
    """`open_plan` for a file, which is mapped rather than copied."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BuildError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}: build it again") from None
    return open_plan(trt, data, str(path), dla)


def device_memory(engine: Any) -> int:
    """Bytes of device memory that one execution context needs; its name differs between releases."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def information(trt: Any, engine: Any) -> str:
    """The engine inspector's JSON. Kernels have names only in plans that were built with details."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def parse(text: str, placed: Mapping[str, str] | None = None) -> tuple[EngineLayer, ...]:
    """Parse the inspector's JSON. `placed`: `dla` or `gpu` by layer name, from the build's log.

    Raises BuildError for other text.
    """
    try:
        rows = json.loads(text, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BuildError(f"the engine inspector did not return a list of layers: {text[:80]!r}") from None
    return tuple(_layer(row, placed or {}) for row in rows)


def onnx_names(name: str, metadata: str = "") -> tuple[str, ...]:
    """ONNX nodes that were fused into a layer: from its metadata, else from its name (`a + b`, `PWN(a, b)`, `a || b`,
    `{ForeignNode[a...b]}`)."""
    names = re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata)
    if names:
        return tuple(dict.fromkeys(names))
    if name.startswith(("Reformatting CopyNode", "Reformat")):
        return ()
    foreign = re.search(r"ForeignNode\[(.*?)\.\.\.(.*?)\]", name)
    if foreign:
        return tuple(dict.fromkeys(part.strip("()") for part in foreign.groups()))
    parts = re.split(r" \+ | \|\| |, ", re.sub(r"\bPWN\(|[(){}]", "", name))
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _layer(row: Any, placed: Mapping[str, str]) -> EngineLayer:
    if not isinstance(row, dict):  # a plan built without details has only names
        name = str(row)
        return EngineLayer(name, "", False, onnx_names(name), placed.get(name, "gpu"))
    name, kind = str(row.get("Name", "")), str(row.get("LayerType", ""))
    kernel = str(row.get("TacticName") or "")
    on_dla = kind.upper() == "DLA" or placed.get(name) == "dla"
    return EngineLayer(
        name=name,
        kernel=kernel or kind,
        sparse=bool(SPARSE_KERNEL.search(kernel)),
        onnx=onnx_names(name, str(row.get("Metadata") or "")),
        device="dla" if on_dla else "gpu",
        precision=_precision(row),
    )


_TYPES = (("int8", "int8"), ("fp8", "fp8"), ("bf16|bfloat16", "bf16"), ("fp16|half", "fp16"), ("fp32|float", "fp32"))


def _precision(row: Mapping[str, Any]) -> str:
    """The type of its weights, else of its first input; empty if neither is reported."""
    weights, inputs = row.get("Weights"), row.get("Inputs")
    dtype = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    if not dtype and isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        dtype = str(inputs[0].get("Format/Datatype") or inputs[0].get("Datatype") or "")
    return next((name for pattern, name in _TYPES if re.search(pattern, dtype, re.I)), "")

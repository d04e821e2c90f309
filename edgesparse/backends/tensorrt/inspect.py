"""A built plan: how it is opened, and what its layers really run, as TensorRT's engine inspector tells."""

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
"""Kernels that skip the zeros of 2:4 weights, in the names of releases 8.5 to 11. `HasSparseWeights` says less: only
that the weights are 2:4, whatever runs."""


@dataclass
class Plan:
    """An engine with what must live as long as it does."""

    engine: Any
    runtime: Any
    log: BuildLog
    logger: Any

    @property
    def device_memory(self) -> int:
        """Bytes that an execution context needs beside the weights."""
        return device_memory(self.engine)


def open_plan(trt: Any, data: Any, name: str, dla: int | None = None) -> Plan:
    """Deserialise a plan, bytes or any buffer. A plan is code: hand over only what this device built.

    Raises BuildError for one that is damaged or of another release, BackendUnavailable without a GPU.
    """
    log = BuildLog(copy_to=log_file())
    logger = listener(trt, log)
    try:
        runtime = trt.Runtime(logger)
    except TypeError:  # what the binding makes of a null pointer
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
    """`open_plan` of a file, which is mapped, not copied."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BuildError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}: build it again") from None
    return open_plan(trt, data, str(path), dla)


def device_memory(engine: Any) -> int:
    """Bytes of device memory that one execution context needs; releases name it differently."""
    found = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if found is None else found)


def layers(trt: Any, engine: Any, placed: Mapping[str, str] | None = None) -> tuple[EngineLayer, ...]:
    """What each layer of an engine runs. Kernels have names only in a plan that was built with detail."""
    inspector = engine.create_engine_inspector()
    return parse(inspector.get_engine_information(trt.LayerInformationFormat.JSON), placed or {})


def parse(text: str, placed: Mapping[str, str] | None = None) -> tuple[EngineLayer, ...]:
    """The inspector's JSON. `placed`: `dla` or `gpu` by layer name, as the build's log said.

    Raises BuildError when it is no such JSON.
    """
    try:
        said = json.loads(text, strict=False)
        found = said["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BuildError(f"the engine inspector's answer is no list of layers: {text[:80]!r}") from None
    return tuple(_layer(row, placed or {}) for row in found)


def onnx_names(name: str, metadata: str = "") -> tuple[str, ...]:
    """ONNX nodes that a layer was made of: from its metadata, else from its name (`a + b`, `PWN(a, b)`, `a || b`,
    `{ForeignNode[a...b]}`)."""
    told = re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata)
    if told:
        return tuple(dict.fromkeys(told))
    if name.startswith(("Reformatting CopyNode", "Reformat")):
        return ()
    foreign = re.search(r"ForeignNode\[(.*?)\.\.\.(.*?)\]", name)
    if foreign:
        return tuple(dict.fromkeys(part.strip("()") for part in foreign.groups()))
    parts = re.split(r" \+ | \|\| |, ", re.sub(r"\bPWN\(|[(){}]", "", name))
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _layer(row: Any, placed: Mapping[str, str]) -> EngineLayer:
    if not isinstance(row, dict):  # only its name, in a plan built without detail
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
    """Type of what it multiplies by: of its weights, else of its first input; empty where it is not told."""
    weights, inputs = row.get("Weights"), row.get("Inputs")
    said = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    if not said and isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        said = str(inputs[0].get("Format/Datatype") or inputs[0].get("Datatype") or "")
    return next((name for pattern, name in _TYPES if re.search(pattern, said, re.I)), "")

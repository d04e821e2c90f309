"""A network as TensorRT has parsed it, and what is known of the release: everything by name, nothing by number.

`trt` is the module of any release from 8.5 to 11, or of TensorRT-RTX. What one lacks is found with hasattr; enums are
renumbered between releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesparse.backends.base import BuildOptions, Precision
from edgesparse.backends.tensorrt.log import BuildLog, listener
from edgesparse.errors import BackendUnavailable, BuildError, ModelError

LEAST_SPARSE_SM = (8, 0)
"""Compute capability from which on tensor cores know 2:4 (Ampere)."""


def strongly_typed(trt: Any) -> bool:
    """Whether this release takes types from the ONNX alone: it has no flag for FP16."""
    return not hasattr(trt.BuilderFlag, "FP16")


def dense_because(sm: str) -> str | None:
    """Why a GPU of that compute capability has no 2:4 kernels; None when it has, or is not known."""
    found = tuple(int(part) for part in sm.split(".")) if sm else LEAST_SPARSE_SM
    least = ".".join(map(str, LEAST_SPARSE_SM))
    return None if found >= LEAST_SPARSE_SM else f"2:4 kernels need compute capability {least} or later, found {sm}"


@dataclass
class Session:
    """One build: TensorRT's objects, kept as long as they need each other."""

    trt: Any
    log: BuildLog
    logger: Any
    builder: Any
    network: Any
    parser: Any
    kept: list[Any] = field(default_factory=list)
    """Calibrators and monitors, which a config does not keep alive."""

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input, -1 where open."""
        tensors = (self.network.get_input(i) for i in range(self.network.num_inputs))
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    def layers(self) -> Iterator[Any]:
        return (self.network.get_layer(i) for i in range(self.network.num_layers))

    @property
    def quantised(self) -> bool:
        """Whether the model has Q/DQ nodes, which then say what is INT8."""
        kinds = (self.trt.LayerType.QUANTIZE, self.trt.LayerType.DEQUANTIZE)
        return any(layer.type in kinds for layer in self.layers())

    @property
    def half(self) -> bool:
        """Whether anything in the network is FP16 as it was parsed."""
        outputs = (layer.get_output(0) for layer in self.layers() if layer.num_outputs)
        return any(output is not None and output.dtype == self.trt.DataType.HALF for output in outputs)


def start_session(trt: Any, log: BuildLog) -> Session:
    """A builder and an empty network. Raises BackendUnavailable where TensorRT does not start."""
    logger = listener(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what the binding makes of a null pointer
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} does not start: {log.reason()}: 'nvidia-smi' must show a GPU and a driver "
            "of that release's CUDA"
        ) from None
    network = builder.create_network(_creation_flags(trt))
    return Session(trt, log, logger, builder, network, trt.OnnxParser(network, logger))


def parse(session: Session, onnx: Path) -> None:
    """Read the ONNX file, and weights beside it, into the network. Raises ModelError in the parser's words."""
    if session.parser.parse_from_file(str(onnx)):
        return
    errors = [session.parser.get_error(i) for i in range(session.parser.num_errors)]
    told = " ".join(errors[0].desc().split())[:300] if errors else session.log.reason()
    raise ModelError(f"{onnx.name}: TensorRT {session.trt.__version__} cannot read it: {told}")


def lowest(session: Session, options: BuildOptions) -> Precision:
    """The lowest precision that the plan will hold. Raises BuildError for one that the model must bring and lacks."""
    if session.quantised:
        return "int8"
    if not strongly_typed(session.trt):
        return options.precision
    if options.precision == "int8":
        raise BuildError(
            f"TensorRT {session.trt.__version__} takes INT8 from Q/DQ nodes alone and the model has none: "
            "quantise it with 'edgesparse quantize'"
        )
    if options.precision == "fp16" and not session.half:
        raise BuildError(f"TensorRT {session.trt.__version__} takes FP16 from the ONNX alone: convert the model first")
    return "fp16" if session.half else "fp32"


def _creation_flags(trt: Any) -> int:
    """Explicit batch where it must be asked for. Weak typing where there is a choice."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)

"""A parsed network, and the properties of a TensorRT release.

`trt` is the module of any release from 8.5 to 11, or of TensorRT-RTX. Missing features are detected with hasattr. Enums
are used by name, as their numbers change between releases.
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
"""The least compute capability with 2:4 tensor cores (Ampere)."""


def strongly_typed(trt: Any) -> bool:
    """Whether this release takes types from the ONNX file alone: it has no flag for FP16."""
    return not hasattr(trt.BuilderFlag, "FP16")


def dense_because(sm: str) -> str | None:
    """Why a GPU of that compute capability has no 2:4 kernels; None if it has them or is unknown."""
    version = tuple(int(part) for part in sm.split(".")) if sm else LEAST_SPARSE_SM
    least = ".".join(map(str, LEAST_SPARSE_SM))
    return None if version >= LEAST_SPARSE_SM else f"2:4 kernels need compute capability {least} or later, found {sm}"


@dataclass
class Session:
    """The TensorRT objects of one build, which depend on each other."""

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
        """The shape of each input, -1 where open."""
        tensors = (self.network.get_input(i) for i in range(self.network.num_inputs))
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    def layers(self) -> Iterator[Any]:
        return (self.network.get_layer(i) for i in range(self.network.num_layers))

    @property
    def quantized(self) -> bool:
        """Whether the model has Q/DQ nodes, which determine what is INT8."""
        kinds = (self.trt.LayerType.QUANTIZE, self.trt.LayerType.DEQUANTIZE)
        return any(layer.type in kinds for layer in self.layers())

    @property
    def half(self) -> bool:
        """Whether any tensor of the parsed network is FP16."""
        outputs = (layer.get_output(0) for layer in self.layers() if layer.num_outputs)
        return any(output is not None and output.dtype == self.trt.DataType.HALF for output in outputs)


def start_session(trt: Any, log: BuildLog) -> Session:
    """Create a builder and an empty network. Raises BackendUnavailable if TensorRT does not start."""
    logger = listener(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # the binding's error for a null pointer
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} does not start: {log.reason()}: 'nvidia-smi' must show a GPU and a driver "
            "of that release's CUDA"
        ) from None
    network = builder.create_network(_creation_flags(trt))
    return Session(trt, log, logger, builder, network, trt.OnnxParser(network, logger))


def parse(session: Session, onnx: Path) -> None:
    """Parse the ONNX file and its external data into the network. Raises ModelError with the parser's message."""
    if session.parser.parse_from_file(str(onnx)):
        return
    errors = [session.parser.get_error(i) for i in range(session.parser.num_errors)]
    message = " ".join(errors[0].desc().split())[:300] if errors else session.log.reason()
    raise ModelError(f"{onnx.name}: TensorRT {session.trt.__version__} cannot read it: {message}")


def lowest(session: Session, options: BuildOptions) -> Precision:
    """The lowest precision in the plan. Raises BuildError for one that must be in the model and is not."""
    if session.quantized:
        return "int8"
    if not strongly_typed(session.trt):
        return options.precision
    if options.precision == "int8":
        raise BuildError(
            f"TensorRT {session.trt.__version__} needs Q/DQ nodes for INT8 and the model has none: "
            "quantize it with 'edgesparse quantize'"
        )
    if options.precision == "fp16" and not session.half:
        raise BuildError(
            f"TensorRT {session.trt.__version__} takes FP16 from the ONNX file alone: convert the model first"
        )
    return "fp16" if session.half else "fp32"


def _creation_flags(trt: Any) -> int:
    """Explicit batch if it is not the default. Weak typing if there is a choice."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)

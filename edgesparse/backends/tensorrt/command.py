"""The trtexec command that builds the same engine, to check a build independently."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgesparse.backends.base import BuildOptions, Limits
from edgesparse.backends.tensorrt.image_format import OFFERED

LIBRARIES = ("CUBLAS", "CUBLAS_LT", "CUDNN")


def command(
    trt: Any, onnx: Path, out: Path, options: BuildOptions, inputs: dict[str, tuple[int, ...]], quantized: bool
) -> str:
    """The command for this release. Options unknown to its trtexec are left out, as they are in the build.

    `inputs`: name -> shape of each input, -1 where open. Files are named without their folders. trtexec has no options
    for the memory for timing tactics and for calibration on images.
    """
    parts = ["tensorrt_rtx" if "rtx" in trt.__name__ else "trtexec", f"--onnx={onnx.name}", f"--saveEngine={out.name}"]
    parts += _types(trt, options, quantized)
    parts += ["--sparsity=enable"] if options.sparse else []
    parts += _limits(trt, options.limits)
    if options.dla is not None:
        parts += [f"--useDLACore={options.dla}", "--allowGPUFallback"]
    opened = {name: shape for name, shape in inputs.items() if -1 in shape}
    if options.profile is not None and opened:
        for word, batch in zip(("min", "opt", "max"), options.profile, strict=True):
            shapes = (f"{name}:{'x'.join(map(str, (batch, *shape[1:])))}" for name, shape in opened.items())
            parts.append(f"--{word}Shapes={','.join(shapes)}")
    if options.image is not None:
        layouts = "+".join(name.lower().replace("linear", "chw") for name in OFFERED[options.image.dtype])
        parts.append(f"--inputIOFormats={options.image.dtype.replace('float', 'fp')}:{layouts}")
    parts += ["--profilingVerbosity=detailed"] if options.detailed else []
    return shlex.join([*parts, "--useCudaGraph", "--noDataTransfers"])


def _types(trt: Any, options: BuildOptions, quantized: bool) -> Iterator[str]:
    if not hasattr(trt.BuilderFlag, "FP16"):
        return  # from 11 on, types come from the ONNX file alone
    if options.precision != "fp32":
        yield "--fp16"
    if options.precision == "int8" or quantized:
        yield "--int8"
    if options.precision == "int8" and not quantized and options.table is not None:
        yield f"--calib={options.table.name}"


def _limits(trt: Any, limits: Limits) -> Iterator[str]:
    if limits.workspace is not None:
        yield f"--memPoolSize=workspace:{limits.workspace / 2**20:g}"  # MiB
    dropped = [] if limits.libraries else [name for name in LIBRARIES if hasattr(trt.TacticSource, name)]
    dropped += [] if limits.edge_masks else ["EDGE_MASK_CONVOLUTIONS"]
    if dropped:
        yield "--tacticSources=" + ",".join(f"-{name}" for name in dropped)
    config = trt.IBuilderConfig
    if limits.level is not None and hasattr(config, "builder_optimization_level"):
        yield f"--builderOptimizationLevel={limits.level}"
    elif limits.level is not None and limits.level < 3:
        yield "--heuristic"
    if limits.aux_streams is not None and hasattr(config, "max_aux_streams"):
        yield f"--maxAuxStreams={limits.aux_streams}"
    if limits.tactics is not None and hasattr(config, "max_num_tactics"):
        yield f"--maxTactics={limits.tactics}"

"""ONNX to a plan, on TensorRT 8.5 to 11 and TensorRT-RTX: everything by name, nothing by number.

`trt` is the module of one of them. What a release lacks is found with hasattr; enums are renumbered between releases.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesparse.backends.base import BuildOptions, BuildProgress, BuildResult, EngineLayer, Limits, Precision
from edgesparse.backends.tensorrt_cache import TimingCache
from edgesparse.backends.tensorrt_calibrators import from_table, on_gpu
from edgesparse.backends.tensorrt_command import LIBRARIES, command
from edgesparse.backends.tensorrt_inspect import layers, read_plan
from edgesparse.backends.tensorrt_log import BuildLog, listener, log_file
from edgesparse.backends.tensorrt_progress import heartbeat, monitor
from edgesparse.errors import BackendUnavailable, BuildError, CalibrationError, ModelError

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


def build(trt: Any, onnx: Path, out: Path, options: BuildOptions, sm: str, progress: BuildProgress) -> BuildResult:
    """Build `out`, mode 0600, at once or not at all, then open it to see what its layers run.

    `sm`: the GPU's compute capability, `8.7`; empty where there is none, and then the plan is not opened. With
    `options.pictures` the table of TensorRT's calibration is kept beside it, with the ending .calibration.
    Raises ModelError, CalibrationError, BuildError, BackendUnavailable.
    """
    start = time.perf_counter()
    reason = dense_because(sm) if options.sparse else None
    if reason:
        raise BuildError(f"{reason}: build it dense")
    log = BuildLog(heartbeat(trt, progress), log_file())
    try:
        plan, cache, said = _compile(trt, onnx, out, options, log, progress)
        write(plan, out)
        del plan
        found: tuple[EngineLayer, ...] = ()
        memory = 0
        if sm:
            opened = read_plan(trt, out, options.dla)
            found, memory = layers(trt, opened.engine, log.placed), opened.device_memory
    finally:
        log.close()
    return BuildResult(
        path=out,
        precision=said.precision,
        seconds=time.perf_counter() - start,
        layers=found,
        eligible=tuple(log.eligible),
        picked=tuple(log.picked),
        degraded=tuple(log.skipped),
        warnings=(*cache.warnings, *log.warnings),
        command=said.command,
        device_memory=memory,
    )


@dataclass(frozen=True)
class Said:
    """What is known of a network once it is parsed."""

    precision: Precision
    command: str


def _compile(
    trt: Any, onnx: Path, out: Path, options: BuildOptions, log: BuildLog, progress: BuildProgress
) -> tuple[Any, TimingCache, Said]:
    """The serialised plan. TensorRT's objects, and the memory they hold, are gone when this returns."""
    session = start_session(trt, log)
    parse(session, onnx)
    said = Said(lowest(session, options), command(trt, onnx, out, options, session.inputs, session.quantised))
    log.take("VERBOSE", f"edgesparse builds {said.command}")
    cache = TimingCache(options.timing_cache)
    plan = _attempt(session, options, out, cache, progress, True)
    if plan is None and cache.loaded and not log.skipped:
        # Release 8.5 fails on a timing cache that it wrote itself.
        log.errors.clear()
        plan = _attempt(session, options, out, cache, progress, False)
        if plan is not None:
            cache.give_up()
    if plan is None:
        raise BuildError(f"{onnx.name}: TensorRT {trt.__version__} cannot build it: {log.reason()}")
    return plan, cache, said


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


def configure(session: Session, options: BuildOptions, out: Path, progress: BuildProgress) -> Any:
    """A builder config that says all of `options`, as far as this release has words for it."""
    trt = session.trt
    config = session.builder.create_builder_config()
    profile = _profile(session, options)
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT refuses the batch range {options.profile}: {session.log.reason()}")
    _set_types(session, config, options, profile, out, progress)
    if options.sparse:
        set_flag(trt, config, "SPARSE_WEIGHTS")  # STRICT_NANS stays unset: it takes 2:4 kernels away
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    limit(trt, config, options.limits)
    if options.dla is not None:
        _place_on_dla(session, config, options)
    watching = monitor(trt, progress, session.log)
    if watching is not None:
        config.progress_monitor = watching
        session.kept.append(watching)
    return config


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


def limit(trt: Any, config: Any, limits: Limits) -> None:
    """Set what a build may spend. A lever that this release lacks is left."""
    for pool, size in (("WORKSPACE", limits.workspace), ("TACTIC_DRAM", limits.tactic_memory)):
        if size is not None and hasattr(trt.MemoryPoolType, pool):
            config.set_memory_pool_limit(getattr(trt.MemoryPoolType, pool), int(size))
    sources = int(config.get_tactic_sources())
    dropped: tuple[str, ...] = () if limits.libraries else LIBRARIES
    dropped += () if limits.edge_masks else ("EDGE_MASK_CONVOLUTIONS",)
    for name in dropped:
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    config.set_tactic_sources(sources)
    for name, value in (
        ("builder_optimization_level", limits.level),
        ("max_num_tactics", limits.tactics),
        ("max_aux_streams", limits.aux_streams),
    ):
        if value is not None and hasattr(config, name):
            setattr(config, name, value)
    if limits.level is not None and limits.level < 3 and not hasattr(config, "builder_optimization_level"):
        set_flag(trt, config, "ENABLE_TACTIC_HEURISTIC")  # all that release 8.5 has of it


def set_flag(trt: Any, config: Any, name: str) -> bool:
    """Set a builder flag by its name; False where this release has none of that name."""
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is not None:
        config.set_flag(flag)
    return flag is not None


def write(plan: Any, out: Path) -> None:
    """Write a plan for its owner's eyes alone: on disk whole, or not at all. Raises BuildError."""
    part = out.with_name(f".{out.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(memoryview(plan))
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error.strerror}: free some of the disk") from None
    finally:
        part.unlink(missing_ok=True)


def _attempt(
    session: Session, options: BuildOptions, out: Path, cache: TimingCache, progress: BuildProgress, read_cache: bool
) -> Any:
    """The plan, or None where TensorRT gives none."""
    config = configure(session, options, out, progress)
    cache.attach(config, read_cache)
    progress(f"building with TensorRT {session.trt.__version__}", 0, 0)
    plan = session.builder.build_serialized_network(session.network, config)
    if session.log.stopped is not None:
        raise session.log.stopped
    if plan is not None:
        cache.keep(config)
    return plan


def _creation_flags(trt: Any) -> int:
    """Explicit batch where it must be asked for. Weak typing where there is a choice."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def _set_types(
    session: Session, config: Any, options: BuildOptions, profile: Any, out: Path, progress: BuildProgress
) -> None:
    trt = session.trt
    if strongly_typed(trt):
        return
    if options.precision != "fp32":
        set_flag(trt, config, "FP16")  # with INT8 too: what is not quantised would run FP32
    if options.precision == "int8" or session.quantised:
        set_flag(trt, config, "INT8")
    if options.precision != "int8" or session.quantised:
        return
    calibrator = _calibrator(session, options, out, progress)
    config.int8_calibrator = calibrator
    session.kept.append(calibrator)
    if profile is not None:
        config.set_calibration_profile(profile)


def _calibrator(session: Session, options: BuildOptions, out: Path, progress: BuildProgress) -> Any:
    if options.table is not None:
        return from_table(session.trt, options.table)
    if options.pictures is None:
        raise CalibrationError(
            "INT8 needs Q/DQ nodes in the model, a calibration table, or pictures: 'edgesparse quantize' makes them"
        )
    shapes = list(session.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise CalibrationError(f"calibration on pictures needs one input of four dimensions, found {session.inputs}")
    batch = options.profile[1] if options.profile and shapes[0][0] == -1 else shapes[0][0]
    keep = out.with_suffix(".calibration")
    return on_gpu(
        session.trt,
        options.pictures,
        (batch, *shapes[0][1:]),
        keep,
        session.log,
        lambda done, total: progress("calibrating", done, total),
    )


def _profile(session: Session, options: BuildOptions) -> Any:
    """One optimisation profile over the open batch; None for a static model."""
    opened = {name: shape for name, shape in session.inputs.items() if -1 in shape}
    if not opened:
        return None
    if options.profile is None or any(-1 in shape[1:] for shape in opened.values()):
        said = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in opened.items())
        raise ModelError(f"the model has the open input {said}: fix its shape, or give the batch a range")
    profile = session.builder.create_optimization_profile()
    for name, shape in opened.items():
        profile.set_shape(name, *((batch, *shape[1:]) for batch in options.profile))
    return profile


def _place_on_dla(session: Session, config: Any, options: BuildOptions) -> None:
    trt, cores = session.trt, session.builder.num_DLA_cores
    if options.dla is None or options.dla >= cores:
        raise BackendUnavailable(
            f"needed DLA core {options.dla}, found {cores} with TensorRT {trt.__version__} on this board: "
            "leave build.dla out"
        )
    if options.precision == "fp32" and not strongly_typed(trt):
        raise BuildError("DLA computes in FP16 and INT8, found precision fp32: leave build.dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla
    set_flag(trt, config, "GPU_FALLBACK")

"""BuildOptions as a TensorRT builder config, as far as the release supports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesparse.backends.base import BuildOptions, Limits
from edgesparse.backends.tensorrt.calibrators import from_table, on_gpu
from edgesparse.backends.tensorrt.command import LIBRARIES
from edgesparse.backends.tensorrt.network import Session, strongly_typed
from edgesparse.backends.tensorrt.progress import monitor
from edgesparse.errors import BackendUnavailable, BuildError, CalibrationError, ModelError
from edgesparse.progress import Progress


def configure(session: Session, options: BuildOptions, out: Path, progress: Progress) -> Any:
    """A builder config with all of `options` that this release supports."""
    trt = session.trt
    config = session.builder.create_builder_config()
    profile = _profile(session, options)
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT refuses the batch range {options.profile}: {session.log.reason()}")
    _set_types(session, config, options, profile, out, progress)
    if options.sparse:
        set_flag(trt, config, "SPARSE_WEIGHTS")  # STRICT_NANS stays unset: it disables 2:4 kernels
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    limit(trt, config, options.limits)
    if options.dla is not None:
        _place_on_dla(session, config, options)
    progress_monitor = monitor(trt, progress, session.log)
    if progress_monitor is not None:
        config.progress_monitor = progress_monitor
        session.kept.append(progress_monitor)
    return config


def limit(trt: Any, config: Any, limits: Limits) -> None:
    """Set the limits of a build. Limits that this release lacks are skipped."""
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
        set_flag(trt, config, "ENABLE_TACTIC_HEURISTIC")  # the closest equivalent in release 8.5


def set_flag(trt: Any, config: Any, name: str) -> bool:
    """Set a builder flag by its name; False if this release has none of that name."""
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is not None:
        config.set_flag(flag)
    return flag is not None


def _set_types(
    session: Session, config: Any, options: BuildOptions, profile: Any, out: Path, progress: Progress
) -> None:
    trt = session.trt
    if strongly_typed(trt):
        return
    if options.precision != "fp32":
        set_flag(trt, config, "FP16")  # with INT8 too: what is not quantized would run FP32
    if options.precision == "int8" or session.quantized:
        set_flag(trt, config, "INT8")
    if options.precision != "int8" or session.quantized:
        return
    calibrator = _calibrator(session, options, out, progress)
    config.int8_calibrator = calibrator
    session.kept.append(calibrator)
    if profile is not None:
        config.set_calibration_profile(profile)


def _calibrator(session: Session, options: BuildOptions, out: Path, progress: Progress) -> Any:
    if options.table is not None:
        return from_table(session.trt, options.table)
    if options.images is None:
        raise CalibrationError(
            "INT8 needs Q/DQ nodes in the model, a calibration table, or images: 'edgesparse quantize' writes them"
        )
    shapes = list(session.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise CalibrationError(f"calibration on images needs one input of four dimensions, found {session.inputs}")
    batch = options.profile[1] if options.profile and shapes[0][0] == -1 else shapes[0][0]
    keep = out.with_suffix(".calibration")
    return on_gpu(
        session.trt,
        options.images,
        (batch, *shapes[0][1:]),
        keep,
        session.log,
        lambda done, total: progress("calibrating", done, total),
    )


def _profile(session: Session, options: BuildOptions) -> Any:
    """One optimization profile for the open batch; None for a static model."""
    opened = {name: shape for name, shape in session.inputs.items() if -1 in shape}
    if not opened:
        return None
    if options.profile is None or any(-1 in shape[1:] for shape in opened.values()):
        described = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in opened.items())
        raise ModelError(f"the model has the open input {described}: fix its shape, or set a range for the batch")
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

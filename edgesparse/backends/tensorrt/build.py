"""Build an ONNX file into a plan with TensorRT 8.5 to 11 or TensorRT-RTX."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesparse.backends.base import LOADED, BuildOptions, BuildResult, EngineLayer, Precision
from edgesparse.backends.tensorrt.cache import TimingCache
from edgesparse.backends.tensorrt.command import command
from edgesparse.backends.tensorrt.config import configure
from edgesparse.backends.tensorrt.image_format import described, offer
from edgesparse.backends.tensorrt.inspect import information, read_plan
from edgesparse.backends.tensorrt.inspect import parse as parse_layers
from edgesparse.backends.tensorrt.log import BuildLog, log_file
from edgesparse.backends.tensorrt.network import Session, dense_because, lowest, parse, start_session
from edgesparse.backends.tensorrt.progress import heartbeat
from edgesparse.backends.tensorrt.warnings import readable
from edgesparse.errors import BuildError
from edgesparse.files import replacing
from edgesparse.progress import Progress

NO_KERNEL = "Could not find any implementation"
"""TensorRT's words if no tactic that it tried fits a layer; a low level tries few."""


def build(trt: Any, onnx: Path, out: Path, options: BuildOptions, sm: str, progress: Progress) -> BuildResult:
    """Build `out` with mode 0600, then open it to inspect its layers. `out` is written atomically.

    `sm`: the GPU's compute capability such as `8.7`; empty without a GPU, and then the plan is not opened. With
    `options.images`, TensorRT's calibration table is stored next to `out` with the suffix .calibration.
    Raises ModelError, CalibrationError, BuildError, BackendUnavailable.
    """
    start = time.perf_counter()
    reason = dense_because(sm) if options.sparse else None
    if reason:
        raise BuildError(f"{reason}: build it dense")
    log = BuildLog(heartbeat(trt, progress), log_file())
    try:
        plan, cache, parsed = _compile(trt, onnx, out, options, log, progress)
        write(plan, out)
        del plan
        engine_layers: tuple[EngineLayer, ...] = ()
        memory, image = 0, ""
        if sm:
            opened = read_plan(trt, out, options.dla)
            text, memory = information(trt, opened.engine), opened.device_memory
            engine_layers, image = parse_layers(text, log.placed), described(opened.engine, text)
    finally:
        log.close()
    return BuildResult(
        path=out,
        precision=parsed.precision,
        seconds=time.perf_counter() - start,
        layers=engine_layers,
        eligible=tuple(log.eligible),
        picked=tuple(log.picked),
        degraded=tuple(log.skipped),
        warnings=(*cache.warnings, *readable(log.warnings)),
        command=parsed.command,
        device_memory=memory,
        image=image,
    )


@dataclass(frozen=True)
class ParsedNetwork:
    """What is known about a network once it is parsed."""

    precision: Precision
    command: str


def _compile(
    trt: Any, onnx: Path, out: Path, options: BuildOptions, log: BuildLog, progress: Progress
) -> tuple[Any, TimingCache, ParsedNetwork]:
    """The serialized plan. TensorRT's objects and their memory are released when this returns."""
    session = start_session(trt, log)
    progress(LOADED, 0, 0)
    parse(session, onnx)
    if options.image is not None:
        offer(session, options.image)
    parsed = ParsedNetwork(
        lowest(session, options), command(trt, onnx, out, options, session.inputs, session.quantized)
    )
    log.take("VERBOSE", f"edgesparse builds {parsed.command}")
    cache = TimingCache(options.timing_cache)
    plan = _attempt(session, options, out, cache, progress, True)
    if plan is None and cache.loaded and not log.skipped:
        # Release 8.5 fails on a timing cache that it wrote itself.
        log.errors.clear()
        plan = _attempt(session, options, out, cache, progress, False)
        if plan is not None:
            cache.give_up()
    if plan is None and options.limits.level is not None and NO_KERNEL in log.reason():
        log.errors.clear()
        longer = replace(options, limits=replace(options.limits, level=None))
        plan = _attempt(session, longer, out, cache, progress, False)
    if plan is None:
        raise BuildError(f"{onnx.name}: TensorRT {trt.__version__} cannot build it: {log.reason()}")
    return plan, cache, parsed


def write(plan: Any, out: Path) -> None:
    """Write a plan atomically, readable only by its owner. Raises BuildError."""
    try:
        with replacing(out, 0o600, synced=True) as file:
            file.write(memoryview(plan))
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error.strerror}: free some space on the disk") from None


def _attempt(
    session: Session, options: BuildOptions, out: Path, cache: TimingCache, progress: Progress, read_cache: bool
) -> Any:
    """The plan; None if TensorRT returns none."""
    config = configure(session, options, out, progress)
    cache.attach(config, read_cache)
    progress(f"building with TensorRT {session.trt.__version__}", 0, 0)
    plan = session.builder.build_serialized_network(session.network, config)
    if session.log.stopped is not None:
        raise session.log.stopped
    if plan is not None:
        cache.keep(config)
    return plan

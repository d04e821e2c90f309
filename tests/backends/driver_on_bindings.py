"""The TensorRT driver on one release's real bindings, in its own process: prints the result of each check as JSON.

Everything but the library behind the bindings is real. tests/backends/test_tensorrt_bindings.py runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt as runner_double
import numpy as np
import tensorrt
from bindings_world import MAJOR, MINOR, TABLE, WEAK, World

from edgesparse.backends.base import BuildOptions, ImageInput, Limits
from edgesparse.backends.tensorrt import build, calibrators, network
from edgesparse.backends.tensorrt.calibrators import for_release
from edgesparse.backends.tensorrt.image_format import LAYOUTS, OFFERED
from edgesparse.errors import BackendUnavailable, BuildError, CalibrationError, EdgeSparseError, ModelError


def check_the_runner_calls_what_there_is(folder: Path) -> None:
    """The real classes have every method of test_tensorrt_runner.py's fakes, with the same number of arguments."""
    for real, fake in (
        (tensorrt.ICudaEngine, runner_double.Engine),
        (tensorrt.IExecutionContext, runner_double.Context),
    ):
        for name, function in vars(fake).items():
            if name.startswith("_"):
                continue
            signatures = re.findall(rf"{name}\(self: [^,)]*,? ?(.*)\) ->", getattr(real, name).__doc__)
            count = function.__code__.co_argcount - 1
            each = [variant.split(", ") if variant else [] for variant in signatures]  # one per overload
            least = [sum("=" not in argument for argument in variant) for variant in each]
            fits = [low <= count <= len(variant) for low, variant in zip(least, each, strict=True)]
            assert any(fits), (name, count, signatures)
    engine = vars(tensorrt.ICudaEngine)
    assert "num_io_tensors" in engine and {"device_memory_size", "device_memory_size_v2"} & set(engine)
    assert tensorrt.TensorIOMode.INPUT.name == "INPUT" and tensorrt.TensorLocation.DEVICE.name == "DEVICE"
    assert set(LAYOUTS) <= set(tensorrt.TensorFormat.__members__) and "name" in engine
    assert {"FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"} <= set(tensorrt.DataType.__members__)


def check_contexts_can_share_scratch_memory(folder: Path) -> None:
    """In one of the two ways that tensorrt_context.make_context supports."""
    strategies = getattr(tensorrt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        assert hasattr(tensorrt.ICudaEngine, "create_execution_context_without_device_memory")
    else:
        assert "USER_MANAGED" in strategies.__members__
    assert {"device_memory", "set_device_memory"} & set(vars(tensorrt.IExecutionContext))


def check_a_plain_build(folder: Path) -> None:
    world = World(folder)
    built = world.build(BuildOptions())
    assert built.path.read_bytes() == b"the plan" and built.precision == "fp32" and built.device_memory == 4096
    assert [layer.sparse for layer in built.layers] == [True]
    assert stat.S_IMODE(built.path.stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["model.engine"]
    assert world.flags == set() and world.seen
    assert world.config.profiling_verbosity == tensorrt.ProfilingVerbosity.DETAILED
    explicit = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    assert world.creation_flags == (0 if explicit is None else 1 << int(explicit))
    assert built.command.startswith("trtexec --onnx=model.onnx --saveEngine=model.engine"), built.command


def check_weak_types_are_flags_together(folder: Path) -> None:
    world = World(folder)
    world.half = not WEAK
    assert world.build(BuildOptions(precision="fp16", sparse=True)).precision == "fp16"
    assert world.flags == ({"FP16", "SPARSE_WEIGHTS"} if WEAK else {"SPARSE_WEIGHTS"})


def check_qdq_needs_no_calibrator(folder: Path) -> None:
    world = World(folder, kinds="QUANTIZE DEQUANTIZE CONVOLUTION")
    built = world.build(BuildOptions(precision="int8"))
    assert built.precision == "int8" and world.served == []
    assert world.flags == ({"FP16", "INT8"} if WEAK else set())
    assert ("--int8" in built.command) is WEAK


def check_a_table_is_served_under_this_release(folder: Path) -> None:
    (folder / "table").write_bytes(TABLE)
    world = World(folder)
    options = BuildOptions(precision="int8", table=folder / "table")
    if not WEAK:
        refused(BuildError, "needs Q/DQ nodes for INT8", world.build, options)
        return
    assert world.build(options).precision == "int8" and world.flags == {"FP16", "INT8"}
    number = {8: "8503" if MINOR == 5 else "8601", 10: "100300" if MINOR == 3 else "101303"}[MAJOR]
    assert world.served == [b"TRT-%s-EntropyCalibration2\n" % number.encode() + TABLE.partition(b"\n")[2]]
    (folder / "table").write_bytes(b"not a table")
    refused(CalibrationError, "is not a calibration table", world.build, options)
    refused(CalibrationError, "needs Q/DQ nodes", world.build, BuildOptions(precision="int8"))


def check_calibration_on_images(folder: Path) -> None:
    if not WEAK:
        return
    np.save(folder / "images.npy", np.arange(5 * 3 * 8 * 8, dtype=np.float32).reshape(5, 3, 8, 8))
    options = BuildOptions(precision="int8", images=folder / "images.npy")
    world = World(folder, shape=(2, 3, 8, 8))
    with fake_gpu() as copied:
        world.build(options)
    assert world.served == [None, (2, 4321), (2, 4321)], world.served
    assert [float(batch[0, 0, 0, 0]) for batch in copied] == [0.0, 2 * 192.0]
    assert ("calibrating", 4, 4) in world.seen
    assert (folder / "model.calibration").read_bytes().startswith(b"TRT-1-")
    with fake_gpu():
        refused(CalibrationError, "needed Nx3x9x9 float32", World(folder, shape=(1, 3, 9, 9)).build, options)
        refused(CalibrationError, "at least 6 images", World(folder, shape=(6, 3, 8, 8)).build, options)


def check_the_image_in_a_layout_of_its_own(folder: Path) -> None:
    """FP16 by the input's type, INT8 by its type and range, or by the type that the ONNX file has."""
    (folder / "table").write_bytes(TABLE)
    cases: list[tuple[BuildOptions, bool, str]] = [(BuildOptions(precision="int8"), True, "INT8")]
    if WEAK:
        cases += [(BuildOptions(precision="fp16"), False, "HALF")]
        cases += [(BuildOptions(precision="int8", table=folder / "table"), False, "INT8")]
    for options, quantized, kind in cases:
        world = World(folder, kinds="QUANTIZE DEQUANTIZE CONVOLUTION" if quantized else "CONVOLUTION")
        image = ImageInput("float16") if kind == "HALF" else ImageInput("int8", 0.25)
        world.quantized_image, world.layout = quantized, "HWC8" if kind == "HALF" else "CHW4"
        built = world.build(replace(options, image=image))
        assert world.image.dtype.name == kind and world.network.name.startswith("edgesparse image, scale ")
        allowed = world.image.has["allowed_formats"]
        known = {name for name, form in tensorrt.TensorFormat.__members__.items() if allowed >> int(form) & 1}
        assert known == set(OFFERED[image.dtype])
        ranges = world.image.called("set_dynamic_range")
        assert ranges == ([(-31.75, 31.75)] if options.table else [])
        word = "fp16:chw+hwc8" if kind == "HALF" else "int8:chw+chw4+chw32"
        assert f"--inputIOFormats={word}" in built.command, built.command
        assert built.image == f"{image.dtype} {world.layout}, used as it is"
    plain = World(folder).build(BuildOptions())
    assert plain.image == "" and "inputIOFormats" not in plain.command


def check_limits(folder: Path) -> None:
    limits = Limits(workspace=1 << 28, tactic_memory=1 << 30, level=1, tactics=4, edge_masks=False, aux_streams=0)
    world = World(folder)
    built = world.build(BuildOptions(limits=limits))
    pools = {pool.name: size for pool, size in world.config.called("set_memory_pool_limit")}
    newer = (MAJOR, MINOR) >= (8, 6)
    assert pools == {"WORKSPACE": 1 << 28, **({"TACTIC_DRAM": 1 << 30} if newer else {})}
    ((sources,),) = world.config.called("set_tactic_sources")
    assert sources == 1 << int(tensorrt.TacticSource.JIT_CONVOLUTIONS)
    level = ("builder_optimization_level", 1) in world.config.has.items()
    assert level is newer and (world.flags == {"ENABLE_TACTIC_HEURISTIC"}) is not newer
    assert world.config.has.get("max_aux_streams") == (0 if newer else None)
    assert world.config.has.get("max_num_tactics") == (4 if (MAJOR, MINOR) >= (10, 4) else None)
    words = {"--memPoolSize=workspace:256", "--builderOptimizationLevel=1" if newer else "--heuristic"}
    external = "-CUBLAS,-CUBLAS_LT,-CUDNN," if WEAK else ""
    words |= {f"--tacticSources={external}-EDGE_MASK_CONVOLUTIONS"}
    assert words <= set(built.command.split()), built.command


def check_dla(folder: Path) -> None:
    world = World(folder)
    world.half = True
    options = BuildOptions(precision="fp16", dla=0)
    world.build(options)
    assert world.config.default_device_type == tensorrt.DeviceType.DLA and world.config.DLA_core == 0
    assert "GPU_FALLBACK" in world.flags
    world.dla_cores = 0
    refused(BackendUnavailable, "needed DLA core 0, found 0", world.build, options)


def check_a_profile_for_an_open_batch(folder: Path) -> None:
    world = World(folder, shape=(-1, 3, 8, 8))
    refused(ModelError, "open input images -1x3x8x8", world.build, BuildOptions())
    built = world.build(BuildOptions(profile=(1, 4, 8)))
    ((profile,),) = world.config.called("add_optimization_profile")
    assert profile.called("set_shape") == [("images", (1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))]
    assert "--optShapes=images:4x3x8x8" in built.command
    refused(ModelError, "open input", World(folder, shape=(-1, 3, -1, -1)).build, BuildOptions(profile=(1, 4, 8)))


def check_the_log_is_read(folder: Path) -> None:
    world = World(folder)
    world.lines = [
        ("INFO", "(Sparsity) Layers eligible for sparse math:  a, b + r, PWN(s, m)"),
        ("INFO", "(Sparsity) TRT inference plan picked sparse implementation for layers:  b + r"),
        ("INFO", "(Sparsity) Found 1 layer(s) eligible to use sparse tactics: d"),
        ("VERBOSE", "Tactic Device request: 4229MB Available: 2658MB. Device memory is insufficient to use tactic."),
        ("WARNING", "[builder.cpp::build::1] something odd"),
    ]
    built = world.build(BuildOptions(sparse=True))
    assert built.eligible == ("a", "b + r", "PWN(s, m)", "d") and built.picked == ("b + r",)
    assert len(built.degraded) == 1 and built.warnings == ("something odd",)


def check_failures_are_one_line(folder: Path) -> None:
    world = World(folder)
    world.plan = None
    refused(BuildError, "cannot build it: it gave no reason", world.build, BuildOptions())
    world.lines = [
        ("ERROR", "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (No implementation for c)"),
        ("ERROR", "2: [builder.cpp::buildSerializedNetwork::751] Error Code 2: (Assertion engine != nullptr failed. )"),
    ]
    refused(BuildError, "Error Code 10: Internal Error (No implementation for c)", world.build, BuildOptions())
    world.parses = False
    refused(ModelError, "cannot read it: In node 3: unknown operator", world.build, BuildOptions())
    assert list(folder.iterdir()) == []
    world = World(folder)
    world.loads = False
    refused(BuildError, "cannot load it", world.build, BuildOptions())
    refused(BuildError, "found 7.2: build it dense", world.build, BuildOptions(sparse=True), "7.2")


def check_types_that_the_model_must_bring(folder: Path) -> None:
    if WEAK:
        return
    refused(BuildError, "takes FP16 from the ONNX file alone", World(folder).build, BuildOptions(precision="fp16"))


def check_the_timing_cache(folder: Path) -> None:
    world, file = World(folder), folder / "cache" / "timing"
    options = BuildOptions(timing_cache=file)
    world.build(options)
    assert file.read_bytes().endswith(b"\n+timed")
    world.build(options)
    assert file.read_bytes().endswith(b"\n+timed+timed")
    assert world.cache.called("combine"), "what other builds wrote meanwhile is kept"
    file.write_bytes(b"garbage")
    built = world.build(options)
    assert built.warnings == (f"timing cache {file} is damaged: ignored",), built.warnings
    assert file.read_bytes().endswith(b"\n+timed")


def check_a_timing_cache_that_fails_when_read_back(folder: Path) -> None:
    world, file = World(folder), folder / "timing"
    options = BuildOptions(timing_cache=file)
    world.build(options)
    world.fails_with_cache = True
    world.configs.clear()
    assert "fails when it is read back" in world.build(options).warnings[0]
    assert len(world.configs) == 2 and file.read_bytes() == b""
    assert world.build(options).warnings == () and len(world.configs) == 3 and file.read_bytes() == b""


def check_a_low_level_that_finds_no_kernel_is_given_up(folder: Path) -> None:
    world = World(folder)
    world.fails_at_a_low_level = True
    world.build(BuildOptions(limits=Limits(level=1)))
    quick = ["ENABLE_TACTIC_HEURISTIC" in {flag.name for (flag,) in c.called("set_flag")} for c in world.configs]
    if hasattr(tensorrt.IBuilderConfig, "builder_optimization_level"):
        assert len(world.configs) == 2 and getattr(world.config, "builder_optimization_level", None) is None
    else:
        assert quick == [True, False]
    world = World(folder)
    world.fails_at_a_low_level = True
    refused(BuildError, "Could not find any implementation", world.build, BuildOptions())


def check_ctrl_c_ends_a_build(folder: Path) -> None:
    world = World(folder)

    def interrupt(*step: object) -> None:
        if len(world.seen) and step[1:] != (0, 0):
            raise KeyboardInterrupt
        world.seen.append(step)  # type: ignore[arg-type]

    world.lines = [("VERBOSE", "Tactic: 0x1 Time: 0.1")]
    out = folder / "model.engine"
    try:
        build.build(world.trt, Path("model.onnx"), out, BuildOptions(), "8.7", interrupt)
    except KeyboardInterrupt:
        assert list(folder.iterdir()) == []
        return
    raise AssertionError("it went on")


def check_names_and_numbers_of_releases(folder: Path) -> None:
    assert for_release(TABLE, "8.5.2.2").startswith(b"TRT-8502-EntropyCalibration2\nimages")
    assert for_release(TABLE, "10.3.0").startswith(b"TRT-100300-")
    assert network.strongly_typed(tensorrt) is not WEAK
    assert hasattr(tensorrt.BuilderFlag, "SPARSE_WEIGHTS") and hasattr(tensorrt.LayerInformationFormat, "JSON")


def check_the_doubles_know_the_release(folder: Path) -> None:
    config = World(folder)._config()
    for wrong, kind in (
        (lambda: config.fp16_mode, AttributeError),
        (lambda: setattr(config, "max_batch", 4), AttributeError),
        (lambda: setattr(config, "DLA_core", "0"), TypeError),
        (lambda: config.set_flag(3), TypeError),
        (lambda: config.set_flag(), TypeError),
        (lambda: config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, 1, 2), TypeError),
    ):
        try:
            wrong()
        except kind:
            continue
        raise AssertionError("the double took what the real class does not")
    assert hasattr(config, "max_aux_streams") is ((MAJOR, MINOR) >= (8, 6))


@contextlib.contextmanager
def fake_gpu() -> Iterator[list[Any]]:
    """The calibrator's GPU, which only records what is copied to it."""
    copied: list[Any] = []
    driver = SimpleNamespace(memcpy_htod=lambda memory, host: copied.append(host.copy()))
    gpu = SimpleNamespace(
        driver=driver,
        errors_of=lambda action: contextlib.nullcontext(),
        host=lambda shape, dtype: np.zeros(shape, dtype),
        memory=lambda size: 4321,
    )
    real = calibrators.gpu
    calibrators.gpu = lambda: gpu  # type: ignore[assignment, return-value]
    try:
        yield copied
    finally:
        calibrators.gpu = real


def refused(kind: type[EdgeSparseError], words: str, call: Callable[..., Any], *values: Any) -> None:
    try:
        call(*values)
    except kind as error:
        assert words in str(error), f"needed {words!r} in: {error}"
        assert "\n" not in str(error)
        return
    raise AssertionError(f"not refused: {words}")


def main() -> None:
    came_to = {}
    for name, check in sorted(globals().items()):
        if name.startswith("check_"):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    check(Path(folder))
                    came_to[name] = ""
                except BaseException:
                    came_to[name] = traceback.format_exc()
    json.dump(came_to, sys.stdout)


if __name__ == "__main__":
    os.environ.pop("EDGESPARSE_TRT_LOG", None)
    main()

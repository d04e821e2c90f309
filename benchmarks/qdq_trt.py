"""Does TensorRT compute what a Q/DQ file specifies? Its outputs and boxes compared with ONNX Runtime's, from the same
file.

    python benchmarks/qdq_trt.py --files FOLDER --make       writes the files, without a GPU
    python benchmarks/qdq_trt.py --files FOLDER --level 1 [--only GROUP ...] [--out FILE.json]

Smallest first: every pattern in which layers are joined (tests/patterns.py), on noise; then the default detector, 2:4
and dense, on calib_data; then YOLOX-nano on coco_mini/val, if --real has both. Q/DQ files become INT8 engines with 2:4
kernels allowed; a float file becomes an FP16 engine, which shows how far TensorRT differs from ONNX Runtime without
INT8. Files in FOLDER are used as they are; missing ones are skipped.

Each network runs in its own process, so a crash, or a case that exceeds --row-limit, loses only one row. A row is
printed and written to FILE as soon as it is available; a row already in FILE is not measured again unless it failed.
--limit: seconds in total.
Release 8.5 takes minutes to set up its compiler for SiLU and Softmax: patterns with these come last.
`outputs`: for each output, the RMS difference relative to the RMS of ONNX Runtime's output, and the maximum difference.
`agreement`: TensorRT's detections against ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from benchmarks.detectors import PARTS, YOLOX
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import BuildResult, Limits, Precision, Runner
from edgesparse.config import DetectorSpec
from edgesparse.errors import EdgeSparseError
from edgesparse.runtime.agree import compare
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.images import ImageBatches, image_files, read_image

Placement = Literal["fuse", "sparse"]
ROOT = Path(__file__).resolve().parents[1]
MICRO = "micro"
CALIBRATED_ON = 64
RAW = 8
"""Inputs whose raw outputs are compared."""
TIMED = 200
STARTED = {"error": "did not end"}
COMPILED = ("distances", "hard_swish", "residual_silu", "silu_chain", "split")
"""Patterns that TensorRT 8.5 hands to its compiler."""


@dataclass(frozen=True)
class Net:
    """A float model, its input, and its images for calibration and for comparison."""

    model: Path
    spec: DetectorSpec
    calibrate: Path
    compare: Path
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Case:
    """One file to build; `net` is None for a pattern."""

    name: str
    file: Path
    precision: Precision
    net: Net | None


def nets(real: Path) -> dict[str, Net]:
    mini, drawn, demo = real / "coco_mini", ROOT / "calib_data", ROOT / "edgesparse" / "demo"
    return {
        "parts_2to4": Net(demo / "parts_2to4.onnx", PARTS, drawn, drawn, ("fuse", "sparse")),
        "parts_dense": Net(demo / "parts_dense.onnx", PARTS, drawn, drawn, ("fuse",)),
        "yolox": Net(real / "models" / "yolox_nano.onnx", YOLOX, mini / "train", mini / "val", ("fuse",)),
    }


def cases(group: str, files: Path, real: Path) -> Iterator[Case]:
    """Rows of the patterns, or of one network, whose files exist."""
    if group == MICRO:
        patterns = [Case(path.stem, path, "int8", None) for path in sorted(files.glob(f"{MICRO}_*.onnx"))]
        yield from sorted(patterns, key=lambda case: case.name.endswith(COMPILED))
        return
    net = nets(real)[group]
    rows: list[tuple[str, Path, Precision]] = [
        (f"{group} int8 {placement}", files / f"{group}_{placement}.onnx", "int8") for placement in net.placements
    ]
    for name, file, precision in [*rows, (f"{group} fp16", net.model, "fp16")]:
        if file.exists() and net.compare.is_dir():
            yield Case(name, file, precision, net)


def make(files: Path, real: Path) -> None:
    """Write every missing Q/DQ file."""
    files.mkdir(parents=True, exist_ok=True)
    make_patterns(files)
    for name, net in nets(real).items():
        for placement in net.placements:
            path = files / f"{name}_{placement}.onnx"
            if net.model.exists() and not path.exists():
                make_detector(net, placement, path)


def make_patterns(files: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "graph"))
    from patterns import PATTERNS

    from edgesparse.int8.calibration import CalibrationOptions, calibrate
    from edgesparse.int8.quantize import quantize, quantized_tensors
    from edgesparse.model import load as models

    for name, pattern in PATTERNS.items():
        path = files / f"{MICRO}_{name}.onnx"
        models.save(pattern(), path)
        model = models.load(path)  # as `edgesparse quantize` does
        shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
        ranges = calibrate(model, partial(noise, shape), CalibrationOptions("max"), tensors=quantized_tensors(model))
        models.save(quantize(model, ranges.scales)[0], path)


def make_detector(net: Net, placement: Placement, path: Path) -> None:
    from edgesparse.int8.recover import RecoverOptions, recover
    from edgesparse.model import load as models

    images = ImageBatches.from_files(image_files(net.calibrate, CALIBRATED_ON), net.spec.input)
    source = recover(models.load(net.model), images, RecoverOptions(placement=placement))
    models.save(source.quantized, path)
    print(f"{path.name}: {100 * source.report.share:.1f} % of the convolutions' MACs in INT8", file=sys.stderr)


def noise(shape: Sequence[int]) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(RAW)]


def raw(runner: Runner, net: Net | None) -> list[list[NDArray[Any]]]:
    """Every output for each of RAW images, or of noise where there is no `net`, as float32."""
    buffers = runner.allocate()
    runner.bind(buffers)
    entry = buffers[runner.inputs[0].name]
    passed = ImageBatches.from_files(image_files(net.compare, RAW), net.spec.input)() if net else noise(entry.shape)
    result = []
    for image in passed:
        entry[...] = image
        runner.infer()
        result.append([buffers[output.name].astype(np.float32) for output in runner.outputs])
    return result


def apart(ours: list[list[NDArray[Any]]], theirs: list[list[NDArray[Any]]]) -> list[dict[str, float]]:
    """Relative RMS difference and maximum difference of each output over all inputs."""
    arguments = []
    for own, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        a, b = np.stack(own), np.stack(other)
        rms = float(np.sqrt(np.mean((a - b) ** 2) / max(float(np.mean(b**2)), 1e-30)))
        arguments.append({"rms": round(rms, 5), "max": round(float(np.abs(a - b).max()), 4)})
    return arguments


def measure(case: Case, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build the file and compare it with ONNX Runtime on the same file."""
    ours, theirs = backend(arguments.engine), backend("onnxruntime")
    options = BuildOptions(
        precision=case.precision,
        sparse=case.precision == "int8",
        limits=Limits(level=arguments.level),
        timing_cache=folder / "timing.cache" if case.net else None,  # release 8.5 cannot read SiLU's timings back
    )
    built = ours.build(case.file, folder / f"engine{ours.suffix}", options)
    runner, reference = ours.load(built.path), theirs.load(case.file)
    result = {**summary(built), "outputs": apart(raw(runner, case.net), raw(reference, case.net))}
    times = sorted(runner.latency() for _ in range(TIMED))
    result["median_ms"] = round(times[TIMED // 2], 4)
    if case.net is None:
        runner.close()
        reference.close()
        return result
    files = image_files(case.net.compare, arguments.count)
    with Detector(runner, case.net.spec) as candidate, Detector(reference, case.net.spec) as judge:
        return {**result, "agreement": compare(judge, candidate, map(read_image, files)).as_dict()}


def summary(built: BuildResult) -> dict[str, Any]:
    return {
        "precision": built.precision,
        "build_seconds": round(built.seconds, 1),
        "layers": len(built.layers),
        "eligible_for_2to4": len(built.eligible),
        "picked_2to4": len(built.picked),
        "megabytes": round(built.path.stat().st_size / 1e6, 2),
    }


def rows(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    return known


def add(path: Path, about: dict[str, Any], name: str, result: dict[str, Any] | None) -> None:
    """Write a row to the file, or remove it."""
    kept = {row: value for row, value in {**rows(path), name: result}.items() if value is not None}
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**about, "rows": kept}, indent=2) + "\n")
    part.replace(path)


def child(arguments: argparse.Namespace) -> None:
    """Measure the rows of a group that are not in the file yet."""
    level = f" --level {arguments.level}" if arguments.level is not None else ""
    only = f" --only {' '.join(arguments.only)}" if arguments.only else ""
    command = f"python benchmarks/qdq_trt.py --files FOLDER{level}{only} --count {arguments.count}"
    command += f" --limit {arguments.limit:g} --row-limit {arguments.row_limit}"
    about = {**machine(), "command": command}
    for case in cases(arguments.child, arguments.files, arguments.real):
        if case.name in rows(arguments.out):
            continue
        add(arguments.out, about, case.name, STARTED)  # remains if the process crashes
        signal.alarm(arguments.row_limit)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = measure(case, arguments, Path(folder))
            except EdgeSparseError as error:
                result = {"error": str(error)}
        signal.alarm(0)
        add(arguments.out, about, case.name, {**result, "seconds": round(time.perf_counter() - start, 1)})
        print(json.dumps({case.name: rows(arguments.out)[case.name]}), flush=True)


def parent(arguments: argparse.Namespace) -> None:
    for name in [name for name, result in rows(arguments.out).items() if "error" in result]:
        add(arguments.out, json.loads(arguments.out.read_text()), name, None)  # that row is tried again
    deadline = time.monotonic() + arguments.limit
    for group in arguments.only or [MICRO, *nets(arguments.real)]:
        code, before = 1, -1
        while code and len(rows(arguments.out)) > before and time.monotonic() < deadline:
            before = len(rows(arguments.out))
            command = [sys.executable, __file__, *sys.argv[1:], "--child", group, "--out", str(arguments.out)]
            try:
                code = subprocess.run(command, timeout=deadline - time.monotonic(), check=False).returncode
            except subprocess.TimeoutExpired:
                print(f"{group}: the limit of {arguments.limit:g} s was reached", flush=True)
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True, help="Folder of the Q/DQ files.")
    parser.add_argument("--make", action="store_true", help="Write the files and end.")
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--only", nargs="+", choices=(MICRO, "parts_2to4", "parts_dense", "yolox"), help="Groups.")
    parser.add_argument("--count", type=int, default=50, help="Images whose boxes are compared.")
    parser.add_argument("--level", type=int, help="How long TensorRT looks for faster kernels, 0 to 5.")
    parser.add_argument("--limit", type=float, default=600, help="Seconds in all.")
    parser.add_argument("--row-limit", type=int, default=200, help="Seconds for one file.")
    parser.add_argument("--engine", default="tensorrt", help="Another backend, to try the script.")
    parser.add_argument("--out", type=Path, default=RESULTS / "qdq_trt.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.files, arguments.real)
    elif arguments.child:
        child(arguments)
    else:
        parent(arguments)


if __name__ == "__main__":
    main()

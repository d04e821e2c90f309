"""Does TensorRT compute what a Q/DQ file says? Its outputs and boxes beside ONNX Runtime's, on the same pictures.

    python benchmarks/qdq_trt.py [--files FOLDER] [--real ../shared/real] [--count 50] [--only yolox] [--save]
    python benchmarks/qdq_trt.py --files FOLDER --make      only writes the files; needs no GPU
    python benchmarks/qdq_trt.py --qdq-only                 without the FP16 twins

YOLOX-nano on coco_mini/val, the default detectors on calib_data: FP32 files as FP16 engines (how far TensorRT is from
ONNX Runtime without INT8), and Q/DQ files as INT8 engines, 2:4 kernels allowed. Files are quantised with percentile
ranges of 32 pictures; those that lie in FOLDER are taken as they are, so the machine with the GPU needs no onnx. There
too lies timing.cache, which later builds and calls read; without FOLDER it lasts for the call.
`outputs`: of each output, the difference's root mean square over that of ONNX Runtime's, and the greatest difference.
`agreement`: TensorRT's detections against ONNX Runtime's from the same file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.backends import BuildOptions, backend
from edgesparse.backends.base import BuildResult, Precision, Runner
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, InputSpec, load_recipe
from edgesparse.errors import EdgeSparseError
from edgesparse.runtime.agree import compare
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.pictures import picture_files, prepared, read_picture
from edgesparse.runtime.preprocess import Preprocessor

Placement = Literal["fuse", "sparse"]
ROOT = Path(__file__).resolve().parents[1]
CALIBRATED_ON = 32
RAW = 8
"""Pictures whose raw outputs are compared."""
TIMED = 200


@dataclass(frozen=True)
class Net:
    """A float model, how it is fed, and its pictures: to calibrate, to compare."""

    model: Path
    spec: DetectorSpec
    calibrate: Path
    compare: Path
    placements: tuple[Placement, ...]


def nets(real: Path) -> dict[str, Net]:
    yolox = DetectorSpec(
        head="yolox",
        classes=coco_names(),
        input=InputSpec(size=(416, 416), letterbox="top-left", colour="bgr", scale=1.0),
    )
    recipe = load_recipe(ROOT / "edgesparse" / "demo" / "parts.yaml")
    parts = DetectorSpec(
        head=recipe.head, classes=recipe.classes or (), input=InputSpec(**recipe.input.model_dump(exclude_none=True))
    )
    mini, drawn, demo = real / "coco_mini", ROOT / "calib_data", ROOT / "edgesparse" / "demo"
    return {
        "yolox": Net(real / "models" / "yolox_nano.onnx", yolox, mini / "train", mini / "val", ("fuse",)),
        "parts_dense": Net(demo / "parts_dense.onnx", parts, drawn, drawn, ("fuse",)),
        "parts_2to4": Net(demo / "parts_2to4.onnx", parts, drawn, drawn, ("fuse", "sparse")),
    }


def write_quantised(net: Net, placement: Placement, path: Path) -> None:
    """Calibrate and write the Q/DQ file of `net`."""
    from edgesparse.graph import model as graph
    from edgesparse.graph.calibration import calibrate
    from edgesparse.graph.quantize import quantised_tensors, quantize

    model = graph.load(net.model)
    names = quantised_tensors(model, placement)
    files = picture_files(net.calibrate, CALIBRATED_ON)
    ranges = calibrate(model, prepared(files, net.spec.input, 1), tensors=names, method="percentile").amax
    scales = {name: ranges[name] / 127 for name in names}
    made, report = quantize(model, scales, placement=placement)
    graph.save(made, path)
    print(f"{path.name}: {100 * report.share:.1f} % of the convolutions' MACs in INT8", file=sys.stderr)


def raw(runner: Runner, spec: DetectorSpec, pictures: Sequence[NDArray[np.uint8]]) -> list[list[NDArray[Any]]]:
    """Every output for each picture, as float32."""
    buffers = runner.allocate()
    runner.bind(buffers)
    fill = Preprocessor(spec.input, buffers[runner.inputs[0].name])
    found = []
    for picture in pictures:
        fill(picture, 0)
        runner.infer()
        found.append([buffers[output.name].astype(np.float32) for output in runner.outputs])
    return found


def apart(ours: list[list[NDArray[Any]]], theirs: list[list[NDArray[Any]]]) -> list[dict[str, float]]:
    """Of each output over all pictures: relative root mean square and greatest difference."""
    said = []
    for own, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        a, b = np.stack(own), np.stack(other)
        rms = float(np.sqrt(np.mean((a - b) ** 2) / max(float(np.mean(b**2)), 1e-30)))
        said.append({"rms": round(rms, 5), "max": round(float(np.abs(a - b).max()), 4)})
    return said


def measure(
    net: Net, file: Path, precision: Precision, engine: str, count: int, folder: Path, cache: Path
) -> dict[str, Any]:
    """Build `file` and compare it with ONNX Runtime on the same file."""
    files = picture_files(net.compare, count)
    ours, theirs = backend(engine), backend("onnxruntime")
    options = BuildOptions(precision=precision, sparse=precision == "int8", timing_cache=cache)
    built = ours.build(file, folder / f"{file.stem}.engine", options)
    some = [read_picture(path) for path in files[:RAW]]
    runner, reference = ours.load(built.path), theirs.load(file)
    outputs = apart(raw(runner, net.spec, some), raw(reference, net.spec, some))
    times = sorted(runner.latency() for _ in range(TIMED))
    with Detector(runner, net.spec) as candidate, Detector(reference, net.spec) as judge:
        said = compare(judge, candidate, map(read_picture, files))
    return {
        **summary(built),
        "median_ms": round(times[TIMED // 2], 4),
        "outputs": outputs,
        "agreement": said.as_dict(),
    }


def summary(built: BuildResult) -> dict[str, Any]:
    return {
        "precision": built.precision,
        "build_seconds": round(built.seconds, 1),
        "layers": len(built.layers),
        "eligible_for_2to4": len(built.eligible),
        "picked_2to4": len(built.picked),
        "megabytes": round(built.path.stat().st_size / 1e6, 2),
    }


def attempt(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, or its error."""
    start = time.perf_counter()
    try:
        found = work()
    except EdgeSparseError as error:
        found = {"error": str(error)}
    print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "real")
    parser.add_argument("--files", type=Path, help="Folder of the Q/DQ files; left out: a temporary one.")
    parser.add_argument("--make", action="store_true", help="Write the files and end.")
    parser.add_argument("--only", nargs="+", choices=("yolox", "parts_dense", "parts_2to4"), help="Networks.")
    parser.add_argument("--qdq-only", action="store_true", help="Leave the FP16 engines out.")
    parser.add_argument("--count", type=int, default=50, help="Pictures whose boxes are compared.")
    parser.add_argument("--engine", default="tensorrt", help="Another backend, to try the script.")
    parser.add_argument("--save", action="store_true", help="Write results/qdq_trt.json.")
    said = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = said.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, net in nets(said.real).items():
            if said.only and name not in said.only:
                continue
            for placement in net.placements:
                file = folder / f"{name}_{placement}.onnx"
                if not file.exists():
                    write_quantised(net, placement, file)
            cases: list[tuple[str, Path, Precision]] = [] if said.qdq_only else [("fp16", net.model, "fp16")]
            cases += [(f"int8 {p}", folder / f"{name}_{p}.onnx", "int8") for p in net.placements]
            for case, file, precision in [] if said.make else cases:
                found[f"{name} {case}"] = attempt(
                    f"{name} {case}",
                    lambda net=net, file=file, precision=precision: measure(  # type: ignore[misc]
                        net, file, precision, said.engine, said.count, Path(temporary), folder / "timing.cache"
                    ),
                )
    if not said.make:
        save("qdq_trt", {**machine(), "pictures": said.count, **found}, said.save)


if __name__ == "__main__":
    main()

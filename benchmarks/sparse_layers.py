"""Which kernels TensorRT picks for 2:4 convolutions, and their speedup: small networks through edgesparse's own driver.

    python benchmarks/sparse_layers.py [--only 'conv1x1'] [--seconds 0.5] [--together 1] [--limit 120] [--save]

Prints times to standard error; with --save, adds results to benchmarks/results/sparse_layers.json: they replace a
network's earlier results, unless nothing could be measured this time.

Chains of four convolutions with ReLU, in several sizes, and of two with SiLU, each followed by a 1x1 convolution to 16
channels, which is the output and stays float. Built in FP16, in INT8 with a calibration table, and in INT8 with Q/DQ in
both placements, each dense and 2:4 from the same file. Each build has its own process and time limit; a network's
engines are timed in interleaved rounds. `verdict`: a 2:4 engine is kept only if it is faster than its dense twin by
more than the spread.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine
from edgesparse import device
from edgesparse.backends import BuildOptions, BuildResult, backend
from edgesparse.builder.child.job import from_json, to_json
from edgesparse.builder.child.timing import Timing, equal, interleaved
from edgesparse.errors import EdgeSparseError
from edgesparse.int8 import calibration_table
from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize
from edgesparse.model.activations import stream
from edgesparse.sparsity.prune import prune

LIMIT = 120
"""Time limit per build, in seconds."""
SPARSE = " 2:4"
PLACEMENTS: dict[str, Placement] = {"int8-qdq": "fuse", "int8-qdq-sparse": "sparse"}


@dataclass(frozen=True)
class Net:
    """`depth` convolutions from `channels` to `channels`, each with an activation, on batch x channels x size x
    size."""

    channels: int
    kernel: int
    size: int
    batch: int = 1
    activation: str = "ReLU"
    depth: int = 4

    @property
    def name(self) -> str:
        layer = f"conv{self.kernel}x{self.kernel}-{self.activation}"
        return f"{self.depth} {layer} {self.channels} at {self.size}x{self.size} batch {self.batch}"

    def model(self, batch: int) -> ModelProto:
        """With random 2:4 weights, scaled to keep the variance of the activations."""
        rng = np.random.default_rng(0)
        shapes = [(self.channels, self.channels, self.kernel, self.kernel)] * self.depth
        shapes.append((16, self.channels, 1, 1))
        nodes: list[NodeProto] = []
        tensors: dict[str, npt.NDArray[np.float32]] = {}
        at = "x"
        for i, shape in enumerate(shapes):
            deviation = 2 / np.sqrt(np.prod(shape[1:]))
            tensors[f"w{i}"] = (rng.standard_normal(shape) * deviation).astype(np.float32)
            tensors[f"b{i}"] = np.zeros(shape[0], np.float32)
            pads = [shape[2] // 2] * 4
            nodes.append(helper.make_node("Conv", [at, f"w{i}", f"b{i}"], [f"conv{i}"], f"conv{i}", pads=pads))
            at = f"conv{i}"
            if i < self.depth:
                nodes += _activation(self.activation, at, f"act{i}")
                at = f"act{i}"
        entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, self.channels, self.size, self.size])
        result = helper.make_tensor_value_info(at, TensorProto.FLOAT, [batch, 16, self.size, self.size])
        stored = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
        graph = helper.make_graph(nodes, "net", [entry], [result], stored)
        source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        prune(source, [f"conv{i}" for i in range(self.depth)])
        return onnx.shape_inference.infer_shapes(source)


NETS = (
    Net(512, 1, 40),
    Net(256, 3, 40),
    Net(256, 3, 40, activation="SiLU", depth=2),
    Net(128, 3, 80),
    Net(512, 3, 20),
    Net(256, 3, 40, 8),
    Net(512, 3, 20, 8),
    Net(128, 3, 80, activation="SiLU", depth=2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Networks whose name has this in it.")
    parser.add_argument("--seconds", type=float, default=0.5, help="Of timing, an engine.")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--together", type=int, default=1, help="Builds at once; they disturb each other's timing.")
    parser.add_argument("--limit", type=float, default=LIMIT, help="Seconds for each build [%(default)s].")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "TASK", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        folder, task, what = arguments.child
        build(Path(folder), what) if task == "build" else time_all(Path(folder), float(what))
        return
    for net in NETS:
        if arguments.only in net.name:
            results = measure(net, arguments.seconds, arguments.together, arguments.limit)
            tell(net.name, results)
            if arguments.save:  # after each, so that an interrupted run keeps its results
                add(RESULTS / "sparse_layers.json", net.name, results)


def add(path: Path, name: str, results: dict[str, Any]) -> None:
    """Write `results` to the file: they replace the network's earlier ones, or are added to them if it failed."""
    whole, about = json.loads(path.read_text()) if path.exists() else {}, machine()
    when = {"date": about.pop("date"), "command": about.pop("command")}
    known = whole.get("networks", {})
    before = known.get(name, {})
    kept = {**before, **results} if "failed" in results and "candidates" in before else {**when, **results}
    order = [net.name for net in NETS]
    networks = sorted({**known, name: kept}.items(), key=lambda item: order.index(item[0]))
    path.write_text(json.dumps({**whole, **about, "networks": dict(networks)}, indent=2) + "\n")


def measure(net: Net, seconds: float, together: int, limit: float) -> dict[str, Any]:
    """Build every candidate of a network, `together` at a time; time the engines in interleaved rounds; and compare
    each 2:4 one with its dense twin."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = dict(options_of(net, folder))
        (folder / "jobs.json").write_text(json.dumps(jobs))
        dense, sparse = ([job for job in jobs if job.endswith(SPARSE) is kind] for kind in (False, True))
        arguments: dict[str, str] = {}
        for some in (dense, sparse):  # dense ones first: tactics that they timed need not be timed again
            with ThreadPoolExecutor(together) as pool:
                arguments |= dict(
                    zip(some, pool.map(lambda job: child(folder, "build", job, limit), some), strict=True)
                )
        built = {job: folder / f"{job}.json" for job in jobs if (folder / f"{job}.json").exists()}
        failed = {job: arguments[job] for job in jobs if job not in built}
        if not built:
            return {"failed": "; ".join(f"{job}: {why}" for job, why in failed.items())}
        why = child(folder, "time", str(seconds), limit)
        if not (folder / "times.json").exists():
            return {"failed": f"timing: {why}"}
        return {**json.loads((folder / "times.json").read_text()), "not_built": failed}


def child(folder: Path, task: str, what: str, limit: float) -> str:
    """Run one task in its own process, so that a crash or a timeout affects that task alone. Returns the end of its
    output."""
    command = [sys.executable, __file__, "--child", str(folder), task, what]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    return f"exit code {outcome.returncode}: {outcome.stderr[-600:]}"


def build(folder: Path, name: str) -> None:
    """A child's task: write NAME.engine and NAME.json, the BuildResult."""
    job = json.loads((folder / "jobs.json").read_text())[name]
    options = from_json(BuildOptions, job["options"])
    try:
        result = backend("tensorrt").build(folder / job["onnx"], folder / f"{name}.engine", options)
    except EdgeSparseError as error:
        sys.exit(str(error))
    (folder / f"{name}.json").write_text(json.dumps(to_json(result)))


def time_all(folder: Path, seconds: float) -> None:
    """A child's task: write times.json, the results of all engines that were built."""
    names = json.loads((folder / "jobs.json").read_text())
    files = {name: folder / f"{name}.json" for name in names}
    built = {
        name: from_json(BuildResult, json.loads(file.read_text())) for name, file in files.items() if file.exists()
    }
    with ExitStack() as stack:
        engines = backend("tensorrt")
        runners = {name: stack.enter_context(engines.load(result.path)) for name, result in built.items()}
        times = interleaved(runners, seconds)
        clocks = str(device.clocks())
    results = {
        "candidates": {name: described(result, times[name]) for name, result in built.items()},
        "against_dense": compared(built, times),
        "clocks": clocks,
    }
    (folder / "times.json").write_text(json.dumps(results))


def options_of(net: Net, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each candidate's name with its file and build options, for JSON."""
    # Release 8.5 cannot read SiLU's timings back.
    cache = folder / "timing.cache" if net.activation == "ReLU" else None
    for way, options in candidates(net, folder).items():
        for sparse in (False, True):
            chosen = BuildOptions(**{**options, "sparse": sparse, "timing_cache": cache})
            file = "float.onnx" if way in ("fp16", "int8-table") else f"{way}.onnx"
            yield f"{way}{SPARSE if sparse else ''}", {"onnx": file, "options": to_json(chosen)}


def candidates(net: Net, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the ONNX files and the calibration table, and return the build options of each candidate."""
    images = np.random.default_rng(1).standard_normal((2, net.channels, net.size, net.size)).astype(np.float32)
    single = net.model(1)
    tensors = ["x", *(name for node in single.graph.node[:-1] for name in node.output)]
    captured = stream(single, lambda: iter((images[:1], images[1:])), tensors)
    ranges = [{name: float(np.abs(values[name]).max()) for name in tensors} for values in captured]
    scales = {name: max(results[name] for results in ranges) / 127 for name in tensors}
    model = net.model(net.batch)
    onnx.save(model, str(folder / "float.onnx"))
    (folder / "table").write_bytes(calibration_table.write(scales))
    for way, placement in PLACEMENTS.items():
        onnx.save(quantize(model, scales, placement=placement)[0], str(folder / f"{way}.onnx"))
    ways: dict[str, dict[str, Any]] = {"fp16": {"precision": "fp16"}}
    ways["int8-table"] = {"precision": "int8", "table": folder / "table"}
    return ways | {way: {"precision": "int8"} for way in PLACEMENTS}


def described(result: BuildResult, time: Timing) -> dict[str, Any]:
    return {
        **{key: round(value, 5) for key, value in asdict(time).items()},
        "eligible": list(result.eligible),
        "picked": list(result.picked),
        "sparse_kernels": sum(layer.sparse for layer in result.layers),
        "kernels": {layer.name: layer.kernel for layer in result.layers},
        "build_seconds": round(result.seconds, 1),
        "degraded": list(result.degraded),
        "command": re.sub(r"\S*/", "", result.command),
    }


def compared(built: dict[str, BuildResult], times: dict[str, Timing]) -> dict[str, dict[str, Any]]:
    """For each 2:4 engine: its speedup over its dense twin, and which of the two is kept."""
    results = {}
    for name in (name for name in built if name.endswith(SPARSE)):
        dense = times.get(name.removesuffix(SPARSE))
        if dense is None:
            continue
        same, faster = equal(times[name], dense), times[name].median_ms < dense.median_ms
        kernels = sum(layer.sparse for layer in built[name].layers)
        verdict = "dense: too close to tell" if same else "2:4" if faster and kernels else "dense"
        results[name] = {
            "ratio": round(dense.median_ms / times[name].median_ms, 4),
            "sparse_kernels": kernels,
            "verdict": verdict,
        }
    return results


def tell(name: str, results: dict[str, Any]) -> None:
    """Print a short table on standard error as results arrive."""
    lines = [name, *([results["failed"]] if "failed" in results else [])]
    for candidate, arguments in results.get("candidates", {}).items():
        pair = results["against_dense"].get(candidate)
        beside = f"  {pair['ratio']:.3f}x, {pair['sparse_kernels']} sparse kernels: {pair['verdict']}" if pair else ""
        lines.append(
            f"  {candidate:22} {1e3 * arguments['median_ms']:8.1f} us +- {1e3 * arguments['spread']:.1f}{beside}"
        )
    print("\n".join([*lines, *map(str, results.get("not_built", {}).items())]), file=sys.stderr, flush=True)


def _activation(kind: str, at: str, out: str) -> list[NodeProto]:
    if kind == "ReLU":
        return [helper.make_node("Relu", [at], [out], out)]
    gate = f"{out}_gate"
    return [helper.make_node("Sigmoid", [at], [gate], gate), helper.make_node("Mul", [at, gate], [out], out)]


if __name__ == "__main__":
    main()

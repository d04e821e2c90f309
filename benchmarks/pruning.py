"""Pruning to 2:4 compared with its peers: Polygraphy's `surgeon prune`, and ASP's greedy channel permutation.

    python benchmarks/pruning.py --polygraphy /path/to/polygraphy [--real ../shared/real] [--save]

Polygraphy and onnx-graphsurgeon need an environment of their own; --polygraphy names the command there. Both tools
prune YOLOX-nano and a synthetic network with as many weights as YOLOv8l (44 M), as whole processes, alternating, three
times. The permutation searches run on the same matrices: each convolution of YOLOX-nano that can be 2:4, separately.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import asp_greedy
from benchmarks.common import machine, save
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Wiring
from edgesparse.sparsity import permute as ours
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.prune import chosen, prune

ROUNDS = 3
WEIGHTS = 43.6e6


def large() -> ModelProto:
    """A chain of 1x1 and 3x3 convolutions of 512 channels with about 44 M weights, like YOLOv8l."""
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors, count, at = [], 0, "x"
    while count < WEIGHTS:
        i = len(nodes)
        kernel = 3 if i % 3 else 1
        weight = rng.standard_normal((512, 512, kernel, kernel)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"h{i}"], f"conv{i}", pads=[kernel // 2] * 4))
        tensors.append(numpy_helper.from_array(weight, f"w{i}"))
        at, count = f"h{i}", count + weight.size
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512, 8, 8]) for name in ("x", at)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def process(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def state(dense: Path, pruned: Path) -> dict[str, Any]:
    """How many of the eligible layers are 2:4, and the share of `dense`'s magnitude that they keep."""
    report = {layer.name: layer for layer in inspect(onnx.load(pruned)).layers}
    before, after = (Wiring(onnx.load(path).graph) for path in (dense, pruned))
    pairs = [(weight_of(after, node), weight) for node, weight in chosen(before)]
    kept = sum(float(np.abs(row.values).sum()) for row, _ in pairs) / sum(
        float(np.abs(w.values).sum()) for _, w in pairs
    )
    sparse = sum(layer.groups > 0 and layer.violations == 0 for layer in report.values())
    return {"layers_2to4": sparse, "eligible": len(pairs), "magnitude_kept": round(kept, 5)}


def whole_commands(path: Path, folder: Path, polygraphy: str) -> dict[str, Any]:
    """Run both commands alternately: seconds of each whole process, and their results."""
    commands = {
        "edgesparse": [sys.executable, "-m", "edgesparse", "prune", str(path), "-o", str(folder / "e.onnx"), "--force"],
        "polygraphy": [polygraphy, "surgeon", "prune", str(path), "-o", str(folder / "p.onnx")],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seconds[name].append(process(command))
    loaded = onnx.load(path)
    started = time.perf_counter()
    prune(loaded)
    inside = time.perf_counter() - started
    results = {name: {"seconds": spread(seconds[name]), **state(path, folder / f"{name[0]}.onnx")} for name in commands}
    return results | {"edgesparse_prune_alone_seconds": round(inside, 3)}


def spread(seconds: list[float]) -> dict[str, float]:
    return {"min": round(min(seconds), 2), "median": round(median(seconds), 2), "max": round(max(seconds), 2)}


def descent(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """edgesparse's search up to its first local optimum."""
    kicks, ours.KICKS = ours.KICKS, 0
    try:
        return ours.search(matrix)
    finally:
        ours.KICKS = kicks


Search = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.intp]]


def searches(path: Path) -> dict[str, Any]:
    """Run each search on every eligible layer's matrix separately: share of the magnitude kept, and seconds."""
    wiring = Wiring(onnx.load(path).graph)
    matrices = []
    for _, weight in chosen(wiring):
        values = np.abs(np.moveaxis(weight.values, weight.axis, -1), dtype=np.float32)
        matrices.append(values.reshape(-1, values.shape[-1]))
    peers: dict[str, Search] = {
        "none": lambda matrix: np.arange(matrix.shape[1]),
        "edgesparse": ours.search,
        "edgesparse_descent_alone": descent,
        "asp_greedy": asp_greedy.search,
    }
    total = sum(float(matrix.sum()) for matrix in matrices)
    results: dict[str, Any] = {"matrices": len(matrices), "largest": list(max((m.shape for m in matrices), key=prod))}
    for name, search in peers.items():
        started = time.perf_counter()
        kept = sum(asp_greedy.kept(matrix[:, search(matrix)]) for matrix in matrices)
        seconds = time.perf_counter() - started
        results[name] = {"magnitude_kept": round(kept / total, 5), "seconds": round(seconds, 2)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polygraphy", required=True, help="its command, in an environment of its own")
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/pruning.json")
    arguments = parser.parse_args()
    nano = arguments.real / "models" / "yolox_nano.onnx"
    version = subprocess.run([arguments.polygraphy, "--version"], check=True, capture_output=True, text=True).stdout
    message = machine() | {"load_before": os.getloadavg()[0]}
    message["command"] = message["command"].replace(arguments.polygraphy, "polygraphy")
    result: dict[str, Any] = {"machine": message, "polygraphy": version.split("|")[1].strip()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(large(), folder / "large.onnx")
        result["yolox_nano"] = whole_commands(nano, folder, arguments.polygraphy)
        result["weights_44M"] = whole_commands(folder / "large.onnx", folder, arguments.polygraphy)
    result["permutation_search"] = searches(nano)
    save("pruning", result, arguments.save)


if __name__ == "__main__":
    main()

"""Post-training INT8 of YOLOX-nano: NVIDIA ModelOpt, ONNX Runtime's quantizer and edgesparse on the same data.

    python benchmarks/int8_accuracy.py [--environment FOLDER] [--no-peers] [--ours NAME=FILE.onnx ...] [--save]

All calibrate on the training images and are scored on val by edgesparse's evaluation, in ONNX Runtime. The peers run in
an environment of their own, created in a temporary folder or kept and reused in --environment. ModelOpt needs PyTorch
(the CPU build is enough; others take gigabytes); without --environment it is installed too. With --no-peers their rows
come from the last saved run; each row has its date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine, save
from benchmarks.detectors import YOLOX, images
from edgesparse.backends.onnxruntime import OnnxRuntimeBackend
from edgesparse.int8.calibration import calibrate
from edgesparse.int8.quantize import QuantizeReport, quantize, quantized_tensors
from edgesparse.model.wiring import Wiring
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.inspect import inspect

PACKAGES = ("nvidia-modelopt[onnx]==0.47.0", "requests", "huggingface_hub")
PEERS = (
    ("modelopt", "entropy", False),
    ("modelopt", "max", False),
    ("modelopt", "entropy", True),
    ("onnxruntime", "Entropy", False),
    ("onnxruntime", "Percentile", False),
    ("onnxruntime", "MinMax", False),
    ("onnxruntime", "Percentile", True),
)
"""Tool, method, and whether it is configured to keep the head's last layers in float, as edgesparse does by default."""
ROOT = Path(__file__).resolve().parents[1]
TITLES = {"modelopt": "ModelOpt", "onnxruntime": "ONNX Runtime"}


def environment(folder: Path) -> Path:
    """The Python of an environment in `folder` with the peers; created if missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def by_peer(
    python: Path, tool: str, method: str, keep: Sequence[str], paths: tuple[Path, Path, Path]
) -> dict[str, Any]:
    """The result of int8_peers.py for `paths` (model, data, output); if the tool fails, its last line as `error`."""
    script = Path(__file__).with_name("int8_peers.py")
    command = [str(python), str(script), tool, method, *map(str, paths), *keep]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=paths[2].parent, env={**os.environ, "PYTHONPATH": ""}
    )
    if ran.returncode:
        return {"error": (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]}
    return dict(json.loads(ran.stdout.strip().splitlines()[-1]))


def by_verb(model: Path, train: Path, out: Path) -> dict[str, Any]:
    """Run `edgesparse quantize` in a process: seconds and peak resident megabytes, or its last line as `error`."""
    command = [sys.executable, "-m", "edgesparse", "quantize", str(model), "-o", str(out), "--force"]
    command += ["--images", str(train), "--names", "coco"]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        errors.seek(0)
        if status:
            return {"error": (errors.read().strip().splitlines() or [f"ended with {status}"])[-1]}
    return {"seconds": round(time.perf_counter() - started, 1), "peak_rss_mb": used.ru_maxrss // 1024}


def score(path: Path, labels: Labels) -> dict[str, Any]:
    """COCO mAP and mAP50 of a file, and the share of the convolutions' MACs with INT8 inputs."""
    with Detector(OnnxRuntimeBackend().load(path), YOLOX, SCORING) as detector:
        results = evaluate(detector, labels)
    share = int8_share(onnx.load(path))
    return {
        "map": round(results.map, 2),
        "map50": round(results.map50, 2),
        "int8_conv_macs_percent": round(100 * share, 1),
    }


def int8_share(model: ModelProto) -> float:
    """Share of the convolutions' multiply-accumulates whose image and weights both come from a DequantizeLinear."""
    wiring = Wiring(model.graph)
    macs = {layer.name: layer.macs or 0 for layer in inspect(model).layers if layer.op == "Conv"}

    def quantized(name: str) -> bool:
        network_model = wiring.producer.get(name)
        return network_model is not None and network_model.op_type == "DequantizeLinear"

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    inside = [macs[node.name] for node in convolutions if all(map(quantized, node.input[:2]))]
    return sum(inside) / sum(macs.values())


def report_of(model: ModelProto) -> QuantizeReport:
    """The layers that edgesparse would quantize."""
    return quantize(model, dict.fromkeys(quantized_tensors(model), 1.0))[1]


def by_ranges(model: ModelProto, data: Path, out: Path) -> None:
    """edgesparse by calibration alone: the best range per tensor, every layer but the head's outputs in INT8."""
    network_model = calibrate(
        model, lambda: (image[None] for image in np.load(data, mmap_mode="r")), tensors=quantized_tensors(model)
    )
    onnx.save(quantize(model, network_model.scales)[0], str(out))


def known_peers() -> dict[str, Any]:
    """The peers' rows of the last run, each with its date."""
    known = json.loads((RESULTS / "int8_accuracy.json").read_text())
    titles = tuple(TITLES.values())
    return {name: {"date": known["date"], **row} for name, row in known["rows"].items() if name.startswith(titles)}


def table(rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
    print(f"{'':42}{'mAP':>7}{'mAP50':>7}{'INT8 %':>8}{'seconds':>9}{'MB':>7}", file=sys.stderr)
    for name, row in rows:
        if "error" in row:
            print(f"{name:42}{row['error']}", file=sys.stderr)
            continue
        cells = (
            row["map"],
            row["map50"],
            row["int8_conv_macs_percent"],
            row.get("seconds", ""),
            row.get("peak_rss_mb", ""),
        )
        print("{:42}{:>7}{:>7}{:>8}{:>9}{:>7}".format(name, *cells), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "real")
    parser.add_argument("--environment", type=Path, help="Folder of the peers' environment; made if it is not there.")
    parser.add_argument("--ours", action="append", default=[], metavar="NAME=FILE", help="A file to score too.")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--save", action="store_true", help="Write results/int8_accuracy.json.")
    arguments = parser.parse_args()
    labels = Labels(arguments.real / "coco_mini" / "instances_val.json", arguments.real / "coco_mini" / "val")
    source = arguments.real / "models" / "yolox_nano.onnx"
    rows: dict[str, dict[str, Any]] = {"FP32": score(source, labels), **(known_peers() if arguments.no_peers else {})}
    head = [layer.name for layer in report_of(onnx.load(source)).layers if not layer.int8]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "images.npy"), Path(folder, "out.onnx")
        np.save(data, np.concatenate(list(images(arguments.real / "coco_mini" / "train", arguments.images)())))
        python = Path() if arguments.no_peers else environment(arguments.environment or Path(folder, "environment"))
        for tool, method, kept in () if arguments.no_peers else PEERS:
            row = by_peer(python, tool, method, head if kept else (), (source, data, out))
            name = f"{TITLES[tool]}, {method.lower()}{', head float' if kept else ''}"
            rows[name] = row if "error" in row else {**row, **score(out, labels)}
            table(list(rows.items())[-1:])
        by_ranges(onnx.load(source), data, out)
        rows["edgesparse, ranges alone"] = score(out, labels)
        row = by_verb(source, arguments.real / "coco_mini" / "train", out)
        rows["edgesparse quantize"] = row if "error" in row else {**row, **score(out, labels)}
    for ours in arguments.ours:
        name, _, path = ours.partition("=")
        rows[f"edgesparse, {name}"] = score(Path(path), labels)
    table(rows.items())
    result = {**machine(), "images": arguments.images}
    result["rows"] = {name: {"date": result["date"], **row} for name, row in rows.items()}
    # paths of the environment and of input files are specific to this machine
    handed = "".join(f" --ours {ours.partition('=')[0]}=..." for ours in arguments.ours)
    peers = " --no-peers" if arguments.no_peers else ""
    result["command"] = f"python benchmarks/int8_accuracy.py{peers}{handed} --save"
    save("int8_accuracy", result, arguments.save)


if __name__ == "__main__":
    main()

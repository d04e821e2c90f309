"""The whole procedure: draw scenes, train dense, apply 2:4 masks, continue training, then export, check and score
both."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from demo_training import data
from demo_training.batches import Album
from demo_training.export import export, score_onnx
from demo_training.net import Detector
from demo_training.train import Phase, Plan, optimizer_path, validate, write
from edgesparse.demo.scene import CLASSES
from edgesparse.errors import EdgeSparseError
from edgesparse.training.check import check_onnx
from edgesparse.training.masks import sparsify


@dataclass(frozen=True)
class Amounts:
    """Numbers of scenes for training, for starting to train, for validation and for scoring; batch and step limits."""

    train: int
    first: int
    validation: int
    test: int
    batch: int = 128
    steps: int = 1_000_000


@dataclass
class Run:
    """One run of the script: output folder, device and measurements."""

    out: Path
    device: torch.device
    seed: int
    amounts: Amounts
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def took(self, phase: str, since: float) -> None:
        self.seconds[phase] = round(time.monotonic() - since, 1)


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 0 < options.scenes <= data.TEST - data.TRAIN:
        parser.error(f"--scenes {options.scenes}: seeds from {data.TEST} on are reserved for scoring")
    out: Path = options.out
    if (out / "train_demo.json").exists():
        print(f"{out} contains a finished training run: name another folder with --out", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    amounts = Amounts(16, 16, 8, 8, 4, 4) if options.tiny else Amounts(options.scenes, 2048, 256, 1000, options.batch)
    run = Run(out, device, options.seed, amounts)
    torch.manual_seed(run.seed)
    try:
        _train(run, options.dense_minutes * 60, options.sparse_minutes * 60)
    except EdgeSparseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues the dense training", file=sys.stderr)
        return 130
    return 0


def _train(run: Run, dense_seconds: float, sparse_seconds: float) -> None:
    amounts, start = run.amounts, time.monotonic()
    run.say(f"training on {_device_name(run.device)}; drawing scenes")
    with data.Painters() as painters:
        validation = _collect(painters.order(data.VALIDATION, amounts.validation))
        order = painters.order(data.TRAIN, amounts.train)
        album = Album(order, amounts.train, run.device)
        while len(album) < amounts.first:
            album.fill(len(album) + 1)
            run.say(f"{len(album)} of {amounts.first} scenes to start with")
        run.took("first scenes", start)
        dense = _dense(run, album, dense_seconds, validation)
        sparse = _sparse(run, album, dense, sparse_seconds, validation)
        order.cancel()
        start = time.monotonic()
        test = _collect(painters.order(data.TEST, amounts.test))
        run.took("test scenes", start)
    _finish(run, {"parts_dense": dense, "parts_2to4": sparse}, validation, test)
    report = _report(run, len(album))
    (run.out / "train_demo.json").write_text(json.dumps(report, indent=2) + "\n")
    run.say(f"done; see {run.out / 'train_demo.json'}")


def _dense(run: Run, album: Album, seconds: float, validation: data.Stills) -> Detector:
    """Train the dense detector, or continue an interrupted run."""
    start, kept = time.monotonic(), run.out / "dense.pt"
    plan = Plan("dense", seconds, 2e-3, run.amounts.batch, run.amounts.steps)
    phase = Phase(plan, _detector(run), run.seed)
    if kept.exists():
        phase.load(kept)
        run.say(f"dense: continuing from {kept}, step {phase.step}, after {phase.seconds:.0f} s of training")

    def each_minute() -> None:
        phase.save(kept)
        run.say(f"dense: validation mAP50-95 {validate(phase.average.detector, validation).map:.2f}")

    if phase.progress < 1:
        phase.run(album, run.say, each_minute)
        phase.save(kept)
    return _ended(run, phase, start, validation)


def _sparse(run: Run, album: Album, dense: Detector, seconds: float, validation: data.Stills) -> Detector:
    """Prune the dense detector to 2:4 and continue training with the zeros fixed."""
    start = time.monotonic()
    plan = Plan("2:4", seconds, 1e-3, run.amounts.batch, run.amounts.steps)
    detector = _detector(run)
    detector.load_state_dict(dense.state_dict())
    phase = Phase(plan, detector, run.seed + 1)
    masks = sparsify(detector, phase.optimizer)
    masks.freeze()
    masks.apply_to(phase.average.detector)
    run.say(f"2:4: {masks}; without training mAP50-95 {validate(phase.average.detector, validation).map:.2f}")
    run.scores["2:4 without training, validation"] = asdict(validate(phase.average.detector, validation))

    def each_minute() -> None:
        run.say(f"2:4: validation mAP50-95 {validate(phase.average.detector, validation).map:.2f}")

    phase.run(album, run.say, each_minute)
    average = masks.fold(phase.average.detector)
    assert isinstance(average, Detector)
    write({"average": average.state_dict()}, run.out / "2to4.pt")
    return _ended(run, phase, start, validation)


def _ended(run: Run, phase: Phase, start: float, validation: data.Stills) -> Detector:
    name = phase.plan.name
    score = validate(phase.average.detector, validation)
    run.scores[f"{name}, validation"] = asdict(score) | {"steps": phase.step, "training_seconds": phase.seconds}
    run.took(name, start)
    run.say(f"{name}: ended after {phase.step} steps; validation mAP50-95 {score.map:.2f}, mAP50 {score.map50:.2f}")
    return phase.average.detector


def _finish(run: Run, detectors: dict[str, Detector], validation: data.Stills, test: data.Stills) -> None:
    start = time.monotonic()
    for name, detector in detectors.items():
        path = run.out / f"{name}.onnx"
        export(detector, path, CLASSES, validation)
        report = check_onnx(path, require=name == "parts_2to4")
        sparse = [layer for layer in report.eligible if layer.sparse]
        run.say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {len(sparse)} of {len(report.layers)} layers 2:4")
        score = score_onnx(path, test, len(CLASSES), run.say)
        run.scores[name] = asdict(score) | {"layers_2to4": len(sparse), "layers": len(report.layers)}
        run.say(f"{path.name}: test mAP50-95 {score.map:.2f}, mAP50 {score.map50:.2f}")
    run.took("export and score", start)
    optimizer_path(run.out / "dense.pt").unlink(missing_ok=True)


def _collect(order: data.Order) -> data.Stills:
    chunks = []
    while order.pending:
        chunks.append(order.next())
    parts = ([getattr(chunk, name) for chunk in chunks] for name in ("images", "boxes", "classes"))
    return data.Stills(*(np.concatenate(part) for part in parts))


def _detector(run: Run) -> Detector:
    detector = Detector(len(CLASSES), data.SIZE).to(run.device)
    return detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _report(run: Run, scenes: int) -> dict[str, Any]:
    return {
        "command": " ".join(["scripts/train_demo_model", *sys.argv[1:]]),
        "device": _device_name(run.device),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, np, onnx, onnxruntime)},
        },
        "seed": run.seed,
        "scenes": {"training": scenes, "test": run.amounts.test, "test_first_seed": data.TEST},
        "seconds": {**run.seconds, "all": round(time.monotonic() - run.started, 1)},
        "scores": run.scores,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_demo_model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--dense-minutes", type=float, default=5, help="(default %(default)s)")
    parser.add_argument("--sparse-minutes", type=float, default=2.75, help="(default %(default)s)")
    parser.add_argument("--scenes", type=int, default=49152, help="number of scenes to train on (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images per step (default %(default)s)")
    parser.add_argument("--device", help="cuda or cpu (default: cuda if available)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tiny", action="store_true", help="a few steps on a few scenes, to check that everything runs"
    )
    return parser

"""What INT8 and 2:4 without training cost masks, keypoints and rotated boxes of trained networks.

    python benchmarks/trained_tasks.py [--work FOLDER] [--only segment pose obb] [--save]

Trains a small ReLU network per task on generated scenes (task_scenes.py), exports it in the layout of Ultralytics'
YOLOv8 (task_networks.py), and scores it with `evaluate` as it is; after `prune --method reconstruct` of every eligible
layer; after `quantize`; and after both. Pruning and calibration see training scenes, without their labels; all scores
are on other scenes. With --work, an interrupted training goes on from there, and a network that was trained is not
trained again. Needs PyTorch, which trains on the CPU. Seconds are processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import edgesparse
from benchmarks import task_scenes
from benchmarks.common import RESULTS, store_part

if TYPE_CHECKING:
    from benchmarks.task_networks import TaskNetwork

LEARNED, CALIBRATION, TEST = 1000, 128, 200
"""Scenes for training, of which the first calibrate, and for scoring."""
FIRST_TEST = 2_000_000
"""Seed of the first scene for scoring; training scenes count from 0."""
STEPS = 1500
BATCH, RATE = 8, 2e-3
SHRUNK, TOP = 2 / 3, 4
"""How a scene fits into the networks' input: its size there, and the rows of padding above it."""
SWAPPED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""Where each of COCO's keypoints is in a mirror."""
RECIPE = "model: {model}\nbuild: {{backend: onnxruntime}}\n"

Arrays = dict[str, NDArray[Any]]


def arrays(task: str, seeds: range) -> Arrays:
    """Scenes as the networks take them, and their labels in the input's pixels, as task_networks.loss needs them."""
    count, most = len(seeds), task_scenes.MOST
    rows, columns = round(task_scenes.HEIGHT * SHRUNK), round(task_scenes.WIDTH * SHRUNK)
    images = np.full((count, rows + 2 * TOP, columns, 3), 114, np.uint8)
    owner = np.zeros((count, rows // 2 + TOP, columns // 2), np.uint8)
    boxes, classes = np.zeros((count, most, 5), np.float32), np.full((count, most), -1)
    keypoints = np.zeros((count, most, 17, 2), np.float32)
    for i, seed in enumerate(seeds):
        drawn = task_scenes.scene(task, seed)
        images[i, TOP : TOP + rows] = cv2.resize(drawn.image, (columns, rows))
        owner[i, TOP // 2 : TOP // 2 + rows // 2] = drawn.owner[1::3, 1::3]  # the middle one of 3 x 3 pixels
        for k, box in enumerate(drawn.boxes):
            boxes[i, k] = [*box[:4] * SHRUNK + (0, TOP, 0, 0), box[4]]
            classes[i, k] = drawn.classes[k]
        for k, points in enumerate(drawn.keypoints):
            keypoints[i, k] = points * SHRUNK + (0, TOP)
    return {"images": images, "owner": owner, "boxes": boxes, "classes": classes, "keypoints": keypoints}


def varied(scenes: Arrays, random: np.random.Generator) -> Arrays:
    """A batch of the scenes, half of them mirrored, with their color channels in any order."""
    chosen = random.permutation(len(scenes["images"]))[:BATCH]
    batch = {name: values[chosen].copy() for name, values in scenes.items()}
    flip = random.random(len(chosen)) < 0.5
    width = batch["images"].shape[2]
    for name in ("images", "owner"):
        batch[name][flip] = batch[name][flip][:, :, ::-1]
    batch["boxes"][flip, :, 0] = width - batch["boxes"][flip, :, 0]
    batch["boxes"][flip, :, 4] *= -1
    batch["boxes"][..., 4] = (batch["boxes"][..., 4] + np.pi / 4) % np.pi - np.pi / 4  # what the networks' angle spans
    mirrored = batch["keypoints"][flip][:, :, SWAPPED]
    mirrored[..., 0] = width - mirrored[..., 0]
    batch["keypoints"][flip] = mirrored
    images = np.stack([image[..., random.permutation(3)] for image in batch["images"]])
    batch["images"] = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return batch


def train(task: str, checkpoint: Path) -> tuple[TaskNetwork, float]:
    """Return the average of a network's weights, and the seconds of its training, which goes on from `checkpoint`."""
    import torch
    from demo_training.train import Average, cosine, write

    from benchmarks.task_networks import TaskNetwork, loss

    torch.manual_seed(0)
    net, steps = TaskNetwork(task), STEPS
    average, optimizer = Average(net), torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    before = 0.0
    parts: dict[str, Any] = {"net": net, "average": average.detector, "optimizer": optimizer}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        average.steps, before = state["step"], state["seconds"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    clock = time.process_time()
    scenes = arrays(task, range(LEARNED)) if average.steps < steps else {}
    while (step := average.steps) < steps:
        optimizer.param_groups[0]["lr"] = RATE * cosine(step / steps, 0.05)
        batch = varied(scenes, np.random.default_rng(step))
        losses = loss(net.train(), {name: torch.from_numpy(values) for name, values in batch.items()})
        optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        average.update()
        if average.steps % 50 == 0 or average.steps == steps:
            state = {"step": average.steps, "seconds": before + time.process_time() - clock}
            write(state | {name: part.state_dict() for name, part in parts.items()}, checkpoint)
            shown = " ".join(f"{value:.3f}" for value in losses.tolist())
            print(f"{task}: step {average.steps}, {state['seconds']:.0f} s, loss {shown}", file=sys.stderr, flush=True)
    return average.detector, before + time.process_time() - clock


def measured(task: str, work: Path) -> dict[str, Any]:
    """Scores of a task's network as it is, with 2:4, INT8 and both."""
    import torch

    from benchmarks.task_networks import export

    net, seconds = train(task, work / f"{task}.pt")
    for name, first, count in (("calibration", 0, CALIBRATION), ("test", FIRST_TEST, TEST)):
        task_scenes.export(work / task / name, task, first, count)
    folder, images = work / task, work / task / "calibration" / "images"
    dense, pruned = folder / "dense.onnx", folder / "2to4.onnx"
    export(net, dense)
    options: dict[str, Any] = {"images": images, "force": True}
    ways: dict[str, Callable[[Path], Any]] = {
        "2:4": lambda out: edgesparse.prune(dense, out, method="reconstruct", **options),
        "INT8": lambda out: edgesparse.quantize(dense, out, **options),
        "2:4 and INT8": lambda out: edgesparse.quantize(pruned, out, placement="sparse", **options),
    }
    row: dict[str, Any] = {"torch": torch.__version__, "steps": STEPS, "training, seconds": round(seconds)}
    row["dense"] = scored(dense)
    print(task, "dense", row["dense"], file=sys.stderr, flush=True)
    for way, run in ways.items():
        out = folder / f"{way.replace(':', 'to').replace(' ', '-')}.onnx"
        clock = time.process_time()
        share, seconds = run(out).report.share, time.process_time() - clock
        row[way] = {**scored(out), "share of MACs": round(share, 3), "seconds": round(seconds)}
        print(task, way, row[way], file=sys.stderr, flush=True)
    return row


def scored(model: Path) -> dict[str, Any]:
    """Points on the test scenes, by what the task is scored by."""
    recipe = model.with_suffix(".yaml")
    recipe.write_text(RECIPE.format(model=model))
    labels = model.parent / "test"
    result = edgesparse.evaluate(
        recipe, labels / "instances.json", images=labels / "images", store=model.parent / "engines"
    )
    return {"metric": result.metric, "map": round(result.map, 1), "map50": round(result.map50, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, help="Keep checkpoints, models and scenes in this folder.")
    parser.add_argument("--only", nargs="+", choices=task_scenes.CLASSES, default=list(task_scenes.CLASSES))
    parser.add_argument("--save", action="store_true", help="Add each task to results/trained_tasks.json.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for task in options.only:
            row = measured(task, work)
            print(json.dumps({task: row}, indent=1))
            if options.save:
                store_part(RESULTS / "trained_tasks.json", __doc__ or "", task, row)


if __name__ == "__main__":
    main()

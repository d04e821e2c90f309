"""Segmentation, poses, rotated boxes and classification as Ultralytics exports them: its own predict and edgesparse on
the same images.

    python -m venv PEER && PEER/bin/pip install ultralytics onnx onnxslim onnxruntime
    python benchmarks/ultralytics_tasks.py --ultralytics PEER/bin/python [--real ../shared/real] [--save]

Ultralytics runs in the other environment, which exports each network and predicts with the exported file; edgesparse
never imports it. Weights are random, with batch-norm statistics from real images and scores that are spread so that
there is something to detect. Objects are paired where the class is the same, corners are within 2 pixels and scores
within 0.0002; a few pairs are wrong, because random weights find a box in several cells with one score. Reported per
network: how far the boxes, scores, masks, keypoints and corners of rotated boxes of pairs are apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import edgesparse
from benchmarks.common import machine, save
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.rotated import corners_of

HERE = Path(__file__).resolve().parent
NAMES = [f"{family}-{task}" for family in ("yolov8n", "yolo11n", "yolo26n") for task in ("seg", "pose", "obb", "cls")]
LISTS = [f"yolo26n-{task}+end2end" for task in ("seg", "pose", "obb")]
CONF, IOU, IMAGES, PIXELS = 0.1, 0.7, 8, 2.0
LEAST = 100
"""Pixels of the smallest masks that are compared: in fewer, one more or less says nothing."""
THEIRS = """
import glob, shutil, sys
import cv2, numpy as np, torch
from ultralytics import YOLO
folder, out, conf, iou, count, *names = sys.argv[1:]
images = [cv2.imread(f) for f in sorted(glob.glob(folder + "/*.jpg"))[:16]]
for name in names:
    torch.manual_seed(0)
    yaml, _, option = name.partition("+")
    model, size = YOLO(yaml + ".yaml"), 224 if "cls" in name else 320
    net, tensors = model.model, [cv2.resize(p, (size, size))[..., ::-1].copy() for p in images]
    x = torch.stack([torch.from_numpy(t).permute(2, 0, 1).float() / 255 for t in tensors])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        net(x)
    net.eval()
    head = net.model[-1]
    for branch in [b for a in ("cv3", "one2one_cv3") for b in getattr(head, a, None) or []]:
        last, logits = branch[-1], []
        hook = last.register_forward_hook(lambda module, given, answer: logits.append(answer.detach()))
        with torch.no_grad():
            net(x)
        hook.remove()
        if logits:
            values = torch.cat([each.flatten() for each in logits])
            scale = 1.3 / float(values.std())
            last.weight.data.mul_(scale)
            last.bias.data.copy_((last.bias.data - values.mean()) * scale - 4.6)
    if "cls" in name:
        head.linear.weight.data.mul_(8)
    task = {"seg": "segment", "pose": "pose", "obb": "obb", "cls": "classify"}[yaml.split("-")[-1]]
    path = f"{out}/{name}.onnx"
    shutil.move(model.export(format="onnx", imgsz=size, opset=17, **({option: True} if option else {})), path)
    predictor, arrays = YOLO(path, task=task), {}
    for i, image in enumerate(images[: int(count)]):
        options = dict(conf=float(conf), iou=float(iou), imgsz=size, rect=False, max_det=300, retina_masks=True)
        seen = predictor.predict(image, verbose=False, **options)[0].cpu()
        if task == "classify":
            arrays[f"{i}.probs"] = seen.probs.data.numpy()
            continue
        boxes = seen.obb if task == "obb" else seen.boxes
        arrays |= {f"{i}.xyxy": boxes.xyxy.numpy(), f"{i}.conf": boxes.conf.numpy(), f"{i}.cls": boxes.cls.numpy()}
        if task == "obb":
            arrays[f"{i}.corners"] = boxes.xyxyxyxy.numpy()
        if seen.masks is not None:
            arrays[f"{i}.masks"] = np.packbits(seen.masks.data.numpy().astype(bool), axis=-1)
        if seen.keypoints is not None:
            arrays[f"{i}.keypoints"] = seen.keypoints.data.numpy()
    np.savez(f"{out}/{name}.npz", **arrays)
    print(name, flush=True)
"""


def pairs(ours: Detections, theirs: dict[str, NDArray[Any]]) -> list[tuple[int, int]]:
    """(index of ours, index of theirs) of objects that are the same, each at most once."""
    mine = ours.xyxy if ours.rotated is None else corners_of(ours.rotated).reshape(-1, 8)
    free, matched = np.ones(len(ours), np.bool_), []
    for j, (score, label) in enumerate(zip(theirs["conf"], theirs["cls"], strict=True)):
        if ours.rotated is None:
            far = np.abs(mine - theirs["xyxy"][j]).max(axis=1, initial=0)
        else:  # from whichever corner they are listed
            far = np.min([np.abs(mine - np.roll(theirs["corners"][j], k, 0).ravel()).max(1) for k in range(4)], axis=0)
        far = far + 1e4 * np.abs(ours.confidence - score)
        far[~free | (ours.class_id != int(label))] = np.inf
        if len(far) and far.min() < PIXELS:
            matched.append((int(far.argmin()), j))
            free[far.argmin()] = False
    return matched


def compare(row: dict[str, Any], ours: Detections, theirs: dict[str, NDArray[Any]], width: int) -> None:
    """Add one image to a network's row."""
    matched = pairs(ours, theirs)
    for key, count in (("theirs", len(theirs["conf"])), ("ours", len(ours)), ("paired", len(matched))):
        row[key] = row.get(key, 0) + count
    for i, j in matched:
        row.setdefault("score", []).append(abs(ours.confidence[i] - theirs["conf"][j]))
        if ours.rotated is None:
            row.setdefault("box, pixels", []).append(np.abs(ours.xyxy[i] - theirs["xyxy"][j]).max())
        else:
            corners, other = corners_of(ours.rotated[i : i + 1])[0], theirs["corners"][j]
            turned = [np.abs(np.roll(corners, k, axis=0) - other).max() for k in range(4)]
            row.setdefault("corners, pixels", []).append(min(turned))
        if ours.keypoints is not None:
            far = np.abs(ours.keypoints[i, :, :2] - theirs["keypoints"][j, :, :2]).max()
            row.setdefault("keypoints, pixels", []).append(far)
        if ours.masks is not None:
            other = np.unpackbits(theirs["masks"][j], axis=-1)[:, :width].astype(np.bool_)
            mine = ours.masks[i].bitmap()
            union = np.logical_or(mine, other).sum()
            if union >= LEAST:
                row.setdefault("1 - IoU of masks", []).append(1 - np.logical_and(mine, other).sum() / union)


def compared(path: Path, images: list[NDArray[np.uint8]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    stored = np.load(path.with_suffix(".npz"))
    conf = 1e-4 if "cls" in path.stem else CONF  # random weights spread a thousand classes thin
    with edgesparse.load(path, conf=conf, iou=IOU, max_det=300, store=path.parent / "engines") as detector:
        row["head"] = detector.spec.head
        for i, image in enumerate(images):
            theirs = {key.partition(".")[2]: stored[key] for key in stored.files if key.startswith(f"{i}.")}
            ours = detector(image)
            if "probs" in theirs:
                best = int(theirs["probs"].argmax())
                row["theirs"] = row.get("theirs", 0) + 1
                row["top-1 the same"] = row.get("top-1 the same", 0) + (len(ours) > 0 and int(ours.class_id[0]) == best)
                row.setdefault("score", []).append(abs(ours.confidence[0] - theirs["probs"].max()))
            else:
                compare(row, ours, theirs, image.shape[1])
    return {key: spread(value) if isinstance(value, list) else value for key, value in row.items()}


def spread(values: list[float]) -> dict[str, float]:
    parts = {"median": 50, "99 %": 99, "most": 100}
    return {name: round(float(np.percentile(values, part)), 5) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ultralytics", required=True, metavar="PYTHON", help="The interpreter that has Ultralytics.")
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--folder", type=Path, help="Where exports and predictions are kept, and found again.")
    parser.add_argument("--only", default="", help="Part of the names of the networks.")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    source = options.real / "coco_mini" / "val"
    images = [np.asarray(cv2.imread(str(file)), np.uint8) for file in sorted(source.glob("*.jpg"))[:IMAGES]]
    names, rows = [name for name in (*NAMES, *LISTS) if options.only in name], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(options.folder or temporary)
        command = [options.ultralytics, "-c", THEIRS, str(source.absolute()), folder, str(CONF), str(IOU), str(IMAGES)]
        missing = [name for name in names if not Path(folder, f"{name}.npz").exists()]
        if missing:
            subprocess.run([*command, *missing], check=True, cwd=temporary, stdout=sys.stderr)
        for name in names:
            rows[name] = compared(Path(folder, f"{name}.onnx"), images)
            print(name, rows[name], file=sys.stderr, flush=True)
    command = [options.ultralytics, "-c", "import ultralytics; print(ultralytics.__version__)"]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    peer = f"ultralytics {version}"
    save("ultralytics_tasks", {"question": __doc__, **machine(), "peer": peer, "networks": rows}, options.save)


if __name__ == "__main__":
    main()

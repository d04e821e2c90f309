"""Tiles, side by side with SAHI (https://github.com/obss/sahi) in one run: time per frame, boxes, and mAP on the same
large images.

    pip install --target PEER sahi
    python benchmarks/tiles.py --peer PEER [--real ../shared/real] [--save]

The images are mosaics of six labeled photographs each, 1920 x 960, in which tiles of 480 pixels cut many objects. The
network is YOLOX-nano, in ONNX Runtime on the CPU. SAHI calls the same detector for each slice, with an engine of batch
one, and merges with its defaults (GREEDYNMM, intersection over the smaller area, 0.5). For confidences below 0.1, as
when scoring, it selects NMS and intersection over union itself; both are scored. edgesparse runs the same engine
once per tile, and one of the right batch once per frame. A box of one is also the other's if the other has one of its
class with an intersection over the smaller area of more than 0.5, SAHI's own measure. SAHI runs in this process, from
the folder PEER; edgesparse itself never imports it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import machine, save
from edgesparse.builder.targets import open_detector, ready, recipe_of
from edgesparse.config import Run
from edgesparse.runtime import merge
from edgesparse.runtime.coco_scores import points_of, run_coco
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.tiles import Tiles, parts_of

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH, SIDE, OVERLAP = 960, 1920, 480, 0.2
SHOWN, SCORED = 0.3, 0.02
Image = NDArray[np.uint8]


def mosaics(real: Path) -> tuple[list[Image], dict[str, Any]]:
    """The images, and their labels as COCO has them."""
    labels = json.loads((real / "coco_mini" / "instances_val.json").read_text())
    files = [i for i in labels["images"] if i["width"] == WIDTH // 3 and i["height"] <= HEIGHT // 2][:72]
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": labels["categories"]}
    images = []
    for number in range(len(files) // 6):
        image = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
        for place, entry in enumerate(files[6 * number : 6 * number + 6]):
            top, left = place // 3 * HEIGHT // 2, place % 3 * WIDTH // 3
            photo = cv2.imread(str(real / "coco_mini" / "val" / entry["file_name"]))
            assert photo is not None
            image[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
            for box in (a for a in labels["annotations"] if a["image_id"] == entry["id"]):
                x, y, *size = box["bbox"]
                at = {"image_id": number, "bbox": [x + left, y + top, *size], "category_id": box["category_id"] + 1}
                truth["annotations"].append({"iscrowd": 0, **box, **at, "id": len(truth["annotations"]) + 1})
        truth["images"].append({"id": number, "height": HEIGHT, "width": WIDTH})
        images.append(image)
    truth["categories"] = [{**entry, "id": entry["id"] + 1} for entry in labels["categories"]]
    return images, truth


class Sahi:
    """SAHI's sliced prediction with a detector of edgesparse for each slice."""

    def __init__(self, detector: Detector, conf: float, force: bool = False) -> None:
        from sahi.models.base import DetectionModel
        from sahi.predict import get_sliced_prediction
        from sahi.prediction import ObjectPrediction
        from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list

        class Model(DetectionModel):  # type: ignore[misc]
            def load_model(self) -> None:
                self.model = detector

            def perform_inference(self, image: Image) -> None:
                self._original_predictions = detector(np.ascontiguousarray(image[..., ::-1]))

            def _create_object_prediction_list_from_original_predictions(
                self, shift_amount_list: Any = None, full_shape_list: Any = None
            ) -> None:
                shift, full = fix_shift_amount_list(shift_amount_list)[0], fix_full_shape_list(full_shape_list)
                full = full[0] if full else None
                self._object_prediction_list_per_image = [
                    [
                        ObjectPrediction([*each.xyxy], each.class_id, each.name, None, each.confidence, shift, full)
                        for each in self._original_predictions
                    ]
                ]

        self._predict, self._model = get_sliced_prediction, Model(device="cpu", confidence_threshold=conf)
        self._force = force

    def __call__(self, image: Image) -> Detections:
        rgb = np.ascontiguousarray(image[..., ::-1])
        sides = {"slice_height": SIDE, "slice_width": SIDE}
        overlap = {"overlap_height_ratio": OVERLAP, "overlap_width_ratio": OVERLAP}
        answer = self._predict(
            rgb, self._model, **sides, **overlap, verbose=0, force_postprocess_type=self._force
        ).object_prediction_list
        boxes = np.array([each.bbox.to_xyxy() for each in answer], np.float32).reshape(-1, 4)
        scores = np.array([each.score.value for each in answer], np.float32)
        return Detections(boxes, scores, np.array([each.category.id for each in answer], np.int64))


def shared(first: Detections, second: Detections) -> int:
    """How many boxes of the first are also the second's."""
    a, b = first.xyxy[:, None].astype(float), second.xyxy[None].astype(float)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (a, b)]
    same = np.maximum(sides, 0).prod(axis=-1) > 0.5 * np.minimum(*areas)
    return int((same & (first.class_id[:, None] == second.class_id)).any(axis=1).sum())


def mean_precision(results: list[Detections], truth: dict[str, Any]) -> float:
    rows = [
        [number, x1, y1, x2 - x1, y2 - y1, float(score), label + 1]
        for number, result in enumerate(results)
        for (x1, y1, x2, y2), score, label in zip(
            result.xyxy.tolist(), result.confidence, result.class_id.tolist(), strict=True
        )
    ]
    run = run_coco("detect", truth, rows, ())
    assert run is not None
    return round(float(points_of(run, "detect")[0]), 1)


def timed(ways: dict[str, Any], images: list[Image], turns: int) -> dict[str, float]:
    """Milliseconds per image: the fastest of `turns` of each, interleaved, and of these the median."""
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for image in images:
        runs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns + 1):
            for name, detect in ways.items():
                begun = time.perf_counter()
                detect(image)
                runs[name].append(1e3 * (time.perf_counter() - begun))
        for name, each in runs.items():
            times[name].append(each)
    return {name: round(float(np.median(np.min(each, axis=1))), 1) for name, each in times.items()}


def measured(real: Path, folder: Path, turns: int) -> dict[str, Any]:
    images, truth = mosaics(real)
    tiles = Tiles(size=(SIDE, SIDE), overlap=OVERLAP)
    recipe = recipe_of(real / "models" / "yolox_nano.onnx", "coco")
    count = 1 + len(parts_of(tiles, (HEIGHT, WIDTH), (416, 416)))
    packages = {}
    for batch in (1, count):
        path = folder / f"batch{batch}.yaml"
        path.write_text(f"model: {recipe.model}\nclasses: coco\nbuild: {{batch: {batch}, backend: onnxruntime}}\n")
        packages[batch] = ready(path, folder / f"engines{batch}")
    result: dict[str, Any] = {"images": len(images), "tiles and the whole frame": count}
    for conf in (SHOWN, SCORED):
        plain, tiled = Run(conf=conf, iou=0.65), Run(conf=conf, iou=0.65, tiles=tiles)
        with (
            open_detector(packages[1], plain) as alone,
            open_detector(packages[1], tiled) as rounds,
            open_detector(packages[count], tiled) as batch_detector,
        ):
            sahi = Sahi(alone, conf)
            if conf == SCORED:
                ways: dict[str, Any] = {"whole frame": alone, "SAHI": sahi, "SAHI, GREEDYNMM": Sahi(alone, conf, True)}
                scores = {name: mean_precision([way(image) for image in images], truth) for name, way in ways.items()}
                for merge.SAME in (0.3, 0.7, 0.5):
                    name = f"edgesparse, from an agreement of {merge.SAME}"
                    scores[name] = mean_precision([rounds(image) for image in images], truth)
                result["mAP"] = scores
                continue
            ways = {"whole frame": alone, "SAHI": sahi, "edgesparse, batch 1": rounds}
            ways[f"edgesparse, batch {count}"] = batch_detector
            result["milliseconds per image"] = timed(ways, images, turns)
            ours, theirs = [rounds(image) for image in images], [sahi(image) for image in images]
            result[f"boxes from a confidence of {SHOWN}"] = {
                "SAHI": sum(map(len, theirs)),
                "edgesparse": sum(map(len, ours)),
                "SAHI's that edgesparse has": sum(shared(b, a) for a, b in zip(ours, theirs, strict=True)),
                "edgesparse's that SAHI has": sum(shared(a, b) for a, b in zip(ours, theirs, strict=True)),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", type=Path, required=True, metavar="FOLDER", help="Where sahi is installed.")
    parser.add_argument("--real", type=Path, default=HERE.parents[1] / "shared" / "real")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    sys.path.append(str(options.peer))
    with tempfile.TemporaryDirectory() as folder:
        result = measured(options.real, Path(folder), options.turns)
    version = next(d.version for d in metadata.distributions(path=[str(options.peer)]) if d.name == "sahi")
    save("tiles", {"question": __doc__, **machine(), "peer": f"sahi {version}", **result}, options.save)


if __name__ == "__main__":
    main()

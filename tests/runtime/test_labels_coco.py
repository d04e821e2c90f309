"""COCO files as found in practice: each variant is read, or refused with the fault and examples."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import image_data
import numpy as np
import pytest
import squares

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import ConfigError
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.labels.read import Labels

Content = dict[str, Any]
Edit = Callable[[Content], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return squares.coco_annotations(tmp_path)


def edited(path: Path, edit: Edit, before: str = "") -> Path:
    content = copy.deepcopy(json.loads(path.read_text()))
    edit(content)
    path.write_text(before + json.dumps(content), encoding="utf-8")
    return path


def points(path: Path, images: Path | None = None) -> float:
    model = squares.detector(path.parent / "model.onnx")
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    with Detector(backend("onnxruntime").load(model, 1), spec, SCORING) as detector:
        return evaluate(detector, Labels(path, images)).map


def roboflow(content: Content) -> None:
    for category in content["categories"]:
        category["id"] += 1
    for box in content["annotations"]:
        box["category_id"] += 1
    content["categories"].insert(0, {"id": 0, "name": "squares", "supercategory": "none"})


def renumber(content: Content) -> None:
    ids = {0: 90, 1: 3}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for box in content["annotations"]:
        box["category_id"] = ids[box["category_id"]]


def capitals(content: Content) -> None:
    """Different order, upper case, and a trailing blank."""
    content["categories"] = [{"id": 0, "name": "GREEN"}, {"id": 1, "name": " Red "}]
    for box in content["annotations"]:
        box["category_id"] = 1 - box["category_id"]


def text_ids(content: Content) -> None:
    for image in content["images"]:
        image["id"] = f"{image['id']:06d}"
    for category in content["categories"]:
        category["id"] = str(category["id"])
    for box in content["annotations"]:
        box["image_id"], box["category_id"] = f"{box['image_id']:06d}", str(box["category_id"])


def uuids(content: Content) -> None:
    for image in content["images"]:
        image["id"] = f"6ba7b810-{image['id']}"
    for box in content["annotations"]:
        box["image_id"] = f"6ba7b810-{box['image_id']}"


def each(part: str, **change: Any) -> Edit:
    return lambda content: [entry.update(change) for entry in content[part]]


def file_names(form: str) -> Edit:
    return lambda content: [image.update(file_name=form.format(image["file_name"])) for image in content["images"]]


def without(*keys: str) -> Edit:
    return lambda content: [box.pop(key) for box in content["annotations"] for key in keys if key in box]


def polygons(content: Content) -> None:
    for box in content["annotations"]:
        x, y, w, h = box.pop("bbox")
        box["segmentation"] = [[x, y, x + w, y, x + w, y + h], [x, y + h, x + w, y]]


def boxes(change: Callable[[float, float, float, float], list[Any]]) -> Edit:
    return lambda content: [box.update(bbox=change(*box["bbox"])) for box in content["annotations"]]


READ: dict[str, Edit] = {
    "plain": lambda content: None,
    "Roboflow's extra category": roboflow,
    "category ids with gaps, in another order": renumber,
    "names in capitals, with blanks, in another order": capitals,
    "ids as text": text_ids,
    "UUIDs": uuids,
    "backslashes": file_names("images\\{}"),
    "a folder that is not there": file_names("images/{}"),
    "absolute paths of another machine": file_names("/elsewhere/images/{}"),
    "no area, no iscrowd": without("area", "iscrowd"),
    "area and iscrowd are null": each("annotations", area=None, iscrowd=None),
    "area is zero": each("annotations", area=0),
    "area is text": each("annotations", area="64"),
    "run lengths beside boxes": each("annotations", segmentation={"size": [64, 64], "counts": "abc"}),
    "boxes only as polygons": polygons,
    "numbers as text": boxes(lambda *xywh: [str(value) for value in xywh]),
    "no image sizes": lambda content: [(i.pop("width"), i.pop("height")) for i in content["images"]],
    "sizes as text": each("images", width="64", height="64.0"),
    "a category without boxes that is no class": lambda content: content["categories"].append(
        {"id": 9, "name": "blue"}
    ),
    "a box of an image that is not listed": lambda content: content["annotations"].append(
        {"id": 999, "image_id": 777, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    ),
}


@pytest.mark.parametrize("edit", READ.values(), ids=READ.keys())
def test_variants_that_mean_the_same_score_the_same(path: Path, edit: Edit) -> None:
    assert points(edited(path, edit)) == pytest.approx(100)


def test_boxes_listed_twice_count_once_and_are_noted(path: Path) -> None:
    plain = points(path)
    edited(path, lambda content: content["annotations"].extend(copy.deepcopy(content["annotations"])))
    (note,) = Labels(path).notes
    assert note.startswith("boxes listed twice: ") and points(path) == plain


def test_a_byte_order_mark_is_read(path: Path) -> None:
    assert points(edited(path, lambda content: None, "\ufeff")) == pytest.approx(100)


def test_images_are_found_in_a_folder_beside_or_where_they_are_said_to_be(path: Path, tmp_path: Path) -> None:
    assert Labels(path).folder == tmp_path
    inside = tmp_path / "val"
    inside.mkdir()
    for image in tmp_path.glob("*.png"):
        image.rename(inside / image.name)
    assert Labels(path).folder == inside and points(path, inside) == pytest.approx(100)
    assert Labels(tmp_path).path == path
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        Labels(path, tmp_path / "nowhere")
    (inside / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"images missing in .*: 1 \(0.png.*--images"):
        Labels(path)


def double(content: Content) -> None:
    """Labels for images twice as large, as stated in the file."""
    for image in content["images"]:
        image["width"], image["height"] = 2 * image["width"], 2 * image["height"]
    boxes(lambda *xywh: [2 * value for value in xywh])(content)


def double_without_sizes(content: Content) -> None:
    double(content)
    for image in content["images"]:
        del image["width"], image["height"]


REFUSED: dict[str, tuple[Edit, str]] = {
    "one name differs": (
        lambda content: content["categories"][1].update(name="verde"),
        r"1 of 2 categories are no class of the detector: found 'verde', needed of its 2 classes 'green'",
    ),
    "normalized": (
        boxes(lambda *xywh: [v / 64 for v in xywh]),
        r"boxes normalized to 0\.\.1 \(the largest value is 0.8\d*\): 24; multiply",
    ),
    "corners": (
        boxes(lambda x, y, w, h: [x, y, x + w, y + h]),
        r"boxes that leave their image as x, y, width, height, and all fit as x1, y1, x2, y2: \d+ of 24 "
        r"\(annotation .*of 64x64",
    ),
    "of larger images": (double, r"0.png is 64x64, .* says 128x128: the labels belong to images of another size"),
    "of larger images, without their sizes": (
        double_without_sizes,
        r"boxes that leave their image: \d+ of 24 \(annotation ",
    ),
    "an image listed twice": (
        lambda content: content["images"].append({**content["images"][0], "id": 99}),
        r"images listed twice: 1 \(0.png\); list each once",
    ),
    "an entry that is repeated": (
        lambda content: content["images"].append(content["images"][0]),
        r"images listed twice: 1 \(0.png\)",
    ),
    "two images of one id": (
        lambda content: content["images"][1].update(id=0),
        r"images with the id of another: 1 \(0: 1.png\)",
    ),
    "two categories of one name": (
        lambda content: content["categories"].append({"id": 9, "name": "red"}),
        r"categories with the name of another: 1 \(red\)",
    ),
    "two categories of one id": (
        lambda content: content["categories"].append({"id": "1", "name": "blue"}),
        r"categories with the id of another: 1 \(1: blue\)",
    ),
    "a category that is not listed": (
        lambda content: content["annotations"][2].update(category_id=77),
        r"boxes of unknown categories: 1 \(annotation 3: category 77\)",
    ),
    "no box": (
        lambda content: content["annotations"][3].update(bbox=[]),
        r"annotations without a box or a polygon: 1 \(annotation 4\)",
    ),
    "not a number": (
        lambda content: content["annotations"][0]["bbox"].__setitem__(0, float("nan")),
        r"boxes that are not four finite numbers: 1 \(annotation 1: \[nan, ",
    ),
    "negative": (boxes(lambda x, y, w, h: [x, y, -w, h]), r"boxes of negative size: 24 \(annotation 1: "),
    "results": (lambda content: content.update(images={"a": 1}), "found dict in place of the list 'images'"),
    "no images": (lambda content: content.pop("images"), "found nothing in place of the list 'images'"),
    "an empty list of images": (lambda content: content["images"].clear(), "has no images"),
    "no boxes": (lambda content: content["annotations"].clear(), "has no annotations"),
    "no categories": (lambda content: content.pop("categories"), "found nothing in place of the list 'categories'"),
    "an image without a name": (lambda content: content["images"][1].pop("file_name"), "without an id or a file_name"),
    "a category without an id": (lambda content: content["categories"][0].pop("id"), "categories without an id"),
    "a box that is text": (lambda content: content["annotations"].append("box"), "entries that are no mappings"),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_variants_that_mean_something_else_are_refused_with_the_evidence(path: Path, edit: Edit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        points(edited(path, edit))


def test_every_kind_of_fault_is_counted(path: Path) -> None:
    def damage(content: Content) -> None:
        content["images"][1].update(id=0)
        content["annotations"][3].update(bbox=[])
        content["categories"].append({"id": 9, "name": "red"})
        content["annotations"][5].update(category_id=5)

    with pytest.raises(ConfigError, match=r"\(and 3 more kinds of faults\); 'edgesparse check-labels .*' lists every"):
        Labels(edited(path, damage))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff", "[" * 100_000])
def test_a_file_that_is_no_coco_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"labels.json is not COCO JSON"):
        Labels(tmp_path / "labels.json")
    with pytest.raises(ConfigError, match=r"no annotations .*nowhere.json"):
        Labels(tmp_path / "nowhere.json")


def test_a_list_that_occurs_twice_is_refused(path: Path) -> None:
    """As two files joined by hand: JSON readers silently keep the last one."""
    path.write_text(path.read_text()[:-1] + ', "annotations": [{"image_id": 1, "bbox": [1, 1, 2, 2]}]}')
    with pytest.raises(ConfigError, match=r"not COCO JSON \(the key 'annotations' occurs twice\)"):
        Labels(path)


@pytest.mark.parametrize(("rotation", "fits"), [(0.0, True), (None, True), (45.5, False)])
def test_rotated_boxes_are_refused(path: Path, rotation: float | None, fits: bool) -> None:
    """CVAT writes the box before its rotation, which does not surround the object."""
    edited(path, lambda content: content["annotations"][3].update(attributes={"rotation": rotation}))
    if fits:
        assert Labels(path)
        return
    with pytest.raises(ConfigError, match=r"boxes with a rotation, as CVAT writes them: 1 .*annotation 4.*polygons"):
        Labels(path)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (80, 80)])
def test_the_orientation_that_fits_the_labels_size_is_used(tmp_path: Path, width: int, height: int) -> None:
    """The file stores 96 x 64 pixels, and EXIF says to rotate them by 90 degrees."""
    shown = np.zeros((64, 96, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes(image_data.with_orientation(cv2.imencode(".jpg", shown)[1].tobytes(), 6))
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}], "annotations": [box]}
    (tmp_path / "labels.json").write_text(json.dumps({**content, "categories": [{"id": 1, "name": "red"}]}))
    labels = Labels(tmp_path / "labels.json")
    if width == height:
        with pytest.raises(ConfigError, match=r"a.jpg is 64x96, .* says 80x80"):
            list(labels.read())
        return
    ((image, pixels),) = labels.read()
    assert image.size == (width, height) == pixels.shape[1::-1]

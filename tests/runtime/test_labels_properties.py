"""Whatever a labels file contains, it is read or refused in one line; what is read is valid."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import squares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesparse.errors import ConfigError
from edgesparse.runtime.labels.base import Faults, LabeledBox
from edgesparse.runtime.labels.geometry import check_geometry
from edgesparse.runtime.labels.read import Labels

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
KEYS = (
    "id",
    "file_name",
    "width",
    "height",
    "image_id",
    "category_id",
    "bbox",
    "area",
    "iscrowd",
    "segmentation",
    "name",
)


def content(folder: Path) -> dict[str, Any]:
    path = squares.coco_annotations(folder, 2)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def check(path: Path) -> None:
    try:
        labels = Labels(path)
    except ConfigError as error:
        assert "\n" not in str(error) and str(path.parent) in str(error)
        return
    assert labels.boxes and labels.images
    truth = labels.as_coco(labels.sizes())
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for box in truth["annotations"]:
        assert box["image_id"] in images and box["category_id"] in categories and box["area"] > 0
        assert all(map(math.isfinite, box["bbox"])) and min(box["bbox"][2:]) > 0
    assert len({image.path for image in labels.images}) == len(labels.images)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 11), st.sampled_from(KEYS), json_values)
def test_any_value_in_any_place_is_read_or_refused(part: str, position: int, key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = content(folder)
        labels[part][position % len(labels[part])][key] = value
        (folder / "labels.json").write_text(json.dumps(labels))
        check(folder / "labels.json")


@settings(max_examples=200)
@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "labels.json").write_text(json.dumps(value))
        check(Path(name) / "labels.json")


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_in_a_yolo_file_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        squares.coco_annotations(folder, 2)
        (folder / "instances_val.json").unlink()
        (folder / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
        (folder / "1.txt").write_text(text, encoding="utf-8", errors="replace")
        (folder / "data.yaml").write_text("val: .\nnames: [red, green]\n")
        check(folder / "data.yaml")


@settings(max_examples=200)
@given(st.sampled_from(["names", "val", "path", "nc", "train"]), json_values)
def test_any_value_in_a_data_yaml_is_read_or_refused(key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        squares.coco_annotations(folder, 2)
        (folder / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
        content = {"val": ".", "names": ["red", "green"], key: value}
        (folder / "data.yaml").write_text(json.dumps(content))
        check(folder / "data.yaml")


inside = st.tuples(st.floats(0, 600), st.floats(0, 440), st.floats(2, 40), st.floats(2, 40))


@given(st.lists(inside, min_size=1, max_size=30))
def test_boxes_within_their_images_have_no_fault(boxes: list[tuple[float, float, float, float]]) -> None:
    faults = Faults()
    check_geometry([LabeledBox(1, 0, box) for box in boxes], {1: (640, 480)}, False, faults)
    assert list(faults) == []


@given(st.lists(inside, min_size=4, max_size=30), st.integers(0, 1))
def test_other_formats_are_never_taken_for_pixels(boxes: list[tuple[float, float, float, float]], kind: int) -> None:
    """Corners are only recognized if reading them as sizes leaves the image; otherwise nothing distinguishes them."""
    faults = Faults()
    if kind:
        other = [(x / 640, y / 480, w / 640, h / 480) for x, y, w, h in boxes]
    else:
        other = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    check_geometry([LabeledBox(1, 0, box) for box in other], {1: (640, 480)}, False, faults)
    leaves = any(x + w > 1.02 * 640 or y + h > 1.02 * 480 for x, y, w, h in other)
    assert bool(faults.fatal) == (bool(kind) or leaves)

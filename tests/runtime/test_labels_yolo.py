"""YOLO data sets: locations of images and text files, valid lines, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import squares

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import ConfigError
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.labels.read import Labels, files_of, inspect_labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set with `images/val` and `labels/val`; returns its data.yaml."""
    images, labels = tmp_path / "images/val", tmp_path / "labels/val"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    coco = squares.coco_annotations(images)
    content = json.loads(coco.read_text())
    for image in content["images"]:
        boxes = [box for box in content["annotations"] if box["image_id"] == image["id"]]
        lines = [
            f"{box['category_id']} {(box['bbox'][0] + 4) / 64} {(box['bbox'][1] + 4) / 64} 0.125 0.125" for box in boxes
        ]
        (labels / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    coco.unlink()
    return described(tmp_path, "val: images/val\nnames: [red, green]\n")


def described(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def points(path: Path) -> float:
    model = squares.detector(path.parent / "model.onnx")
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    with Detector(backend("onnxruntime").load(model, 1), spec, SCORING) as detector:
        return evaluate(detector, Labels(path)).map


@pytest.mark.parametrize(
    "text",
    [
        "val: images/val\nnames: {0: red, 1: green}\nnc: 2\n",
        "path: .\ntrain: nowhere\nval: [images/val]\nnames: [RED, green]\n",
        "path: ../datasets/elsewhere\nval: images/val\nnames: [red, green]\n",
        "val: ../images/val\nnames: ['red', 'green']\n",  # as written by Roboflow
        "val: list.txt\nnames: [red, green]\n",
        "val: [images/val/0.png, images/val/1.png, images/val/2.png, images/val/3.png]\nnames: [red, green]\n",
        "test: images/val\nnames: [red, green]\n",
        "\ufeffval: images/val\nnames: [red, green]\n",
    ],
)
def test_the_usual_ways_to_describe_a_data_set_are_read(data: Path, text: str) -> None:
    (data.parent / "list.txt").write_text("".join(f"./images/val/{i}.png\n" for i in range(4)))
    assert points(described(data.parent, text)) == pytest.approx(100)


def test_polygons_repetitions_and_images_without_a_file_are_read(data: Path) -> None:
    first = data.parent / "labels/val/0.txt"
    lines = first.read_text().splitlines()
    category, x, y, _, _ = map(float, lines[0].split())
    corners = [x - 1 / 16, y - 1 / 16, x + 1 / 16, y - 1 / 16, x + 1 / 16, y + 1 / 16, x - 1 / 16, y + 1 / 16]
    lines[0] = " ".join(map(str, [int(category), *corners]))
    first.write_text("\n".join([*lines, lines[1], "", "  "]))
    squares_free = data.parent / "images/val/9.png"
    squares_free.write_bytes((data.parent / "images/val/0.png").read_bytes())
    labels = Labels(data)
    assert len(labels.images) == 5 and len(labels.boxes) == 24
    assert [note.partition(" (")[0] for note in labels.notes] == [
        "images without a label file: 1",
        "boxes listed twice: 1",
    ]
    squares_free.unlink()
    assert points(data) == pytest.approx(100)


def test_labels_may_be_beside_their_images(data: Path) -> None:
    for file in (data.parent / "labels/val").glob("*.txt"):
        file.rename(data.parent / "images/val" / file.name)
    assert points(data) == pytest.approx(100)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"lines with a class that is not a whole number below 2: 1 \(0.txt line 1: 2\)"),
        ("0.5 0.5 0.5 0.1 0.1", "not a whole number below 2"),
        ("-1 0.5 0.5 0.1 0.1", "not a whole number below 2"),
        ("0 32 32 8 8", r"lines with values outside 0\.\.1: 1 \(0.txt line 1: 32 32 8 8\); divide pixels"),
        ("0 0.5 0.5 0.1", r"lines that hold no box: 1 \(0.txt line 1: 0 0.5 0.5 0.1\)"),
        ("0 0.5 0.5 0.1 0.1 0.9", "lines that hold no box"),
        ("red 0.5 0.5 0.1 0.1", "lines that hold no box"),
        ("0 nan 0.5 0.1 0.1", "lines that hold no box"),
    ],
)
def test_lines_that_are_no_box_are_refused_with_their_place(data: Path, line: str, message: str) -> None:
    (data.parent / "labels/val/0.txt").write_text(line)
    with pytest.raises(ConfigError, match=message):
        Labels(data)


def test_corners_in_place_of_centers_are_refused(data: Path) -> None:
    for file in (data.parent / "labels/val").glob("*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        corners = [
            (n, float(x) - 1 / 16, float(y) - 1 / 16, float(x) + 1 / 16, float(y) + 1 / 16) for n, x, y, *_ in lines
        ]
        file.write_text("\n".join(" ".join(map(str, row)) for row in corners))
    with pytest.raises(ConfigError, match=r"boxes that leave their image: \d+ of 24 \(\d.txt line \d"):
        Labels(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [red, green]", "found no 'val:', 'test:' or 'train:'"),
        ("val: images/val", "found no 'names:'"),
        ("val: images/val\nnames: {0: red, 2: green}", r"names: found the keys 0, 2, needed 0, 1, 2"),
        ("val: nowhere\nnames: [red, green]", r"val: no folder or list nowhere in "),
        ("val: labels\nnames: [red, green]", "no images in its folders"),
        ("val: images/val\nnames: [red, green]\nnc: 3", r"names and nc differ \(2 and 3\): 1; make them equal"),
        ("val: images/val\nnames: [red, red]", r"names of more than one class: 1 \(red\)"),
        ("val: images/val/0.txt\nnames: [red, green]", r"val: no folder or list images/val/0.txt"),
        ("val: binary.txt\nnames: [red, green]", r"cannot read the list .*binary.txt"),
        ("val: list.txt\nnames: [red, green]", r"images that do not exist: 1 \(gone.png\); correct the list"),
        ("- 1", "found a list, needed a mapping"),
    ],
)
def test_a_description_that_fits_nothing_is_refused(data: Path, text: str, message: str) -> None:
    (data.parent / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (data.parent / "list.txt").write_text("images/val/0.png\nimages/val/gone.png\n")
    with pytest.raises(ConfigError, match=message):
        Labels(described(data.parent, text))


def test_without_any_label_file_the_place_is_named(data: Path) -> None:
    for file in (data.parent / "labels/val").glob("*.txt"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"no label files for 4 images: needed .*labels/val/0.txt"):
        Labels(data)


def test_a_change_of_a_text_file_is_a_change_of_the_labels(data: Path) -> None:
    files = files_of(data)
    assert [file.name for file in files] == ["data.yaml", "0.txt", "1.txt", "2.txt", "3.txt"]
    content, faults = inspect_labels(data)
    assert content.relative and not list(faults)

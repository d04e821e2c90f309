"""Class names from text files, data sets and COCO."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesparse.classes import class_names, coco_names, named_classes
from edgesparse.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "person\n\n dog \n"),
        ("data.yaml", "names: [person, dog]"),
        ("data.yaml", "nc: 2\nnames:\n  1: dog\n  0: person\n"),
        ("data.yml", "names: {0: person, 1: dog}"),
    ],
)
def test_class_names_come_from_text_or_a_data_sets_yaml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert class_names(tmp_path / name) == ("person", "dog")


@pytest.mark.parametrize(
    "text", ["nc: 2", "names: 5", "names: []", "[a, b]", "names: [", "names: {0: a, x: b}", "names: {}"]
)
def test_a_data_sets_yaml_without_names_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        class_names(tmp_path / "data.yaml")
    assert "data.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["names: [no, 010, 2024-01-01, on]", "names: {0: no, 1: 010, 2: 2024-01-01, 3: on}"])
def test_names_are_text_as_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert class_names(tmp_path / "data.yaml") == ("no", "010", "2024-01-01", "on")


@pytest.mark.parametrize("name", ["names.txt", "data.yaml"])
def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("person\ndog" if name.endswith("txt") else "names: [person, dog]", "utf-8-sig")
    assert class_names(tmp_path / name) == ("person", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, 2: c}", "names: found 2 names, but none for class 1"),
        ("names: {0: a, 0: b}", "the key '0' occurs twice"),
        ("names: {-1: a, 0: b}", "found keys that are no class ids"),
        ("names: [[a], b]", "needed 'names:' with a list of classes"),
        ("names: {0: {x: y}}", "needed 'names:' with a list of classes"),
        ("names: ['', b]", "the name of class 0 is empty"),
        ('names: [a, "b\\0"]', "the name of class 1 is empty or has control characters"),
        (f"names: {{{'9' * 500}: a}}", "found keys that are no class ids"),
    ],
)
def test_invalid_names_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        class_names(tmp_path / "data.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_names_of_coco() -> None:
    names = coco_names()
    assert len(set(names)) == 80 and (names[0], names[-1]) == ("person", "toothbrush")


def test_a_recipe_may_list_names_or_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("person")
    assert named_classes("names.txt", tmp_path) == ("person",)
    assert named_classes(("a", "b"), tmp_path) == ("a", "b")
    assert named_classes("auto", tmp_path) == "auto" and named_classes("coco", tmp_path) == "coco"


def test_cocos_names_by_category_id() -> None:
    names = coco_names(range(91))
    assert len(names) == 91 and len(set(names)) == 91
    assert (names[0], names[1], names[12], names[13], names[90]) == (
        "unused 0",
        "person",
        "unused 12",
        "stop sign",
        "toothbrush",
    )
    assert coco_names(range(1, 91)) == names[1:]

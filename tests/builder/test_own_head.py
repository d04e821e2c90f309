"""Packages of a detector with the user's own head: its file is part of the package."""

from __future__ import annotations

from pathlib import Path

import own_heads
import pytest
import squares
import yaml

from edgesparse.builder.build import build
from edgesparse.builder.recipe import write_recipe
from edgesparse.builder.targets import open_detector
from edgesparse.config import Recipe, load_recipe
from edgesparse.errors import ConfigError, ManifestMismatch, SignatureError
from edgesparse.package import manifest as manifests
from edgesparse.package.store import Package, open_package

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    squares.detector(tmp_path / "squares.onnx")
    content = {"model": "squares.onnx", "head": own_heads.write(tmp_path)}
    (tmp_path / "squares.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "squares.yaml"


def built(recipe: Path) -> Package:
    return build(load_recipe(recipe), recipe.parent / "engines").package


def classes(package: Package) -> list[str]:
    with open_detector(package) as detector:
        return sorted(detector(squares.image([(1, 2, 0), (5, 5, 1)])).names)


def test_a_package_holds_the_head_and_runs_without_the_file(recipe: Path) -> None:
    package = built(recipe)
    assert package.manifest.detector.head == "head.py:Squares" and "head.py" in package.manifest.files
    assert str(recipe.parent) not in (package.folder / "manifest.json").read_text()
    (recipe.parent / "my_head.py").unlink()
    assert classes(open_package(package.folder)) == ["green", "red"]


def test_a_recipe_object_with_a_relative_path_builds_too(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    package = build(Recipe(model=Path("squares.onnx"), head="my_head.py:Squares"), Path("engines")).package
    assert classes(package) == ["green", "red"]


def test_a_changed_head_is_built_again(recipe: Path) -> None:
    first = built(recipe).manifest.build_id
    assert built(recipe).manifest.build_id == first
    own_heads.write(recipe.parent, source=own_heads.SOURCE + "\n# changed\n")
    assert built(recipe).manifest.build_id != first


def test_where_the_file_is_does_not_matter(recipe: Path) -> None:
    first = load_recipe(recipe)
    (recipe.parent / "elsewhere").mkdir()
    name = own_heads.write(recipe.parent / "elsewhere", "other.py")
    moved = first.model_copy(update={"head": f"{recipe.parent}/elsewhere/{name}"})
    assert build(moved, recipe.parent / "engines").package.manifest.build_id == built(recipe).manifest.build_id


def test_a_package_whose_head_was_changed_is_not_loaded(recipe: Path) -> None:
    folder = built(recipe).folder
    (folder / "head.py").write_text("import os")
    with pytest.raises(ManifestMismatch, match=r"head.py is changed"):
        open_package(folder)


def test_a_package_with_a_head_needs_this_devices_keyed_hash(recipe: Path) -> None:
    """Loading it runs Python code, so it is signed like an engine with native code."""
    package = built(recipe)
    manifests.write(package.folder, package.manifest.model_copy(update={"mac": ""}))
    with pytest.raises(SignatureError, match="found no keyed hash"):
        open_package(package.folder)


def test_a_recipe_that_names_a_missing_file_is_refused(recipe: Path) -> None:
    (recipe.parent / "my_head.py").rename(recipe.parent / "my_heads.py")
    with pytest.raises(ConfigError, match=r"head: no file .*my_head.py.*my_heads.py"):
        load_recipe(recipe)


def test_a_recipe_is_written_with_the_head_relative_to_it(recipe: Path) -> None:
    folder = recipe.parent
    (folder / "recipes").mkdir()
    write_recipe(folder / "squares.onnx", folder / "recipes/s.yaml", f"{folder}/my_head.py:Squares")
    assert yaml.safe_load((folder / "recipes/s.yaml").read_text())["head"] == "../my_head.py:Squares"
    assert Path(load_recipe(folder / "recipes/s.yaml").head.rpartition(":")[0]).samefile(folder / "my_head.py")

"""From a recipe to a package: what is reused, what is built again, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares

from edgesparse.builder.build import Built, build
from edgesparse.builder.targets import open_detector, ready, recipe_of
from edgesparse.config import Recipe, Run, parse
from edgesparse.errors import AccuracyGateFailed, BackendUnavailable, ConfigError, ModelError, PackageError
from edgesparse.package import manifest as manifests
from edgesparse.package.store import Store, open_package

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return squares.detector(tmp_path / "squares.onnx")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return squares.coco_annotations(tmp_path)


def recipe(model: Path, **settings: Any) -> Recipe:
    return parse({"model": str(model), **settings}, "recipe")


def make(model: Path, force: bool = False, **settings: Any) -> Built:
    return build(recipe(model, **settings), model.parent / "engines", reuse="nothing" if force else "package")


def left(folder: Path) -> list[str]:
    """Names in the model's folder in the store."""
    return sorted(path.name for path in (folder / "engines/squares").iterdir() if path.name != ".lock")


def test_a_package_documents_its_contents_and_the_choice(model: Path) -> None:
    package = make(model).package
    manifest = manifests.read(package.folder)
    assert manifest.model == "squares" and manifest.backend == "onnxruntime"
    assert manifest.source_sha256 == manifests.sha256(model)
    assert [str(tensor.shape) for tensor in (*manifest.inputs, *manifest.outputs)] == ["(1, 3, 64, 64)", "(1, 6, 84)"]
    spec = manifest.detector
    assert (spec.head, spec.classes, spec.input.size) == ("yolov8", squares.NAMES, (64, 64))
    (candidate,) = manifest.candidates
    assert candidate.chosen and candidate.precision == "fp32" and candidate.score is None
    assert candidate.latency_ms is not None and candidate.latency_ms > 0
    assert manifest.identity["onnxruntime"] and manifest.machine["python"]
    assert {path.name for path in package.folder.iterdir()} == {"manifest.json", *manifest.files}
    assert set(manifest.files) == {"model.onnx", "report.html"}


def test_a_package_of_the_same_inputs_is_reused(model: Path) -> None:
    first = make(model)
    second = make(model)
    assert (first.reused, second.reused) == (False, True)
    assert second.package == first.package


def another(model: Path) -> dict[str, Any]:
    squares.detector(model, shift=0.5)
    return {}


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "the model": another,
    "the recipe": lambda model: {"input": {"pad": 0}},
    "the labels": lambda model: {
        "accept": {"annotations": str(squares.coco_annotations(model.parent, 2)), "min_map": 10}
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_inputs_are_built_again(model: Path, labels: Path, change: Callable[[Path], dict[str, Any]]) -> None:
    settings: dict[str, Any] = {"accept": {"annotations": str(labels), "min_map": 10}}
    old = make(model, **settings).package
    new = make(model, **{**settings, **change(model)})
    assert not new.reused and new.package.folder != old.folder
    assert left(model.parent) == sorted([old.manifest.build_id, new.package.manifest.build_id, "current", "previous"])


def test_changed_external_weights_are_built_again(tmp_path: Path) -> None:
    def written(shift: float) -> Path:
        model = onnx.load(squares.detector(tmp_path / "squares.onnx", shift=shift))
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        path = tmp_path / "squares.onnx"
        onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
        return path

    before = written(0.0).read_bytes()
    assert not make(tmp_path / "squares.onnx").reused
    assert written(1.0).read_bytes() == before
    assert not make(tmp_path / "squares.onnx").reused


def test_force_builds_the_same_inputs_again(model: Path) -> None:
    first = make(model).package
    again = make(model, force=True)
    assert not again.reused and again.package.folder == first.folder
    open_package(first.folder)


def test_a_damaged_package_is_built_again(model: Path) -> None:
    package = make(model).package
    package.engine.write_bytes(b"damaged")
    assert not make(model).reused
    open_package(package.folder)


def test_new_run_settings_need_no_build(model: Path) -> None:
    old = make(model, run={"conf": 0.5}).package
    changed = recipe(model, run={"conf": 0.1, "source": "0"})
    built = build(changed, model.parent / "engines", make_current=False)
    assert built.reused and built.package.manifest.run == changed.run
    assert open_package(old.folder).manifest.run == Run(conf=0.5)
    built = build(changed, model.parent / "engines")
    assert built.reused and open_package(old.folder).manifest.run == changed.run


def test_a_cameras_password_is_in_one_file_of_the_package_only(model: Path) -> None:
    """The package can still open its camera, and a changed password needs no build."""
    for password in ("p4ss-e91", "other-5d"):
        source = f"rtsp://admin:{password}@10.0.0.7/stream1"
        built = make(model, run={"source": source})
        folder = built.package.folder
        assert open_package(folder).manifest.run.source == source == built.package.manifest.run.source
        holders = [path.name for path in folder.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
        assert holders == ["cameras.json"] and password not in json.dumps(
            built.package.manifest.model_dump(mode="json")
        )
    assert built.reused


def test_only_a_build_switches_what_is_current(model: Path) -> None:
    store = Store(model.parent / "engines", "squares")
    first = ready(model, model.parent / "engines").manifest.build_id
    assert str(store.current()) == first
    squares.detector(model, shift=0.5)
    second = ready(model, model.parent / "engines").manifest.build_id
    assert second != first and str(store.current()) == first
    make(model)
    assert str(store.current()) == second


def test_an_existing_package_is_reused_while_another_is_built(model: Path) -> None:
    package = make(model).package
    with Store(model.parent / "engines", "squares").lock():
        assert ready(model, model.parent / "engines").folder == package.folder
        with pytest.raises(PackageError, match="is already building squares"):
            make(model)


# Acceptance


def accept(labels: Path, **settings: Any) -> dict[str, Any]:
    return {"accept": {"annotations": str(labels), **settings}}


def test_an_accurate_build_is_accepted_with_its_score(model: Path, labels: Path) -> None:
    package = make(model, **accept(labels, min_map=99, max_map_drop=0)).package
    (candidate,) = package.manifest.candidates
    assert candidate.score == manifests.Score(map=100.0, map50=100.0)
    assert candidate.reason == "the only candidate; 0.0 mAP over the reference"
    assert package.manifest.labels_sha256 == manifests.sha256(labels)
    assert {path.name for path in package.folder.iterdir()} == {"manifest.json", "model.onnx", "report.html"}


def test_a_score_below_the_minimum_is_refused_and_leaves_nothing(tmp_path: Path, labels: Path) -> None:
    model = squares.detector(tmp_path / "squares.onnx", shift=1.0)
    with pytest.raises(AccuracyGateFailed, match=r"refused: found 30.\d mAP, needed accept.min_map 50 on 4 images"):
        make(model, **accept(labels, min_map=50))
    assert left(tmp_path) == []


def test_too_large_a_drop_is_refused_and_the_old_package_stays(tmp_path: Path, labels: Path) -> None:
    good = squares.detector(tmp_path / "good.onnx")
    model = squares.detector(tmp_path / "squares.onnx", shift=0.25)
    settings: dict[str, Any] = {"reference": str(good), "max_map_drop": 25}
    old = make(model, **accept(labels, **settings)).package
    assert " under the reference" in old.manifest.candidates[0].reason
    squares.detector(model, shift=1.0)
    with pytest.raises(AccuracyGateFailed, match=r"found 30.\d mAP, 69.\d under the reference's 100.0, allowed .* 25:"):
        make(model, **accept(labels, **settings))
    assert left(tmp_path) == sorted([old.manifest.build_id, "current"])
    assert open_package(tmp_path / "engines").folder == old.folder


@pytest.mark.parametrize("settings", [{"min_map": 50}, {"max_map_drop": 1}])
def test_a_required_score_without_labels_is_refused_before_building(model: Path, settings: Any) -> None:
    steps: list[str] = []
    with pytest.raises(ConfigError, match=r"a score needs labeled images: set accept.annotations"):
        build(recipe(model, accept=settings), model.parent / "engines", progress=lambda step, *_: steps.append(step))
    assert steps == [] and left(model.parent) == []


# What cannot be built


def test_the_recipes_head_classes_and_input_take_precedence(model: Path) -> None:
    spec = make(model, head="yolov8", classes=["a", "b"], input={"colour": "bgr", "size": 64}).package.manifest.detector
    assert spec.classes == ("a", "b") and spec.input.colour == "bgr"
    with pytest.raises(ConfigError, match="classes: found 3 names, needed 2"):
        make(model, classes=["a", "b", "c"])
    with pytest.raises(ModelError, match="head 'yolox' cannot read this network"):
        make(model, head="yolox")
    with pytest.raises(ModelError, match="needed 96x96: export the model at 96x96"):
        make(model, input={"size": 96})


def test_unknown_classes_are_requested(tmp_path: Path) -> None:
    model = squares.constant(tmp_path / "squares.onnx", {"output0": np.zeros((1, 300, 6), np.float32)})
    with pytest.raises(ModelError, match="found class names neither in the file nor in its outputs: set 'classes:'"):
        make(model)
    assert len(make(model, classes="coco").package.manifest.detector.classes) == 80


def test_a_batch_is_built_and_detects(model: Path) -> None:
    package = make(model, build={"batch": 3}).package
    assert package.manifest.inputs[0].shape == (3, 3, 64, 64)
    with open_detector(package) as detector:
        detections = detector.detect([squares.image([(i, 0, i % 2)]) for i in range(3)])
    assert [d.class_id.tolist() for d in detections] == [[0], [1], [0]]
    assert [d.xyxy[0, 0] for d in detections] == [0, 8, 16]


def test_a_range_of_batches_is_built_for_its_optimum_where_batches_cannot_be_open(model: Path) -> None:
    manifest = make(model, build={"batch": {"opt": 2, "max": 3}}).package.manifest
    assert manifest.inputs[0].shape == (2, 3, 64, 64) and manifest.batch is None
    assert "onnxruntime takes a single batch size: built for build.batch.opt, 2" in manifest.verdict


def test_a_missing_backend_is_refused_with_the_remedy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r"onnxruntime does not work here \(.*\): pip install onnxruntime"):
        make(model)


def test_progress_is_reported(model: Path, labels: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    scored = recipe(model, **accept(labels, max_map_drop=0))
    build(scored, model.parent / "engines", progress=lambda *step: steps.append(step))
    names = list(dict.fromkeys(step for step, _, _ in steps))
    assert names == ["reading the model", "scoring the reference", "building fp32", "timing fp32", "scoring fp32"]
    assert steps[-1] == ("scoring fp32", 4, 4)


# Targets


def test_a_target_is_a_recipe_a_model_or_a_package(tmp_path: Path, model: Path) -> None:
    (tmp_path / "squares.yaml").write_text("model: squares.onnx\nrun: {conf: 0.5}")
    assert recipe_of(tmp_path / "squares.yaml").run.conf == 0.5
    assert recipe_of(model, "coco").classes == "coco"
    package = ready(tmp_path / "squares.yaml", tmp_path / "engines")
    assert ready(tmp_path / "engines/squares").folder == package.folder
    assert ready(package.folder).manifest.run.conf == 0.5
    with pytest.raises(ConfigError, match=r"needed a recipe \(.yaml\), a model \(.onnx\) or 'demo'"):
        recipe_of(tmp_path / "squares.txt")
    with pytest.raises(ConfigError, match="is a package and already has class names: leave out --names"):
        ready(package.folder, names="coco")


def test_the_manifest_is_plain_json(model: Path) -> None:
    content = json.loads((make(model).package.folder / "manifest.json").read_text())
    assert content["detector"]["input"]["letterbox"] == "centre" and content["candidates"][0]["outcome"] == "chosen"

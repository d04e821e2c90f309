"""Packages of the null backend, written without a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesparse.backends import NAMES
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Manifest, TensorRecord, sha256
from edgesparse.package.store import Store, sealed


def manifest(build_id: str = "aaa", **change: Any) -> Manifest:
    result = Manifest(
        edgesparse="0.1.0",
        build_id=build_id,
        created="2026-01-01T00:00:00+00:00",
        model="model",
        source_sha256="0" * 64,
        recipe_sha256="0" * 64,
        labels_sha256=None,
        backend="null",
        identity={"null": "1.0"},
        machine={},
        engine="model.json",
        fallback="model.json",
        fallback_precision="fp32",
        inputs=(TensorRecord(name="images", shape=(1, 3, 64, 64), dtype="float32"),),
        outputs=(TensorRecord(name="output0", shape=(1, 6, 84), dtype="float32"),),
        detector=DetectorSpec(head="yolov8", classes=("red", "green"), input=InputSpec(size=(64, 64))),
        threads=1,
        run=Run(),
        candidates=(),
        files={},
    )
    return result.model_copy(update=change)


def fill(folder: Path, build_id: str, text: str = "{}", **change: Any) -> None:
    """Write what a build leaves: an engine and its manifest."""
    (folder / "model.json").write_text(text)
    files = {"model.json": sha256(folder / "model.json")}
    result = manifest(build_id, **{"files": files, **change})
    manifests.write(folder, sealed(result) if result.backend in NAMES else result)


def stored(root: Path, build_id: str = "aaa", text: str = "{}", **change: Any) -> Path:
    """Write a package into the store and make it current; returns its folder."""
    store = Store(root, "model")
    with store.lock():
        with store.writing(build_id, 0) as folder:
            fill(folder, build_id, text, **change)
        store.switch(build_id)
    return store.folder / build_id

"""Packages, and services that run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import squares
from broker import Broker
from camera import NetworkCamera
from running import Planned, Running, Start

from edgesparse.backends import null
from edgesparse.package import manifest as manifests
from edgesparse.package.store import Package, find_package, sealed


def build(recipe: Path, store: Path, **environ: str) -> Package:
    command = [sys.executable, "-m", "edgesparse", "build", str(recipe), "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ}, check=False)
    assert done.returncode == 0, done.stderr
    return find_package(store)


@pytest.fixture(scope="session")
def squares_package(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Path:
    """A package that detects the squares of NetworkCamera."""
    folder = tmp_path_factory.mktemp("squares")
    model = squares.detector(folder / "squares.onnx")
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"model": model.name, "classes": list(squares.NAMES), "build": {"threads": 1}}))
    return build(recipe, folder / "engines").folder


@pytest.fixture(scope="session")
def null_package(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Path:
    """A null backend package: FP16 is chosen, FP32 is the fallback; both detect one red square."""
    folder = tmp_path_factory.mktemp("null")
    values = [[[float(v)] * squares.CELLS for v in (32, 32, 16, 16, 0.9, 0.0)]]
    plan = {
        "inputs": [["images", [1, 3, squares.SIZE, squares.SIZE], "float32"]],
        "outputs": [["output0", [1, 6, squares.CELLS], "float32"]],
        "values": {"output0": values},
        "builds": {"fp32": {"seconds": 0.004}, "fp16": {"seconds": 0.001}},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    recipe = folder / "recipe.yaml"
    options = {"backend": "null", "candidates": ["fp32", "fp16"]}
    model = squares.detector(folder / "planned.onnx")
    recipe.write_text(json.dumps({"model": model.name, "classes": list(squares.NAMES), "build": options}))
    package = build(recipe, folder / "engines", **{null.PLAN: str(folder / "plan.json")})
    assert package.manifest.precision == "fp16" and package.manifest.fallback_precision == "fp32"
    return package.folder


@pytest.fixture
def planned_package(null_package: Path, tmp_path: Path) -> Planned:
    """That package with different plans for the chosen engine and the fallback, and `changes` to its manifest."""

    def make(
        chosen: dict[str, Any],
        fallback: dict[str, Any] | None = None,
        name: str = "planned",
        classes: tuple[str, ...] = squares.NAMES,
        **changes: Any,
    ) -> Path:
        package = find_package(Path(shutil.copytree(null_package, tmp_path / name, dirs_exist_ok=True)))
        files = dict(package.manifest.files)
        for path, plan in ((package.engine, chosen), (package.fallback, fallback or {})):
            path.write_text(json.dumps({**json.loads(path.read_text()), **plan}))
            files[path.name] = manifests.sha256(path)
        changes["detector"] = package.manifest.detector.model_copy(update={"classes": classes})
        manifests.write(package.folder, sealed(package.manifest.model_copy(update={"files": files, **changes})))
        return package.folder

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service, which is killed at the end of the test if it is still running."""
    services: list[Running] = []

    def make(target: Path, settings: dict[str, Any], folder: Path | None = None, **environ: str) -> Running:
        services.append(Running(folder or tmp_path, target, settings, **environ))
        return services[-1]

    yield make
    for service in services:
        service.close()


@pytest.fixture
def camera() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.off()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.off()

"""Fuzz targets: how a valid file of each kind is written and damaged, and what reads it.

A reader gets the folder of the damaged file. It may return, or raise EdgeSparseError with one line; whatever it writes
must be complete or absent.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import network_targets
import numpy as np
import onnx
import packages
import squares

from edgesparse import strict_yaml
from edgesparse.classes import class_names
from edgesparse.config import load_recipe
from edgesparse.errors import SparsityError
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.fleet.state import Journal, SlotRecord
from edgesparse.fleet.status import status
from edgesparse.int8 import calibration, calibration_table
from edgesparse.int8.calibration import Calibration, Range
from edgesparse.model import load as models
from edgesparse.package.store import open_package
from edgesparse.runtime.labels.read import inspect_labels
from edgesparse.service.settings import load_settings
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.prune import prune


@dataclass(frozen=True)
class Target:
    """`write` puts valid files into a folder once; `damage` rewrites one of them; `read` is under test."""

    write: Callable[[Path], None]
    damage: Callable[[random.Random, Path, Path], None]
    read: Callable[[Path], None]


def _write_model(folder: Path) -> None:
    squares.detector(folder / "m.onnx")


def _damage_model(rng: random.Random, sound: Path, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(mutations.mutate_onnx(rng, (sound / "m.onnx").read_bytes()))


def _read_model(folder: Path) -> None:
    model = models.load(folder / "m.onnx")
    models.info(model)
    model = models.fix_shapes(model, 1, None)
    inspect(model)
    try:
        prune(model)
    except SparsityError:
        return
    models.save(model, folder / "pruned.onnx")
    onnx.load(folder / "pruned.onnx")


RECIPE: dict[str, Any] = {
    "model": "m.onnx",
    "head": "yolov8",
    "classes": ["red", "green"],
    "input": {"size": [64, 64], "letterbox": "centre", "pad": 114, "mean": [0, 0, 0], "std": 1, "scale": 0.5},
    "build": {"batch": {"min": 1, "opt": 2, "max": 4}, "memory": "2 GB", "candidates": ["fp32", "int8-qdq-2:4"]},
    "calibrate": {"images": ".", "count": 5},
    "accept": {"max_map_drop": 1.0, "min_map": 40, "min_agreement": 0.9},
    "deploy": {"count": 3, "needs": {"edgesparse": "0.1"}},
    "run": {
        "cameras": [
            {"name": "a", "source": 0, "size": "1280x720", "zones": {"z": [[0, 0], [1, 0], [1, 1]]}, "classes": [0]},
            {"name": "b", "source": "rtsp://user:secret@camera/1", "rate": 5, "conf": {"red": 0.5, "default": 0.2}},
        ],
        "conf": {"default": 0.25},
        "iou": 0.7,
    },
}
SETTINGS: dict[str, Any] = {
    "run": {"cameras": [{"name": "belt", "source": "demo", "rate": 20}]},
    "service": {
        "web": {"host": "127.0.0.1", "port": 8080},
        "mqtt": {"host": "broker.example", "port": 1883, "topic": "t"},
        "webhook": {"url": "https://example.org/x", "timeout": 5},
        "events": [{"name": "e", "classes": ["red"], "frames": 3, "pause": 5}],
        "limits": {"failures": 5},
    },
}


def _yaml_damage(value: dict[str, Any], name: str) -> Callable[[random.Random, Path, Path], None]:
    def damage(rng: random.Random, sound: Path, folder: Path) -> None:
        if rng.random() < 0.5:
            data = mutations.mutate_json(rng, value)
        else:
            data = mutations.mutate_bytes(rng, strict_yaml.dump(value).encode())
        (folder / name).write_bytes(data)
        (folder / "m.onnx").touch()

    return damage


def _read_names(folder: Path) -> None:
    class_names(folder / "data.yaml")


def _write_labels(folder: Path) -> None:
    squares.coco_annotations(folder, 3)


def _damage_labels(rng: random.Random, sound: Path, folder: Path) -> None:
    content = json.loads((sound / "instances_val.json").read_text())
    (folder / "instances.json").write_bytes(mutations.mutate_json(rng, content))
    for image in sound.glob("*.png"):
        (folder / image.name).symlink_to(image)


def _read_labels(folder: Path) -> None:
    inspect_labels(folder / "instances.json")


def _write_package(folder: Path) -> None:
    packages.fill(folder, "aaa")


def _damage_package(rng: random.Random, sound: Path, folder: Path) -> None:
    content = json.loads((sound / "manifest.json").read_text())
    (folder / "manifest.json").write_bytes(mutations.mutate_json(rng, content))
    (folder / "model.json").write_bytes((sound / "model.json").read_bytes())


def _read_package(folder: Path) -> None:
    open_package(folder)


def _write_calibration(folder: Path) -> None:
    ranges = {name: Range(-1.0, 2.0, 2.0, "max") for name in ("images", "a", "b/c")}
    Calibration(ranges, "k" * 64, 5, ("few images",)).save(folder / "calibration.json")
    scales = {name: float(np.float32(0.01)) for name in ranges}
    (folder / "calibration.table").write_bytes(calibration_table.write(scales, (8, 6, 1)))


def _damage_calibration(rng: random.Random, sound: Path, folder: Path) -> None:
    content = json.loads((sound / "calibration.json").read_text())
    if rng.random() < 0.5:  # with a matching hash, like a file that was changed on purpose
        changed = mutations.mutate_value(rng, {key: content[key] for key in content if key not in _HEAD})
        head = {key: content[key] for key in _HEAD}
        content = {**head, **changed, "sha256": calibration._sum(changed)} if isinstance(changed, dict) else changed
        (folder / "calibration.json").write_text(json.dumps(content))
    else:
        (folder / "calibration.json").write_bytes(mutations.mutate_json(rng, content))
    table = (sound / "calibration.table").read_bytes()
    (folder / "calibration.table").write_bytes(mutations.mutate_bytes(rng, table))


_HEAD = ("format", "version", "sha256")


def _read_calibration(folder: Path) -> None:
    calibration_table.read((folder / "calibration.table").read_bytes())


def _read_ranges(folder: Path) -> None:
    loaded = Calibration.load(folder / "calibration.json")
    json.dumps(loaded.as_dict())
    loaded.save(folder / "again.json")


def _damage_state(rng: random.Random, sound: Path, folder: Path) -> None:
    (folder / "slots" / "a").mkdir(parents=True)
    (folder / "current").symlink_to(rng.choice(["slots/a", "slots/b", "slots/c", "/", "current", "x" * 200]))
    record = dataclasses.asdict(SlotRecord(bundle="0" * 64, name="m", version="1.0", time=5, committed=6.0))
    journal = {field.name: _sample(field) for field in dataclasses.fields(Journal)}
    state = Root(folder).slot("a").state_file
    state.write_bytes(mutations.mutate_json(rng, record))
    (folder / "deploy.json").write_bytes(mutations.mutate_json(rng, journal))
    event = {"time": 5, "verb": "deploy", "result": "done"}
    (folder / "history.jsonl").write_bytes(mutations.mutate_bytes(rng, (json.dumps(event) + "\n").encode() * 3))
    (folder / "status.json").write_bytes(mutations.mutate_json(rng, {"healthy": True, "cameras": [{"name": "a"}]}))


def _sample(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return {"int": 5, "str": "x", "float": 1.0}.get(str(field.type), "a")


def _read_state(folder: Path) -> None:
    root = Root(folder)
    control = ServiceControl(status=folder / "status.json")
    json.dumps(status(root, control))
    control.current_status()
    with root.lock():
        root.note(time=1, verb="check", result="done")
    assert not root.damage(), "set aside, so sound"


def _nothing(folder: Path) -> None:
    """No valid file is needed."""


TARGETS = {
    "onnx": Target(_write_model, _damage_model, _read_model),
    "recipe": Target(_nothing, _yaml_damage(RECIPE, "r.yaml"), lambda folder: void(load_recipe(folder / "r.yaml"))),
    "settings": Target(
        _nothing, _yaml_damage(SETTINGS, "s.yaml"), lambda folder: void(load_settings(folder / "s.yaml"))
    ),
    "names": Target(_nothing, _yaml_damage({"names": {0: "red", 1: "no"}}, "data.yaml"), _read_names),
    "labels": Target(_write_labels, _damage_labels, _read_labels),
    "manifest": Target(_write_package, _damage_package, _read_package),
    "ranges": Target(_write_calibration, _damage_calibration, _read_ranges),
    "table": Target(_write_calibration, _damage_calibration, _read_calibration),
    "state": Target(_nothing, _damage_state, _read_state),
    "bundle": Target(*network_targets.BUNDLE),
    "request": Target(*network_targets.REQUEST),
}
"""Readers by name."""


def void(_: object) -> None:
    """Drop a result."""

"""A deploy that builds with TensorRT while the engine that it replaces keeps detecting on the same GPU."""

from __future__ import annotations

import threading
from importlib import resources
from pathlib import Path

import pytest
import yaml

pytest.importorskip("cryptography", reason="gpu: needs cryptography")

import bundles

from edgesparse.builder.targets import open_detector
from edgesparse.demo.scene import still
from edgesparse.fleet import contents, keys
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.package.store import open_package

CALIBRATION = Path(__file__).parents[2] / "calib_data"


def bundle(folder: Path, version: str, candidate: str) -> Path:
    demo = Path(str(resources.files("edgesparse").joinpath("demo")))
    recipe = yaml.safe_load((demo / "parts.yaml").read_text())
    recipe |= {"model": str(demo / recipe["model"]), "deploy": {"images": str(CALIBRATION)}}
    recipe["build"] = {"backend": "tensorrt", "candidates": [candidate], "level": 1}
    (folder / "parts.yaml").write_text(yaml.safe_dump(recipe))
    private = keys.read_private(folder / "factory.key")
    contents.make(folder / "parts.yaml", folder / f"{version}.esb", private, version=version)
    return folder / f"{version}.esb"


def test_an_update_beside_an_engine_that_serves(tmp_path: Path) -> None:
    bundles.key(tmp_path)
    device = Device(Root(tmp_path / "device"), ServiceControl())
    with bundles.opened(bundle(tmp_path, "1.0", "fp32")) as source:
        assert device.deploy(source).result == "deployed"
    current = tmp_path / "device" / "current" / "package"
    frame, ended, counts = still(3)[0], threading.Event(), [0, 0]

    def serve() -> None:
        with open_detector(open_package(current.resolve())) as detector:
            while not ended.wait(1 / 30):  # a camera's rate; on a GPU that is never idle, the build takes minutes
                counts[0] += 1
                counts[1] += len(detector(frame)) > 0

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with bundles.opened(bundle(tmp_path, "2.0", "fp16-2:4")) as source:
            assert device.deploy(source).result == "deployed"
    finally:
        ended.set()
        serving.join()
    assert counts[0] == counts[1] > 100
    package = open_package(current)
    assert package.manifest.precision == "fp16" and package.manifest.mac
    with open_detector(package) as detector:
        assert len(detector(frame)) > 0
    assert device.rollback().version == "1.0"

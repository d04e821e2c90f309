"""Signed bundles, and a device whose packages are of the null backend: everything of a deploy but the build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import packages

from edgesparse.config import Deploy
from edgesparse.fleet import bundle, keys
from edgesparse.fleet.bundle import BundleFile, BundleManifest
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.fetch import LocalFile
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slot_build import SlotBuild
from edgesparse.fleet.slots import DeploySlot, Root
from edgesparse.package.manifest import sha256
from edgesparse.package.store import open_package
from edgesparse.progress import Progress

TIME = 1_790_000_000


def key(folder: Path, name: str = "factory", days: int | None = None) -> Path:
    """Create a key pair, with a copy of the public key in `folder`/trusted. Returns the private key's path."""
    public = keys.new(folder / name, days)
    (folder / "trusted").mkdir(exist_ok=True)
    (folder / "trusted" / f"{name}.pub").write_text(public.text())
    return folder / f"{name}.key"


def signed(out: Path, private: Path, version: str = "1.0", filler: int = 1000, **fields: Any) -> Path:
    """Write a bundle of a recipe (or the text `recipe`), a model of `filler` bytes, and an empty file."""
    folder = out.with_suffix(".contents")
    (folder / "model").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(fields.pop("recipe", "model: model/model.onnx\n"))
    (folder / "model" / "model.onnx").write_bytes(version.encode().ljust(filler, b"x"))
    (folder / "nothing").touch()
    return rewritten(out, private, version, **fields)


def rewritten(out: Path, private: Path, version: str, **fields: Any) -> Path:
    """Write a bundle of the files in its folder of contents."""
    folder = out.with_suffix(".contents")
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    listed = tuple(BundleFile(name=name, size=path.stat().st_size, sha256=sha256(path)) for name, path in files.items())
    signer = keys.read_private(private)
    manifest = {
        "name": "model",
        "version": version,
        "time": TIME,
        "key": signer.public.id,
        "deploy": Deploy(),
        **fields,
    }
    with out.open("wb") as file:
        bundle.write(file, BundleManifest(**{"files": listed, **manifest}), signer, files)
    return out


def quick_build(slot: DeploySlot, progress: Progress) -> SlotBuild:
    """Replace build and self-test: store a package of the null backend that holds the model's first word."""
    progress("building", 0, 0)
    word = (slot.bundle / "model" / "model.onnx").read_bytes().partition(b"x")[0].decode()
    package = packages.stored(slot.engines, f"build-{word}", json.dumps(word))
    slot.package.symlink_to(package.relative_to(slot.folder))
    return SlotBuild(package.name, "null", "fp32", {})


def device(root: Path, service: ServiceControl | None = None, **fields: Any) -> Device:
    service = service or ServiceControl(status=root / "run" / "status.json")  # never this machine's own service
    return Device(Root(root), service, **{"build": quick_build, **fields})


def opened(path: Path) -> LocalFile:
    """Open a bundle and verify its head with the keys beside it."""
    return LocalFile(path, keys.trusted(path.parent / "trusted"))


def serving(root: Path) -> str:
    """Return the version that `current` runs; its package is verified."""
    package = open_package(root / "current" / "package")
    return str(json.loads(package.engine.read_text()))


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Return everything in a folder: contents of files, targets of links, None for folders."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }

"""From a recipe to its bundle: every file it names, and a recipe with their names in the bundle."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgesparse import strict_yaml, values
from edgesparse.builder.prepare import prepare, with_batch
from edgesparse.builder.targets import recipe_of
from edgesparse.config import Recipe
from edgesparse.disk import scratch, writing
from edgesparse.errors import ConfigError
from edgesparse.fleet import bundle, selftest
from edgesparse.fleet.bundle import BundleFile, BundleManifest
from edgesparse.fleet.keys import PrivateKey
from edgesparse.head_table import HeadFile, head_file
from edgesparse.model import load as models
from edgesparse.package.manifest import sha256
from edgesparse.progress import Progress, quiet
from edgesparse.redaction import redact
from edgesparse.runtime.evaluate import file_detector
from edgesparse.runtime.images import image_files
from edgesparse.runtime.labels.read import Labels
from edgesparse.version import VERSION
from edgesparse.wording import short

RECIPE, SELFTEST = "recipe.yaml", "selftest"
_SECRET = re.compile(r"@|(?i:pass|pwd|secret|token|auth|key|user|login)\w*=")
"""The parts removed by redact() that are secrets; a channel number, for example, is not."""


def make(
    target: Path,
    out: Path,
    key: PrivateKey,
    *,
    version: str | None = None,
    images: Path | None = None,
    progress: Progress = quiet,
) -> BundleManifest:
    """Write the bundle of a recipe or model: the same bytes for the same contents, key and version.

    `version` must increase; the default is the time of the newest file in it, or SOURCE_DATE_EPOCH. `images` replaces
    the recipe's `deploy.images`. `out` is written atomically. Raises ConfigError, ModelError, SignatureError.
    """
    recipe = with_batch(recipe_of(target))
    _refuse_secrets(recipe, target)
    with scratch(prefix="edgesparse-bundle-") as folder:
        files = _Contents(recipe, folder, images, progress).files
        used = [path for path in files.values() if folder not in path.parents]
        manifest = _manifest(recipe, files, [*used, *([target] if target.is_file() else [])], key, version)
        progress("writing the bundle", 0, 0)
        with writing(out) as file:
            bundle.write(file, manifest, key, files)
    return manifest


def _refuse_secrets(recipe: Recipe, target: Path) -> None:
    """Refuse cameras with passwords: anyone who has the bundle can read it."""
    for camera in recipe.run.all_cameras():
        if redact(camera.source) != camera.source and _SECRET.search(camera.source):
            raise ConfigError(
                f"{target}: run: {redact(camera.source)} contains a password, and a bundle is not secret: cameras "
                "belong in each device's own settings"
            )


def _manifest(
    recipe: Recipe, files: dict[str, Path], used: Sequence[Path], key: PrivateKey, version: str | None
) -> BundleManifest:
    newest = _time(os.environ.get("SOURCE_DATE_EPOCH"), used)
    version = version or f"{datetime.fromtimestamp(newest, timezone.utc):%Y.%m.%d.%H%M%S}"
    try:
        values.version(version)
    except ValueError as error:
        raise ConfigError(f"--version: found '{version}', needed {error}") from None
    deploy = recipe.deploy.model_copy(update={"images": None, "needs": {"edgesparse": VERSION, **recipe.deploy.needs}})
    return BundleManifest(
        name=recipe.model.stem,
        version=version,
        time=newest,
        key=key.public.id,
        deploy=deploy,
        files=tuple(
            BundleFile(name=name, size=path.stat().st_size, sha256=sha256(path)) for name, path in sorted(files.items())
        ),
    )


def _time(epoch: str | None, used: Sequence[Path]) -> int:
    """Return SOURCE_DATE_EPOCH, or when the newest file was changed, in seconds since 1970. Raises ConfigError."""
    if epoch and (not re.fullmatch(r"[0-9]{1,12}", epoch) or int(epoch) > bundle.MAX_TIME):
        raise ConfigError(f"found SOURCE_DATE_EPOCH={short(epoch)}, needed seconds since 1970, up to {bundle.MAX_TIME}")
    if epoch:
        return int(epoch)
    newest = max(used, key=lambda path: path.stat().st_mtime)
    changed = int(newest.stat().st_mtime)
    if not 0 <= changed <= bundle.MAX_TIME:
        raise ConfigError(f"{newest} was changed at {changed} s, needed a time after 1970: touch it")
    return changed


class _Contents:
    """`files`: the path of each file of a bundle, by its name in it. Files created for the bundle are in `folder`."""

    def __init__(self, recipe: Recipe, folder: Path, images: Path | None, progress: Progress) -> None:
        self.files: dict[str, Path] = {}
        self._folder = folder
        values = recipe.model_dump(mode="json", exclude_none=True)
        values["model"] = self._model(recipe.model, "model")
        if recipe.calibrate.images is not None:
            chosen = image_files(recipe.calibrate.images, recipe.calibrate.count)
            values["calibrate"]["images"] = self._images("calibration", chosen)
        if (own := head_file(recipe.head)) is not None:
            values["head"] = self._head(own, recipe)
        values["accept"] |= self._accept(recipe)
        values["deploy"].pop("images", None)
        progress("computing what the self-test expects", 0, 0)
        self._selftest(recipe, _for_selftest(recipe, images))
        text = strict_yaml.dump(values, sort_keys=True)
        self._created(RECIPE).write_text(text)

    def _model(self, path: Path, folder: str) -> str:
        """Add the ONNX file and its external weights, whose paths are relative to it."""
        for file in models.files(path):
            self._add(f"{folder}/{file.relative_to(path.parent)}", file)
        return f"{folder}/{path.name}"

    def _head(self, own: HeadFile, recipe: Recipe) -> str:
        """Add the file of the user's own head, if the recipe says so: devices run it."""
        if not recipe.deploy.include_head:
            raise ConfigError(
                f"head: {own} is code, and a bundle has code only if its recipe says so: set deploy.include_head to "
                "true, or install the head on the devices as a package with an entry point in 'edgesparse.heads'"
            )
        self._add(f"head/{own.path.name}", own.path)
        return f"head/{own.path.name}:{own.name}"

    def _images(self, folder: str, images: Sequence[Path]) -> str:
        for number, image in enumerate(images):
            self._add(f"{folder}/{number:05d}{image.suffix.lower()}", image)
        return folder

    def _accept(self, recipe: Recipe) -> dict[str, Any]:
        accept, values = recipe.accept, {}
        if accept.annotations is not None:
            labels = Labels(accept.annotations, accept.images)
            content = labels.as_coco(labels.sizes())
            for image, entry in zip(labels.images, content["images"], strict=True):
                entry["file_name"] = f"{image.number:05d}{image.path.suffix.lower()}"
                self._add(f"labels/images/{entry['file_name']}", image.path)
            self._created("labels/annotations.json").write_text(json.dumps(content))
            values = {"annotations": "labels/annotations.json", "images": "labels/images"}
        if accept.reference is not None:
            values["reference"] = self._model(accept.reference, "reference")
        if accept.annotations is None and accept.images is not None:
            values["images"] = self._images("accept", image_files(accept.images))
        return values

    def _selftest(self, recipe: Recipe, images: Sequence[Path]) -> None:
        """Store the original model's detections on these images with ONNX Runtime, for devices to compare with."""
        self._images(SELFTEST, images)
        names = [name.rpartition("/")[2] for name in self.files if name.startswith(f"{SELFTEST}/")]
        work = self._folder / "work"
        work.mkdir()
        prepared = prepare(recipe, work)
        with file_detector(prepared.simplified, prepared.spec, recipe.run, recipe.build.threads) as detector:
            selftest.write(self._created(f"{SELFTEST}/{selftest.FILE}"), detector, images, names)

    def _add(self, name: str, path: Path) -> None:
        try:
            BundleFile(name=name, size=path.stat().st_size, sha256="0" * 64)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            raise ConfigError(
                f"{path} cannot be stored as '{name}': needed a name of letters, digits, '.', '_', '+' and '-', at "
                "most 100 long: rename it"
            ) from None
        self.files[name] = path

    def _created(self, name: str) -> Path:
        self.files[name] = path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        return path


def _for_selftest(recipe: Recipe, images: Path | None) -> list[Path]:
    """Return images from the best source in the recipe. Raises ConfigError if there is none."""
    accept, deploy = recipe.accept, recipe.deploy
    folder = images or deploy.images
    if folder is None and accept.annotations is not None:
        labels = Labels(accept.annotations, accept.images)
        labeled = {box.image for box in labels.boxes}
        files = [image.path for image in labels.images if image.number in labeled]
        count = min(deploy.count, len(files))
        return [files[i * len(files) // count] for i in range(count)]
    folder = folder or accept.images or recipe.calibrate.images
    if folder is None:
        raise ConfigError("no images for the self-test: pass --images FOLDER, or set deploy.images in the recipe")
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder} with images for the self-test")
    return image_files(folder, deploy.count)

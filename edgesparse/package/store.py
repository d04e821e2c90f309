"""The store of built packages: `ROOT/MODEL/BUILD_ID/`, with the links `current` and `previous` next to the builds.

A package is written to a temporary folder, synced and renamed, so that readers see all of it or nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgesparse.backends import NAMES, backend
from edgesparse.config import DetectorSpec
from edgesparse.errors import ConfigError, ManifestMismatch, PackageError, SignatureError
from edgesparse.files import make_folder, sync, sync_folder
from edgesparse.head_table import head_file
from edgesparse.package import manifest as manifests
from edgesparse.package import sign
from edgesparse.package.manifest import Manifest, sha256
from edgesparse.wording import short

STORE = Path("engines")
"""Where packages are stored by default."""
_UNFINISHED, _REPLACED, _LINK = ".unfinished-", ".replaced-", ".link-"
HEAD = "head.py"
"""The file of the user's own head in a package."""
_ALMOST_FULL = 64 * 1024


@dataclass(frozen=True)
class Package:
    """A built detector: its `folder`, and its `manifest` with the time, score and outcome of every candidate."""

    folder: Path
    manifest: Manifest

    @property
    def engine(self) -> Path:
        return self.folder / self.manifest.engine

    @property
    def fallback(self) -> Path:
        return self.folder / self.manifest.fallback

    @property
    def detector(self) -> DetectorSpec:
        """What turns frames into inputs and outputs into detections; the user's own head is in this folder."""
        spec = self.manifest.detector
        own = head_file(spec.head)
        return (
            spec if own is None else spec.model_copy(update={"head": f"{(self.folder / HEAD).absolute()}:{own.name}"})
        )

    def verify(self) -> None:
        """Raise ManifestMismatch unless every file is unchanged and may be loaded on this machine.

        Raises SignatureError for code that was not built here.
        """
        manifest = self.manifest
        own = {HEAD: None} if head_file(manifest.detector.head) is not None else {}
        for name in {manifest.engine: None, **own, manifest.fallback: None, **manifest.files}:
            path, needed = self.folder / name, manifest.files.get(name, "none")
            first = short(needed[:12])
            actual = sha256(path) if os.path.isfile(path) else None  # noqa: PTH113, False for names that cannot be
            if actual != needed:
                what = "missing" if actual is None else f"changed (found sha256 {actual[:12]}, needed {first})"
                raise ManifestMismatch(
                    f"{short(str(path), 300)} is {what}: build it again with 'edgesparse build --force'"
                )
        reason = f"found backends {', '.join(NAMES)}, needed {short(manifest.backend)}"
        if manifest.backend not in NAMES or (reason := backend(manifest.backend).refuses(manifest.identity) or ""):
            raise ManifestMismatch(
                f"{self.folder}: {short(reason, 400)}: build it here with 'edgesparse build RECIPE.yaml'"
            )
        if _holds_code(manifest) and (wrong := sign.mismatch(manifest.mac, manifest.signed_part())):
            raise SignatureError(f"{self.folder}: {wrong}: build it here with 'edgesparse build RECIPE.yaml'")


def sealed(manifest: Manifest) -> Manifest:
    """Return the manifest with this device's keyed hash, if its files hold code. Raises SignatureError."""
    if not _holds_code(manifest):
        return manifest
    return manifest.model_copy(update={"mac": sign.mac(manifest.signed_part())})


def _holds_code(manifest: Manifest) -> bool:
    """Whether loading it runs code: an engine of native code, or the user's own head."""
    return backend(manifest.backend).native_code or head_file(manifest.detector.head) is not None


def open_package(path: Path) -> Package:
    """Find a package and verify that it may be loaded here. Raises PackageError, ManifestMismatch, SignatureError."""
    package = find_package(path)
    package.verify()
    return package


def find_package(path: Path) -> Package:
    """Return the package in a build's folder, a model's folder (its `current`), or a store with a single model.

    It may have been built anywhere: only load it after `verify`. Raises PackageError.
    """
    if not path.is_dir():
        raise PackageError(f"no package {path}: build one with 'edgesparse build RECIPE.yaml'")
    folder = path
    if not (folder / manifests.FILE).exists():
        if not (folder / "current").exists():
            models = sorted(p.parent for p in folder.glob("*/current"))
            if not models:
                raise PackageError(f"no package in {path}: build one with 'edgesparse build RECIPE.yaml'")
            if len(models) > 1:
                names = ", ".join(p.name for p in models)
                raise PackageError(f"{path}: found {names}, needed one package: name the folder of one")
            folder = models[0]
        folder = (folder / "current").resolve()
    return Package(folder, manifests.read(folder))


class Store:
    """Packages of one model under `root/model`."""

    def __init__(self, root: Path, model: str) -> None:
        self.folder = root / model

    def find(self, build_id: str) -> Package | None:
        """Return the package of this build, or None if it is missing or damaged."""
        folder = self.folder / build_id
        try:
            package = Package(folder, manifests.read(folder))
            package.verify()
        except PackageError:
            return None
        return package

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time build a model's packages. Raises PackageError while another one does, and
        ConfigError if the folder cannot be written to."""
        try:
            make_folder(self.folder)
            file = (self.folder / ".lock").open("a+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.folder}: {error.strerror}: choose another with --store") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                pid = file.read().decode() or "unknown"
                raise PackageError(
                    f"process {pid} is already building {self.folder.name}: wait for it, then run this again"
                ) from None
            file.truncate(0)
            with suppress(OSError):  # on a full disk the number stays unknown
                file.write(str(os.getpid()).encode())
            self._clean()
            yield

    def _clean(self) -> None:
        """Clean up after a killed build."""
        for leftover in self.folder.glob(_UNFINISHED + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for link in self.folder.glob(_LINK + "*"):
            link.unlink()
        for old in self.folder.glob(_REPLACED + "*"):
            build = self.folder / old.name.removeprefix(_REPLACED)
            if build.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(build)

    @contextmanager
    def writing(self, build_id: str, needed: int) -> Iterator[Path]:
        """Yield a folder to fill with at most `needed` bytes: synced and renamed at the end, removed if anything fails.

        It replaces an older folder of the same build. Raises PackageError if the disk is full.
        """
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise PackageError(_full(self.folder, needed, free))
        folder = self.folder / f"{_UNFINISHED}{build_id}-{os.getpid()}"
        try:
            folder.mkdir()
            yield folder
            _sync(folder)
            self._replace(self.folder / build_id, folder)
        except Exception as error:
            free = shutil.disk_usage(self.folder).free
            if free < _ALMOST_FULL or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
                raise PackageError(_full(self.folder, needed, free)) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _replace(self, build: Path, new: Path) -> None:
        """Rename, twice if an older one exists: after a kill between the two, `_clean` restores the older."""
        old = self.folder / f"{_REPLACED}{build.name}"
        if build.exists():
            build.rename(old)
        new.rename(build)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def current(self) -> Path | None:
        """Return the build that `current` points to, relative to the model's folder; None without one."""
        link = self.folder / "current"
        return link.readlink() if link.is_symlink() else None

    def switch(self, build_id: str) -> None:
        """Make a build `current` and the old one `previous`; each link changes atomically."""
        old = self.current()
        if old is not None and old.name == build_id:
            return
        if old is not None:
            _point(self.folder / "previous", old)
        _point(self.folder / "current", Path(build_id))
        sync_folder(self.folder)


def _point(link: Path, target: Path) -> None:
    new = link.with_name(f"{_LINK}{link.name}-{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
    sync_folder(folder)


def _full(folder: Path, needed: int, free: int) -> str:
    return (
        f"no space left in {folder}: needed {needed / 1e6:.1f} MB, free {free / 1e6:.1f} MB: "
        "free some space, or choose another disk with --store"
    )

"""Cameras that are added, paused and removed while the service runs, and the file that keeps these changes."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgesparse.camera import MOST_CAMERAS, Camera
from edgesparse.config import Run
from edgesparse.errors import ConfigError, EdgeSparseError
from edgesparse.files import make_folder, read_checked, replacing, set_aside
from edgesparse.redaction import redact
from edgesparse.service.credentials import check_owner
from edgesparse.stream.sources.open import source_kind
from edgesparse.typed import typed
from edgesparse.values import Section
from edgesparse.wording import nearest

log = logging.getLogger("edgesparse.service")

MAX_BYTES = 1 << 20
Kind = Literal["rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt", "csi", "device", "demo", "file"]
LOCAL = ("csi", "device", "file")
"""Kinds of sources that show what is on this machine: nobody may add them without a token."""


class CameraChangeSettings(Section):
    """Lets the web page and HTTP add and remove cameras; without this section, they can only pause them."""

    allow: tuple[Kind, ...] = ("rtsp", "rtsps", "http", "https")
    """Kinds of sources that may be added: schemes of addresses, `csi`, `device`, `demo`, `file`."""
    most: Annotated[int, Field(ge=1, le=MOST_CAMERAS)] = 16
    """Number of cameras, those of the settings included, from which on none is added."""
    file: Path | None = None
    """JSON file that keeps additions, removals and pauses for the next start; default: they end with the service."""


class CameraChanges(Section):
    """What was changed since the settings were written."""

    added: tuple[Camera, ...] = ()
    removed: tuple[str, ...] = ()
    """Names of cameras of the settings or the recipe."""
    paused: tuple[str, ...] = ()

    def applied(self, run: Run) -> Run:
        """Return `run` with these cameras. Of two cameras with the same name, the settings' counts."""
        base = tuple(camera for camera in run.all_cameras() if camera.name not in self.removed)
        names = {camera.name for camera in base}
        cameras = (*base, *(camera for camera in self.added if camera.name not in names))
        if cameras == run.all_cameras():
            return run
        return run.model_copy(update={"source": None, "cameras": cameras})


class CameraRefused(EdgeSparseError):
    """A change that is not allowed or not possible. `status`: that of an HTTP response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LiveCameras:
    """The cameras of a running service. Methods may be called from any thread."""

    def __init__(self, settings: CameraChangeSettings | None = None, lock: threading.RLock | None = None) -> None:
        """Read the file of the settings. Raises ConfigError if it cannot be used. `lock`: held during a change."""
        self._settings, self._lock = settings, lock or threading.RLock()
        self.changes = self._kept = _read(settings)
        self._paused: dict[str, int] = {}
        self._cameras: Callable[[], Sequence[Camera]] = tuple
        self._apply: Callable[[CameraChanges], None] | None = None
        self._error = ""

    @property
    def allowed(self) -> Sequence[Kind]:
        """Kinds of sources that may be added; nothing if none may be."""
        settings = self._settings
        return settings.allow if settings is not None else ()

    def start(
        self,
        paused: dict[str, int],
        cameras: Callable[[], Sequence[Camera]],
        apply: Callable[[CameraChanges], None],
    ) -> None:
        """Accept changes from now on. `paused` as in Loop, `cameras` returns those that run, `apply` runs others and
        raises EdgeSparseError if it cannot, in which case nothing has changed.
        """
        paused.update(dict.fromkeys(self.changes.paused, time.monotonic_ns()))
        self._paused, self._cameras, self._apply = paused, cameras, apply

    def reload(self, settings: CameraChangeSettings | None) -> CameraChanges:
        """Return the changes that count with new settings, for `commit`. Raises ConfigError."""
        if settings is None:
            return CameraChanges()
        other = self._settings is None or settings.file != self._settings.file
        return _read(settings) if other and settings.file is not None and settings.file.exists() else self.changes

    def commit(self, settings: CameraChangeSettings | None, changes: CameraChanges) -> None:
        """Take what `reload` returned, once it has been applied."""
        with self._lock:
            self._settings, self.changes = settings, changes
            self._forget_pauses()

    def add(self, values: Mapping[str, Any], by: str) -> Camera:
        """Add a camera, as in `run.cameras`. Returns it. `by`: who did it, for the log.

        Raises ConfigError for invalid values, CameraRefused, and SourceError if it cannot be opened.
        """
        self._allowing("adding")
        camera = typed(Camera, dict(values), "camera")
        self._permitting(camera)
        with self._lock:  # which a reload holds, for minutes: the settings may be others afterwards
            settings = self._permitting(camera)
            names = [other.name for other in self._cameras()]
            if camera.name in names:
                raise CameraRefused(409, f"a camera '{camera.name}' exists: choose another name")
            if len(names) >= settings.most:
                raise CameraRefused(409, f"found {len(names)} cameras, the most allowed: see camera_changes.most")
            added = (*(other for other in self.changes.added if other.name != camera.name), camera)
            self._change(self.changes.model_copy(update={"added": added}))
            log.warning("camera %s was added by %s: %s", camera.name, by, redact(camera.source))
            self._keep_or_raise("added")
        return camera

    def remove(self, name: str, by: str) -> None:
        """Remove a camera. Raises CameraRefused, and ConfigError if an event rule names it."""
        self._allowing("removing")
        with self._lock:
            self._allowing("removing")
            running = {camera.name: camera for camera in self._cameras()}
            self._check(name, running)
            if len(running) == 1:
                raise CameraRefused(409, f"{name} is the only camera, and one is needed: pause it instead")
            changes = self.changes
            hidden = running[name] not in changes.added
            removed = dict.fromkeys((*changes.removed, *([name] if hidden else [])))
            added = tuple(camera for camera in changes.added if camera.name != name)
            self._change(changes.model_copy(update={"added": added, "removed": tuple(removed)}))
            self._forget_pauses()
            log.warning("camera %s was removed by %s", name, by)
            self._keep_or_raise("removed")

    def _allowing(self, what: str) -> CameraChangeSettings:
        """The settings that allow a change. Raises CameraRefused without any."""
        settings = self._settings  # read once: a reload may change them meanwhile
        if settings is None:
            raise CameraRefused(403, f"{what} cameras is not allowed here: set service.camera_changes")
        return settings

    def _permitting(self, camera: Camera) -> CameraChangeSettings:
        """The settings that allow a camera's kind of source. Raises CameraRefused if they do not."""
        settings, kind = self._allowing("adding"), source_kind(camera.source)
        if kind not in settings.allow:
            allowed = ", ".join(settings.allow)
            raise CameraRefused(403, f"found a source of the kind {kind}, needed {allowed}: see camera_changes.allow")
        return settings

    def pause(self, name: str, paused: bool, by: str) -> None:
        """Pause or resume a camera. Raises CameraRefused."""
        self._check(name, [camera.name for camera in self._cameras()])
        if paused != (name in self._paused):
            log.warning("camera %s was %s by %s", name, "paused" if paused else "resumed", by)
        if paused:
            self._paused.setdefault(name, time.monotonic_ns())
        else:
            self._paused.pop(name, None)

    def keep(self) -> str:
        """Write the file if something has changed since: pauses by MQTT too. Returns why that failed; empty if not."""
        if self._apply is None or not self._lock.acquire(blocking=False):  # a reload may take minutes
            return ""
        try:
            self.changes = self.changes.model_copy(update={"paused": tuple(sorted(self._paused))})
            path = self._settings.file if self._settings is not None else None
            if path is not None and self.changes != self._kept:
                self._write(path)
        finally:
            self._lock.release()
        return self._error

    def _write(self, path: Path) -> None:
        try:
            _write(path, self.changes)
            self._kept, self._error = self.changes, ""
        except OSError as error:
            if str(error) != self._error:
                log.error("service.camera_changes.file: cannot write %s: %s", path, error)
            self._error = str(error)

    def _keep_or_raise(self, change: str) -> None:
        if why := self.keep():
            raise CameraRefused(500, f"the camera was {change}, but only until the service ends: {why}")

    def _change(self, changes: CameraChanges) -> None:
        if self._apply is None:
            raise CameraRefused(503, "the service is starting: try again")
        self._apply(changes)
        self.changes = changes

    def _check(self, name: str, names: Collection[str]) -> None:
        if name not in names:
            raise CameraRefused(404, f"no such camera{nearest(name, list(names))}")

    def _forget_pauses(self) -> None:
        names = {camera.name for camera in self._cameras()}
        for name in set(self._paused) - names:
            self._paused.pop(name, None)


def _read(settings: CameraChangeSettings | None) -> CameraChanges:
    """Return what the file holds; a damaged file is set aside, since the cameras of the settings must run anyway."""
    if settings is None or settings.file is None:
        return CameraChanges()
    path, key = settings.file, "service.camera_changes.file"

    def check(status: os.stat_result) -> None:
        if status.st_mode & 0o007:
            raise ConfigError(f"{key}: others can open {path}, which holds addresses in full: chmod o= {path}")
        check_owner(path, key, status)

    try:
        data = read_checked(path, MAX_BYTES, check, os.O_NOFOLLOW)
    except FileNotFoundError:
        return CameraChanges()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: needed a JSON object")
        return typed(CameraChanges, values, str(path))
    except (ValueError, RecursionError, ConfigError) as error:
        log.error("%s: only the cameras of the settings run; %s is damaged: %s", key, set_aside(path), error)
        return CameraChanges()


def _write(path: Path, changes: CameraChanges) -> None:
    """Replace the file, with the owner and the mode that it had. Raises OSError."""
    make_folder(path.parent, 0o750)
    before = path.lstat() if path.exists() else None
    text = json.dumps(changes.model_dump(exclude_defaults=True), indent=2)
    with replacing(path, 0o600, synced=True) as file:
        if before is not None:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
        file.write(f"{text}\n".encode())

"""TensorRT's timing cache in a file that several builds share."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesparse.files import replacing

_MARK = b"edgesparse timing cache 1 "
_DIGEST = 64


class TimingCache:
    """One file per device and release.

    The file starts with a line that holds the sha256 of TensorRT's bytes, so that damage is detected before the library
    reads them. An empty file marks a release that fails with a cache that is read back.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.loaded = False
        """Whether the build in progress uses the file's contents."""
        self.warnings: list[str] = []

    def attach(self, trt_config: Any, read: bool = True) -> None:
        """Set the file's contents, or an empty cache to fill, in a builder config."""
        self.loaded = False
        if self.path is None or self._given_up():
            return
        data = self._read() if read else b""
        cache = _cache(trt_config, data)
        self.loaded = bool(data) and cache is not None and trt_config.set_timing_cache(cache, False)
        if data and not self.loaded:
            self._warn("is from another device or release")
        if not self.loaded:
            trt_config.set_timing_cache(trt_config.create_timing_cache(b""), False)

    def keep(self, trt_config: Any) -> None:
        """Merge the timings of this build into the file. A file that cannot be written is a warning."""
        if self.path is None or self._given_up():
            return
        cache = trt_config.get_timing_cache()
        if cache is None:
            return
        try:
            with _locked(self.path):
                others = _cache(trt_config, self._read()) if self.path.exists() else None
                if others is not None:
                    cache.combine(others, False)
                self._write(bytes(cache.serialize()))
        except OSError as error:
            self.warnings.append(f"timing cache {self.path} not written: {error.strerror}")

    def give_up(self) -> None:
        """Empty the file: a build failed with its contents and succeeded without, so this release must not read it."""
        if self.path is None:
            return
        self._warn("fails when it is read back on this release: no longer used")
        try:
            with _locked(self.path):
                self.path.write_bytes(b"")
        except OSError as error:
            self.warnings.append(f"timing cache {self.path} not written: {error.strerror}")

    def _given_up(self) -> bool:
        return self.path is not None and self.path.is_file() and self.path.stat().st_size == 0

    def _read(self) -> bytes:
        """TensorRT's bytes; empty if the file is missing or damaged."""
        assert self.path is not None
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._warn(f"cannot be read ({error.strerror})")
            return b""
        head, data = content[: len(_MARK) + _DIGEST + 1], content[len(_MARK) + _DIGEST + 1 :]
        if head != _MARK + hashlib.sha256(data).hexdigest().encode() + b"\n":
            self._warn("is damaged")
            return b""
        return data

    def _write(self, data: bytes) -> None:
        assert self.path is not None
        with replacing(self.path) as file:
            file.write(_MARK + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)

    def _warn(self, problem: str) -> None:
        text = f"timing cache {self.path} {problem}: ignored"
        if text not in self.warnings:
            self.warnings.append(text)


def _cache(trt_config: Any, data: bytes) -> Any:
    """TensorRT's object for these bytes; None if it refuses them."""
    try:
        return trt_config.create_timing_cache(data) if data else None
    except Exception:  # bindings differ in what they raise
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""TensorRT's timing cache as a file that several builds share."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARK = b"edgesparse timing cache 1 "
_DIGEST = 64


class TimingCache:
    """One file a device and release. TensorRT's own bytes stand behind a line with their sha256, so that a damaged file
    is known before the library reads it. An empty file says that this release fails with a cache that is read back.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.loaded = False
        """Whether a build in progress uses what was read."""
        self.warnings: list[str] = []

    def attach(self, trt_config: Any, read: bool = True) -> None:
        """Give a builder config what the file holds, or an empty cache to fill."""
        self.loaded = False
        if self.path is None or self._given_up():
            return
        data = self._read() if read else b""
        cache = _cache(trt_config, data)
        self.loaded = bool(data) and cache is not None and trt_config.set_timing_cache(cache, False)
        if data and not self.loaded:
            self._warn("is of another device or release")
        if not self.loaded:
            trt_config.set_timing_cache(trt_config.create_timing_cache(b""), False)

    def keep(self, trt_config: Any) -> None:
        """Add what the build timed to what other builds wrote meanwhile. A file that can't be written is a warning."""
        if self.path is None or self._given_up():
            return
        cache = trt_config.get_timing_cache()
        if cache is None:
            return
        try:
            with _locked(self.path):
                there = _cache(trt_config, self._read()) if self.path.exists() else None
                if there is not None:
                    cache.combine(there, False)
                self._write(bytes(cache.serialize()))
        except OSError as error:
            self.warnings.append(f"timing cache {self.path} not written: {error.strerror}")

    def give_up(self) -> None:
        """A build failed with what was read and succeeded without: no build on this release is to read it again."""
        if self.path is None:
            return
        self._warn("fails when it is read back on this release: it is not used any more")
        try:
            with _locked(self.path):
                self.path.write_bytes(b"")
        except OSError as error:
            self.warnings.append(f"timing cache {self.path} not written: {error.strerror}")

    def _given_up(self) -> bool:
        return self.path is not None and self.path.is_file() and self.path.stat().st_size == 0

    def _read(self) -> bytes:
        """TensorRT's bytes; none where there is no file, or a damaged one."""
        assert self.path is not None
        try:
            said = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._warn(f"cannot be read ({error.strerror})")
            return b""
        head, data = said[: len(_MARK) + _DIGEST + 1], said[len(_MARK) + _DIGEST + 1 :]
        if head != _MARK + hashlib.sha256(data).hexdigest().encode() + b"\n":
            self._warn("is damaged")
            return b""
        return data

    def _write(self, data: bytes) -> None:
        assert self.path is not None
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_bytes(_MARK + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        part.replace(self.path)

    def _warn(self, what: str) -> None:
        text = f"timing cache {self.path} {what}: ignored"
        if text not in self.warnings:
            self.warnings.append(text)


def _cache(trt_config: Any, data: bytes) -> Any:
    """TensorRT's object of these bytes, or None where it takes them not."""
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

"""A keyed hash that proves that a package was built on this device, by a user who may read its key.

A TensorRT engine is code that runs when it is loaded, so an engine that was built or changed elsewhere must not be
loaded. The hash is HMAC-SHA256 (RFC 2104) over the manifest, which holds the hashes of all other files. The key is
created on the device at the first build, is readable only by its owner, and never leaves the device.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from edgesparse.device import STATE, state_folder
from edgesparse.errors import SignatureError
from edgesparse.files import create, foreign_owner, make_folder, read_checked
from edgesparse.wording import short


def mac(data: bytes) -> str:
    """Return the keyed hash of `data`, in hexadecimal. Raises SignatureError if no key can be created."""
    return _mac(create_key(), data)


def mismatch(signature: str, data: bytes) -> str | None:
    """Return why `signature` is not the keyed hash of `data` on this device, as 'found, needed', or None if it is."""
    needed = f"needed one by this device's key {_path()}"
    key = _read()
    if key is None:
        return f"found no key of this device, {needed}"
    if not signature:
        return f"found no keyed hash, {needed}"
    if hmac.compare_digest(signature.encode(), _mac(key, data).encode()):
        return None
    return f"found the keyed hash {short(signature)[:12]}, {needed}: it was changed, or built elsewhere"


def create_key() -> bytes:
    """Return this device's key, created if necessary. Two processes that do so in parallel get the same key."""
    if (key := _read()) is not None:
        return key
    path = _path()
    try:
        make_folder(path.parent, 0o700)
        with suppress(FileExistsError):
            create(path, secrets.token_bytes(32), 0o600)
    except OSError as error:
        raise SignatureError(
            f"cannot create this device's key {path}: {error.strerror}: name another folder in {STATE}"
        ) from None
    return _read() or b""


def _path() -> Path:
    return state_folder() / "key"


def _read() -> bytes | None:
    path = _path()

    def check(status: os.stat_result) -> None:
        if mode := stat.S_IMODE(status.st_mode) & 0o077:
            raise SignatureError(f"{path}: found mode {mode | 0o600:o}, needed 600: run 'chmod 600 {path}'")
        if owner := foreign_owner(status):
            raise SignatureError(f"{path}: {owner}: run as that user, or name another folder in {STATE}")

    try:
        key = read_checked(path, 1 << 16, check, os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SignatureError(f"cannot read this device's key {path}: {reason}: run as its owner") from None
    if len(key) < 32:
        raise SignatureError(f"{path} is damaged: remove it, and build the packages again")
    return key


def _mac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()

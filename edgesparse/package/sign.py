"""A keyed hash that says a package was built on this device, by someone who may read its key.

An engine of TensorRT is code that runs when it is loaded, so one that was made or changed elsewhere must not be. The
hash is HMAC-SHA256 (RFC 2104) over the manifest, which holds the hashes of all other files. The key is made on the
device at the first build, is readable by its owner alone, and never leaves it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from edgesparse.device import STATE, state_folder
from edgesparse.errors import SignatureError


def mac(data: bytes) -> str:
    """The keyed hash of `data`, in hexadecimal. Raises SignatureError when there can be no key."""
    return _mac(make_key(), data)


def why_not(found: str, data: bytes) -> str | None:
    """Why `found` is not the keyed hash of `data` on this device, as 'found, needed'; None when it is."""
    needed = f"needed that of this device's key {_path()}"
    key = _read()
    if key is None:
        return f"found no key of this device, {needed}"
    if not found:
        return f"found no keyed hash, {needed}"
    if hmac.compare_digest(found.encode(), _mac(key, data).encode()):
        return None
    return f"found the keyed hash {found[:12]}, {needed}: it was changed, or built elsewhere"


def make_key() -> bytes:
    """This device's key, made unless it is there. Two processes at once end with the same one."""
    if (key := _read()) is not None:
        return key
    path = _path()
    part = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # unlike a rename, it leaves a key that another process made meanwhile
        except FileExistsError:
            pass
        finally:
            part.unlink()
    except OSError as error:
        raise SignatureError(
            f"cannot make this device's key {path}: {error.strerror}: name another folder in {STATE}"
        ) from None
    return _read() or b""


def _path() -> Path:
    return state_folder() / "key"


def _read() -> bytes | None:
    path = _path()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignatureError(f"cannot read this device's key {path}: {error.strerror}: run as its owner") from None
    if mode & 0o077:
        raise SignatureError(f"{path}: found mode {mode:o}, needed 600: run 'chmod 600 {path}'")
    if len(key) < 32:
        raise SignatureError(f"{path} is damaged: remove it, and build the packages again")
    return key


def _mac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()

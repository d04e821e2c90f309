"""Files whose contents matter at run time: tokens, passwords, certificates."""

from __future__ import annotations

import hashlib
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import Check, read_checked, untrusted
from edgesparse.redaction import remember
from edgesparse.values import Section
from edgesparse.wording import nearest_file

SHORTEST_TOKEN = 16
"""Minimum length of the web page's token, in characters."""
MAX_SECRET_BYTES = 8192
MAX_CERTIFICATE_BYTES = 1 << 20


def read_secret(path: Path, key: str, shortest: int = 1) -> str:
    """Return the one-line secret in a file of root or this user that others cannot read; a link is not followed.

    `key` is the setting that names the file; error messages start with it. Raises ConfigError, which never quotes the
    secret.
    """

    def check(status: os.stat_result) -> None:
        if (mode := stat.S_IMODE(status.st_mode)) & 0o007:
            raise ConfigError(
                f"{key}: found {path} with mode {mode:o}, needed one that others can't read: chmod o= {path}"
            )
        check_owner(path, key, status)

    remedy = f"(umask 077; openssl rand -hex 32 > {path})"
    secret = _single_line(_read(path, key, remedy, MAX_SECRET_BYTES, check, os.O_NOFOLLOW), path, key, shortest)
    remember(secret)
    return secret


def read_certificates(path: Path, key: str) -> str:
    """Return the text of a file that only root and this user can change, as whoever changes it chooses whom the service
    believes. Raises ConfigError.
    """
    data = _read(path, key, "see docs/guide/service.md", MAX_CERTIFICATE_BYTES, partial(check_owner, path, key))
    return data.decode("ascii", "ignore")  # names in comments may have other letters


def check_owner(path: Path, key: str, status: os.stat_result) -> None:
    """Raise ConfigError for a file that other users than root and this one could change."""
    if reason := untrusted(path, status):
        raise ConfigError(f"{key}: {path}: {reason}")


def _read(path: Path, key: str, missing: str, most: int, check: Check, flags: int = 0) -> bytes:
    try:
        return read_checked(path, most, check, flags)
    except FileNotFoundError:
        raise ConfigError(f"{key}: no file {path}{nearest_file(path)}: {missing}") from None
    except (OSError, ValueError) as error:
        if flags and path.is_symlink():
            raise ConfigError(f"{key}: {path} is a link, needed the file itself: name {path.resolve()}") from None
        reason = getattr(error, "strerror", None) or f"more than {most} bytes"
        raise ConfigError(f"{key}: cannot read {path}: {reason}") from None


def _single_line(data: bytes, path: Path, key: str, shortest: int) -> str:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not UTF-8 text: openssl rand -hex 32 > {path}") from None
    if not text.isprintable():
        raise ConfigError(f"{key}: found line breaks or control characters in {path}, needed one line of text")
    if len(text) < shortest:
        raise ConfigError(
            f"{key}: found {len(text)} characters in {path}, needed {shortest} or more: openssl rand -hex 32 > {path}"
        )
    return text


def fingerprint(section: Section | None) -> tuple[Any, ...]:
    """Return a value that changes when the settings change or the contents of a file that one of them names.

    Files are the settings whose key ends in `_file`. A file that cannot be read counts as empty.
    """
    if section is None:
        return ()
    files = [value for key, value in section if key.endswith("_file") and isinstance(value, Path)]
    return section, *(_digest(path) for path in files)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_checked(path, MAX_CERTIFICATE_BYTES)).hexdigest()
    except (OSError, ValueError):
        return ""

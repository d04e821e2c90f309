"""Files whose contents matter at run time: tokens, passwords, certificates."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import read_checked
from edgesparse.redaction import remember
from edgesparse.values import Section
from edgesparse.wording import nearest_file

SHORTEST_TOKEN = 16
"""Minimum length of the web page's token, in characters."""
MAX_SECRET_BYTES = 8192


def read_secret(path: Path, key: str, shortest: int = 1) -> str:
    """Return the one-line secret in a file that other users cannot read. `key` is the setting that names the file;
    error messages start with it. Raises ConfigError, which never quotes the secret.
    """

    def check(status: os.stat_result) -> None:
        if (mode := stat.S_IMODE(status.st_mode)) & 0o007:
            raise ConfigError(
                f"{key}: found {path} with mode {mode:o}, needed one that others can't read: chmod o= {path}"
            )

    try:
        data = read_checked(path, MAX_SECRET_BYTES, check)
    except FileNotFoundError:
        raise ConfigError(
            f"{key}: no file {path}{nearest_file(path)}: (umask 077; openssl rand -hex 32 > {path})"
        ) from None
    except (OSError, ValueError) as error:
        if reason := getattr(error, "strerror", None):
            raise ConfigError(f"{key}: cannot read {path}: {reason}") from None
        raise ConfigError(f"{key}: {path} is not a regular file of at most {MAX_SECRET_BYTES} bytes") from None
    secret = _single_line(data, path, key, shortest)
    remember(secret)
    return secret


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
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.sha256(file.read(1 << 20)).hexdigest()
    except (OSError, ValueError):
        return ""

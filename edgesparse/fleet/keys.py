"""Ed25519 keys (RFC 8032): who may sign bundles for a device, and until when.

A key is two PEM files, NAME.key and NAME.pub. Each begins with two lines that OpenSSL skips: the key's name, and the
last day (UTC) on which it is valid. A device trusts the NAME.pub files in one folder and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from edgesparse.disk import check_folder, refuse_file
from edgesparse.errors import BackendUnavailable, ConfigError, SignatureError
from edgesparse.files import Check, create, foreign_owner, make_folder, read_checked

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError as error:
    raise BackendUnavailable(f"signing needs cryptography ({error}): pip install 'edgesparse[fleet]'") from error

TRUSTED = Path("/etc/edgesparse/trusted")
MOST_BYTES = 1 << 16
"""Of a key's file."""
"""Raises SignatureError for the status of a file that must not be used."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class PublicKey:
    """`id`: the first 16 hexadecimal digits of the raw key's sha256. `expires`: the last valid day, None for never."""

    name: str
    expires: date | None
    raw: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now.astimezone(timezone.utc).date() > self.expires

    def signed(self, signature: bytes, data: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def text(self) -> str:
        """Return the contents of NAME.pub."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        pem = key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        return _head(self) + pem.decode()


@dataclass(frozen=True)
class PrivateKey:
    public: PublicKey
    key: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """Return the deterministic signature, 64 bytes. Raises SignatureError for an expired key."""
        self.refuse_expired()
        return self.key.sign(data)

    def refuse_expired(self) -> None:
        """Raise SignatureError for an expired key."""
        if self.public.expired(datetime.now(timezone.utc)):
            raise SignatureError(
                f"key {self.public} expired on {self.public.expires}: sign with its successor, or create one with "
                "'edgesparse keys rotate'"
            )


def new(path: Path, days: int | None) -> PublicKey:
    """Create PATH.key (mode 0600) and PATH.pub, which expire after `days`, or never if None. Raises ConfigError if
    either exists or cannot be written.
    """
    private, public = _new_files(path)
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(forms.Encoding.Raw, forms.PublicFormat.Raw)
    public_key = PublicKey(path.name, None if days is None else _today() + timedelta(days), raw)
    pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    _write(private, _head(public_key) + pem.decode(), 0o600)
    _write(public, public_key.text(), 0o644)
    return public_key


def _new_files(path: Path) -> tuple[Path, Path]:
    """Return the files of a new key. Raises ConfigError if either exists, or their folder cannot be written to."""
    files = _files(path)
    for file in files:
        if file.exists():
            raise ConfigError(f"{file} exists: keys are never overwritten; choose another name")
    check_folder(path.parent)
    return files


def rotate(old: Path, path: Path, days: int | None, overlap: int, folder: Path) -> tuple[PublicKey, PublicKey]:
    """Create the successor of OLD.key and, in `folder`, both public keys for the devices; the old one expires after
    `overlap` days. Raises ConfigError, SignatureError."""
    before = read_private(old).public
    last = _today() + timedelta(overlap)
    before = replace(before, expires=min(before.expires or last, last))
    refuse_file(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: name a new folder")
    _new_files(path)
    try:
        make_folder(folder)  # before there is a key that lacks its public halves
    except OSError as error:
        raise ConfigError(f"cannot create {folder}: {error.strerror}") from None
    after = new(path, days)
    for key in (before, after):
        _write(folder / f"{key.name}.pub", key.text(), 0o644)
    return before, after


def read_private(path: Path) -> PrivateKey:
    """Read NAME.key. Raises SignatureError for a file that others can read, or that is not an Ed25519 key."""

    def check(status: os.stat_result) -> None:
        if mode := stat.S_IMODE(status.st_mode) & 0o077:
            raise SignatureError(f"{path}: found mode {mode | 0o600:o}, needed 600: run 'chmod 600 {path}'")
        if owner := foreign_owner(status):
            raise SignatureError(f"{path}: {owner}: run 'chown root {path}'")

    if path.suffix == ".pub":
        raise SignatureError(f"{path} is not a private Ed25519 key: name {path.with_suffix('.key')}")
    data = _read(path, check, ": create one with 'edgesparse keys new'")
    try:
        key = forms.load_pem_private_key(_pem(data), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} is not a private Ed25519 key: create one with 'edgesparse keys new'")
    raw = key.public_key().public_bytes(forms.Encoding.Raw, forms.PublicFormat.Raw)
    return PrivateKey(PublicKey(*_read_head(path, data), raw), key)


def read_public(path: Path, check: Check = lambda _: None) -> PublicKey:
    """Read NAME.pub, whose status `check` accepts. Raises SignatureError for what is not a public Ed25519 key."""
    data = _read(path, check)
    try:
        key = forms.load_pem_public_key(_pem(data))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} is not a public Ed25519 key: remove or replace it")
    return PublicKey(*_read_head(path, data), key.public_bytes(forms.Encoding.Raw, forms.PublicFormat.Raw))


def trusted(folder: Path) -> list[PublicKey]:
    """Return the keys that this device trusts, sorted by name.

    Raises SignatureError if there is none, or if a user other than root and this one could add or change one.
    """
    refuse_file(folder)
    files = sorted(folder.glob("*.pub"))
    if not files:
        raise SignatureError(f"no trusted key in {folder}: add the public key (NAME.pub) of whoever signs bundles")
    check_owner(folder, folder.stat())
    return [read_public(path, partial(check_owner, path)) for path in files]


def _read(path: Path, check: Check, remedy: str = "") -> bytes:
    try:
        return read_checked(path, MOST_BYTES, check)
    except OSError as error:
        raise SignatureError(f"cannot read the key {path}: {error.strerror or error}{remedy}") from None
    except ValueError as error:
        raise SignatureError(str(error)) from None


def check_owner(path: Path, status: os.stat_result) -> None:
    """Raise SignatureError for what a user other than root and this one could change."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        raise SignatureError(f"{path}: found mode {mode:o}, which lets others add keys: run 'chmod go-w {path}'")
    if owner := foreign_owner(status):
        raise SignatureError(f"{path}: {owner}: run 'chown root {path}'")


def who_signed(keys: Iterable[PublicKey], signature: bytes, data: bytes) -> PublicKey | None:
    """Return the key that made the signature, or None if it is none of them."""
    return next((key for key in keys if key.signed(signature, data)), None)


def _files(path: Path) -> tuple[Path, Path]:
    if not _NAME.fullmatch(path.name):
        raise ConfigError(f"found the key name {path.name!r}, needed letters, digits, '.', '_' and '-'")
    return path.with_name(f"{path.name}.key"), path.with_name(f"{path.name}.pub")


def _head(key: PublicKey) -> str:
    return f"edgesparse key: {key.name}\nexpires: {key.expires or 'never'}\n"


def _read_head(path: Path, data: bytes) -> tuple[str, date | None]:
    """Return name and last day; without a head before the PEM block, the file's name and never."""
    head = dict(
        re.findall(r"^(edgesparse key|expires): *(\S+)\s*$", data.partition(b"-----")[0].decode(errors="replace"), re.M)
    )
    last = head.get("expires", "never")
    try:
        return head.get("edgesparse key", path.stem), None if last == "never" else date.fromisoformat(last)
    except ValueError:
        raise SignatureError(f"{path}: found 'expires: {last}', needed a day such as 2027-12-31, or never") from None


def _pem(data: bytes) -> bytes:
    return data[max(data.find(b"-----BEGIN"), 0) :]


def _write(path: Path, text: str, mode: int) -> None:
    """Create a file atomically, without ever overwriting one."""
    try:
        make_folder(path.parent)
        create(path, text.encode(), mode)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _today() -> date:
    return datetime.now(timezone.utc).date()

"""The bundle: one signed file with everything that an engine is built from. It contains no native code, and
the Python file of the user's own head only where the recipe says so (`deploy.include_head`).

A bundle is an uncompressed POSIX tar (ustar) with exactly one valid layout: `manifest.json`, `manifest.sig` (Ed25519
over the manifest's bytes), then the files in the manifest's order. Every header is a function of a file's name and
size, so a reader parses none: it computes the expected header and compares. Links, devices, paths with `..`, extra or
longer files need no checks of their own, and as nothing is compressed, nothing grows when unpacked. The signature is
verified before the manifest is parsed, the hash of every file before anything is written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgesparse.config import Deploy
from edgesparse.errors import ConfigError, SignatureError
from edgesparse.fleet.keys import PrivateKey, PublicKey, who_signed
from edgesparse.values import Section, Version

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MOST_MANIFEST = 1 << 20
MOST_FILE = 8**11 - 1
MAX_TIME = 1 << 37
"""Seconds since 1970, in the year 6325; later times are wrong, and beyond the year 9999 they cannot be shown."""
BLOCK = 512
END = bytes(2 * BLOCK)
_CHUNK = 1 << 20
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_PATH = re.compile(rf"{_PART}(/{_PART})*")


def _name(value: str) -> str:
    if len(value) > 100 or not _PATH.fullmatch(value):
        raise ValueError("a relative path of letters, digits, '.', '_', '+' and '-', at most 100 long")
    return value


M = TypeVar("M", bound=Section)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleFile(Section):
    name: Annotated[str, AfterValidator(_name)]
    size: Annotated[int, Field(ge=0, le=MOST_FILE)]
    sha256: Sha256


class BundleManifest(Section):
    format: Literal["edgesparse bundle 1"] = "edgesparse bundle 1"
    name: str
    """The model's name."""
    version: Version
    time: Annotated[int, Field(ge=0, le=MAX_TIME)]
    """Modification time of the newest file in it, in seconds since 1970."""
    key: str
    """The id of the signing key, shown in messages."""
    deploy: Deploy = Deploy()
    """Limits that the device checks."""
    files: tuple[BundleFile, ...]

    @model_validator(mode="after")
    def _apart(self) -> BundleManifest:
        names = {file.name for file in self.files}
        folders = {str(parent) for name in names for parent in Path(name).parents}
        if len(names) != len(self.files) or names & (folders | {MANIFEST, SIGNATURE}):
            raise ValueError("files whose names differ")
        return self

    @property
    def size(self) -> int:
        """Total size of the unpacked files, in bytes."""
        return sum(file.size for file in self.files)

    def newer_than(self, version: str) -> bool:
        return order(self.version) > order(version)


def order(version: str) -> tuple[int, ...]:
    """Return a version's sort key: 1.10 is newer than 1.9, and 1.0 equals 1."""
    numbers = [*map(int, version.split("."))]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@dataclass(frozen=True)
class Signed:
    """The beginning of a bundle or delta, with its signature verified: `signed` (its manifest) and `signature` as
    received, the `key` that signed it, the `files` that follow; `start` and `end`: byte offsets at which these begin
    and the whole ends.
    """

    files: tuple[BundleFile, ...]
    key: PublicKey
    signed: bytes
    signature: bytes

    @property
    def sha256(self) -> str:
        """Its identity."""
        return hashlib.sha256(self.signed).hexdigest()

    @property
    def start(self) -> int:
        return 2 * BLOCK + _padded(len(self.signed)) + _padded(len(self.signature))

    @property
    def end(self) -> int:
        return self.start + sum(BLOCK + _padded(file.size) for file in self.files) + len(END)


@dataclass(frozen=True)
class Head(Signed):
    """Everything before the files of a bundle."""

    manifest: BundleManifest


def write(out: BinaryIO, manifest: BundleManifest, key: PrivateKey, files: Mapping[str, Path]) -> None:
    """Write a bundle of the `files` in the manifest. Raises SignatureError for an expired key, ConfigError if a file
    differs from the manifest.
    """
    write_signed(out, manifest.model_dump_json(indent=1).encode(), manifest.files, key, files)


def write_signed(
    out: BinaryIO, signed: bytes, listed: Sequence[BundleFile], key: PrivateKey, files: Mapping[str, Path]
) -> None:
    """Write a manifest, its signature, and the files listed in it. Raises what `write` raises."""
    if len(signed) > MOST_MANIFEST:
        raise ConfigError(f"{len(listed)} files are too many for a bundle: calibrate and score on fewer images")
    write_start(out, signed, key.sign(signed))
    for file in listed:
        write_file(out, file, _unchanged(file, files[file.name]))
    out.write(END)


def write_start(out: BinaryIO, signed: bytes, signature: bytes) -> None:
    """Write manifest and signature."""
    for name, data in ((MANIFEST, signed), (SIGNATURE, signature)):
        out.write(_header(name, len(data)) + data + bytes(-len(data) % BLOCK))


def write_file(out: BinaryIO, file: BundleFile, chunks: Iterable[bytes]) -> None:
    """Write a file with its header and padding."""
    out.write(_header(file.name, file.size))
    out.writelines(chunks)
    out.write(bytes(-file.size % BLOCK))


def _unchanged(file: BundleFile, path: Path) -> Iterator[bytes]:
    """Yield a file's bytes. Raises ConfigError if they differ from the manifest."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for chunk in _chunks(source, file.size, path):
            digest.update(chunk)
            yield chunk
        if source.read(1) or digest.hexdigest() != file.sha256:
            raise ConfigError(f"{path} changed while it was read: run this again")


def parse_head(signed: bytes, signature: bytes, key: PublicKey, where: object) -> Head:
    """Return the head of verified bytes. Raises SignatureError for what this version cannot read."""
    manifest = parsed(BundleManifest, signed, where)
    return Head(manifest.files, key, signed, signature, manifest)


def parsed(kind: type[M], signed: bytes, where: object) -> M:
    """Return the manifest in verified bytes. Raises SignatureError for what this version cannot read."""
    try:
        return kind.model_validate_json(signed)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise SignatureError(
            f"{where}: this edgesparse cannot read its manifest ({at}: {first['msg']}): update edgesparse"
        ) from None


def verified_by(trusted: Sequence[PublicKey], signature: bytes, signed: bytes, where: object) -> PublicKey:
    """Return the key that signed these bytes. Raises SignatureError if none of the trusted ones did."""
    key = who_signed(trusted, signature, signed)
    if key is None:
        known = ", ".join(map(str, trusted))
        raise SignatureError(
            f"{where} is not signed by a key that this device trusts, or was tampered with: found the keys {known}; "
            "--trusted names another folder of keys"
        )
    return key


def head_length(start: bytes) -> int:
    """Return how many bytes of what begins with `start` have to be read to know manifest and signature."""
    size = _manifest_size(start[:BLOCK])
    return BLOCK if size is None else 3 * BLOCK + _padded(size)


def _manifest_size(header: bytes) -> int | None:
    digits = re.fullmatch(rb"[0-7]{11}\0", header[124:136])
    size = int(digits[0][:11], 8) if digits else -1
    return size if 0 < size <= MOST_MANIFEST and header == _header(MANIFEST, size) else None


def read_signed(source: BinaryIO, trusted: Sequence[PublicKey], where: object) -> tuple[bytes, bytes, PublicKey]:
    """Return manifest, signature and the key that signed, and read nothing after them. Raises SignatureError."""
    size = _manifest_size(source.read(BLOCK))
    if size is None:
        raise SignatureError(f"{where} is not a bundle: create one with 'edgesparse bundle'")
    signed = source.read(size)
    between = source.read(-size % BLOCK + BLOCK)
    signature = source.read(64)
    rest = source.read(BLOCK - 64)
    if between != bytes(-size % BLOCK) + _header(SIGNATURE, 64) or rest != bytes(BLOCK - 64):
        raise SignatureError(f"{where} is damaged or was tampered with before its first file: fetch it again")
    return signed, signature, verified_by(trusted, signature, signed, where)


def verify(source: BinaryIO, head: Signed, where: object) -> None:
    """Compare every byte after the head with the manifest. Raises SignatureError."""
    source.seek(head.start)
    for file in head.files:
        for _ in content(source, file, where):
            pass
    if source.read(len(END) + 1) != END:
        raise _tampered(where, "its end")


def unpack(source: BinaryIO, head: Head, folder: Path, where: object) -> None:
    """Write the files, manifest and signature into the empty `folder`, verifying them again.

    Raises SignatureError, OSError.
    """
    source.seek(head.start)
    _store(folder / MANIFEST, [head.signed])
    _store(folder / SIGNATURE, [head.signature])
    for file in head.manifest.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        _store(path, content(source, file, where))


def _store(path: Path, chunks: Iterator[bytes] | list[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o644), "wb") as out:
        for chunk in chunks:
            out.write(chunk)


def content(source: BinaryIO, file: BundleFile, where: object) -> Iterator[bytes]:
    """Yield a file's bytes. Raises SignatureError at the end if they, or the bytes around them, differ from what was
    signed.
    """
    if source.read(BLOCK) != _header(file.name, file.size):
        raise _tampered(where, file.name)
    digest = hashlib.sha256()
    for chunk in _chunks(source, file.size, where):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != file.sha256 or source.read(-file.size % BLOCK) != bytes(-file.size % BLOCK):
        raise _tampered(where, file.name)


def _chunks(source: BinaryIO, size: int, where: object) -> Iterator[bytes]:
    while size:
        chunk = source.read(min(size, _CHUNK))
        if not chunk:
            raise SignatureError(f"{where} ends too early: {size} bytes are missing; fetch it again")
        size -= len(chunk)
        yield chunk


def _tampered(where: object, what: str) -> SignatureError:
    return SignatureError(f"{where}: {what} is not what was signed: damaged or tampered with; fetch it again")


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _header(name: str, size: int) -> bytes:
    """Return the ustar header of a regular file: mode 0644, owner 0, time 0 (POSIX.1-1988, as in pax(1))."""
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + 2 * b"0000000\0",
        b"%011o\0" % size + b"%011o\0" % 0,
        b" " * 8,
        b"0" + bytes(100) + b"ustar\x0000" + bytes(64),
        2 * b"0000000\0" + bytes(155 + 12),
    )
    blank = b"".join(fields)
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]

"""A delta: one signed file from which a device that has one bundle makes the next one, byte for byte.

It has the layout of a bundle, so each of its bytes is verified before any is decoded. Its manifest contains that of the
new bundle with its signature; a file per file that changed follows, coded against the old file (`coding`). What the old
bundle already has, by hash, is not sent.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from edgesparse.disk import scratch, writing
from edgesparse.errors import ConfigError, DeployError, SignatureError
from edgesparse.fleet import bundle, coding
from edgesparse.fleet.bundle import BundleFile, BundleManifest, Head, Sha256, Signed
from edgesparse.fleet.keys import PrivateKey, PublicKey
from edgesparse.package.manifest import sha256
from edgesparse.progress import Progress
from edgesparse.values import Section

FORMAT = "edgesparse delta 1"


class DeltaManifest(Section):
    """`base`: the identity of the bundle that the device has. `manifest`, `signature`: the new bundle's. `origins`: by
    the name of a changed file, that of the old file it is coded against, if there is one.
    """

    format: Literal["edgesparse delta 1"] = "edgesparse delta 1"
    key: str
    base: Sha256
    manifest: str
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    origins: dict[str, str]
    files: tuple[BundleFile, ...]


@dataclass(frozen=True)
class Delta(Signed):
    """The verified beginning of a delta. `head`: the new bundle's, verified too."""

    base: str
    origins: dict[str, str]
    head: Head


def read(source: BinaryIO, trusted: Sequence[PublicKey], where: object) -> Head | Delta:
    """Read and verify the beginning of a bundle or a delta. Raises SignatureError."""
    signed, signature, key = bundle.read_signed(source, trusted, where)
    try:
        is_delta = json.loads(signed).get("format") == FORMAT
    except (ValueError, AttributeError, RecursionError):
        is_delta = False
    if not is_delta:
        return bundle.parse_head(signed, signature, key, where)
    manifest = bundle.parsed(DeltaManifest, signed, where)
    inner, inner_signature = manifest.manifest.encode(), bytes.fromhex(manifest.signature)
    inner_key = bundle.verified_by(trusted, inner_signature, inner, f"the bundle that {where} leads to")
    head = bundle.parse_head(inner, inner_signature, inner_key, where)
    changed = {file.name for file in manifest.files}
    if len(changed) != len(manifest.files) or not changed <= {file.name for file in head.files}:
        raise SignatureError(f"{where}: its files are not those of its bundle: create it again")
    return Delta(manifest.files, key, signed, signature, manifest.base, manifest.origins, head)


@dataclass(frozen=True)
class Base:
    """The unpacked bundle of a device's slot, whose manifest is the one that a delta names."""

    folder: Path
    manifest: BundleManifest

    def paths(self) -> dict[str, Path]:
        """Return the files by their hashes."""
        return {file.sha256: self.folder / file.name for file in self.manifest.files}


def apply(delta: Delta, source: BinaryIO, base: Base, out: BinaryIO, where: object) -> None:
    """Write the new bundle. The caller has verified `source`, and verifies what was written.

    Raises DeployError, SignatureError, OSError.
    """
    coded = {file.name: file for file in delta.files}
    have = base.paths()
    source.seek(delta.start)
    bundle.write_start(out, delta.head.signed, delta.head.signature)
    for file in delta.head.files:
        if file.name in coded:
            chunks = _decoded(delta, file, source, coded[file.name], base)
        elif file.sha256 in have:
            chunks = _copied(have[file.sha256], file.size)
        else:
            raise DeployError(f"{where} lacks {file.name}")
        bundle.write_file(out, file, chunks)
    out.write(bundle.END)


def _decoded(delta: Delta, file: BundleFile, source: BinaryIO, coded: BundleFile, base: Base) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as packed, ExitStack() as stack:
        for chunk in bundle.content(source, coded, "the delta"):
            packed.write(chunk)
        packed.seek(0)
        origin = delta.origins.get(file.name)
        if origin is not None and origin not in {known.name for known in base.manifest.files}:
            raise DeployError(f"the delta refers to {origin}, which its bundle does not have")
        old = stack.enter_context(_empty() if origin is None else (base.folder / origin).open("rb"))
        yield from coding.decode(old, packed, file.size)
        if packed.read(1):
            raise DeployError(f"the delta has more than {file.name}")


def _copied(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size and (chunk := file.read(min(size, coding.SEGMENT))):
            size -= len(chunk)
            yield chunk


def _empty() -> BinaryIO:
    return tempfile.TemporaryFile()


def make(old: BinaryIO, base: Head, new: BinaryIO, head: Head, target: Target) -> DeltaManifest:
    """Write the delta from one verified bundle to another. `old`, `new`: their files. Raises ConfigError."""
    if base.manifest.name != head.manifest.name:
        raise ConfigError(f"found bundles of {base.manifest.name} and {head.manifest.name}, needed one detector")
    if base.sha256 == head.sha256:
        raise ConfigError("found the same bundle twice, needed an older and a newer one")
    with scratch(prefix="edgesparse-delta-") as folder:
        before, after = folder / "old", folder / "new"
        for part, opened, where in ((base, old, before), (head, new, after)):
            where.mkdir()
            bundle.unpack(opened, part, where, where.name)
        return _write(Base(before, base.manifest), after, head, target)


@dataclass(frozen=True)
class Target:
    """Where a delta is written, who signs it, and who hears of the progress."""

    out: Path
    key: PrivateKey
    progress: Progress


def _write(base: Base, after: Path, head: Head, target: Target) -> DeltaManifest:
    have = base.paths()
    changed = [file for file in head.files if file.sha256 not in have]
    total, done, origins, coded = sum(file.size for file in changed), 0, {}, {}

    def advance(size: int) -> None:
        nonlocal done
        done += size
        target.progress("comparing", done, total)

    for number, file in enumerate(changed):
        origin = _origin(file, base.manifest.files)
        if origin is not None:
            origins[file.name] = origin.name
        coded[file.name] = after.parent / f"{number}.coded"
        with ExitStack() as stack:
            old = stack.enter_context((base.folder / origin.name).open("rb") if origin else _empty())
            new = stack.enter_context((after / file.name).open("rb"))
            coded_file = stack.enter_context(coded[file.name].open("wb"))
            coded_file.writelines(coding.encode(old, origin.size if origin else 0, new, advance))
    manifest = DeltaManifest(
        key=target.key.public.id,
        base=sha256(base.folder / bundle.MANIFEST),
        manifest=head.signed.decode(),
        signature=head.signature.hex(),
        origins=origins,
        files=tuple(BundleFile(name=n, size=p.stat().st_size, sha256=sha256(p)) for n, p in coded.items()),
    )
    with writing(target.out) as out:
        bundle.write_signed(out, manifest.model_dump_json(indent=1).encode(), manifest.files, target.key, coded)
    return manifest


def _origin(file: BundleFile, old: Sequence[BundleFile]) -> BundleFile | None:
    """Return the old file to code against: of the same name, else the nearest in size of the same folder and suffix."""
    path = Path(file.name)
    alike = [known for known in old if (Path(known.name).parent, Path(known.name).suffix) == (path.parent, path.suffix)]
    return min(alike, key=lambda known: (known.name != file.name, abs(known.size - file.size)), default=None)

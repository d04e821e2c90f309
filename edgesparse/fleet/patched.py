"""A bundle that is made on the device from the one that it has and a delta; otherwise the whole bundle is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from edgesparse.errors import DeployError, EdgeSparseError, SignatureError
from edgesparse.files import read_regular, replacing
from edgesparse.fleet import bundle
from edgesparse.fleet.admit import refuse_expired
from edgesparse.fleet.bundle import MANIFEST, MOST_MANIFEST, BundleManifest, verify
from edgesparse.fleet.delta import Base, Delta, apply
from edgesparse.fleet.fetch import BundleSource, Interrupted, open_bundle, refuse_delta
from edgesparse.fleet.keys import PublicKey
from edgesparse.fleet.slots import FETCHED, SLOTS, Root
from edgesparse.package.manifest import sha256
from edgesparse.progress import Progress


def _any(_: BinaryIO) -> bool:
    return True


class Patched(BundleSource):
    """The bundle that a delta leads to. `whole` opens the same bundle, for when the delta cannot be used. `listed`:
    whether signed metadata lists the delta's file, where there is any.
    """

    def __init__(
        self, source: BundleSource, whole: Callable[[], BundleSource], listed: Callable[[BinaryIO], bool]
    ) -> None:
        if not isinstance(source.signed, Delta):
            raise SignatureError(f"{source.where} is a bundle, needed a delta: create one with 'edgesparse delta'")
        self.where, self.head, self._source, self._delta = source.where, source.head, source, source.signed
        self.signed, self._open_whole, self._listed = source.signed, whole, listed
        self._whole: BundleSource | None = None

    def missing(self, root: Path) -> int:
        return self._source.missing(root) + self.head.end

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        """Return the whole bundle, verified; if the delta cannot be used, the reason is in `note`.

        A download of the delta that broke halfway is not given up: the next attempt continues it.
        """
        before = self._source.missing(root)
        if not self._part(root).exists():  # otherwise the whole one is being fetched, or is there
            try:
                return self._apply(root, progress)
            except (EdgeSparseError, OSError) as error:
                if isinstance(error, Interrupted) and self._source.missing(root) < before:
                    raise
                self.note = not_used(error)
                self._source.forget(root)
        whole = self._whole = self._open_whole()
        if whole.head.sha256 != self.head.sha256:
            raise SignatureError(f"{whole.where} is another bundle than the one that {self.where} leads to")
        return whole.complete(root, progress)

    def _apply(self, root: Path, progress: Progress) -> BinaryIO:
        refuse_expired(self._delta.key, self.head.manifest, Root(root))
        base = base_of(Root(root), self._delta.base)
        if base is None:
            raise DeployError("this device does not have the bundle that it begins with")
        with self._source.complete(root, progress) as file:
            if not self._listed(file):
                raise SignatureError(f"{self.where} is not what the signed metadata states")
            verify(file, self._delta, self.where)
            progress("applying the delta", 0, 0)
            part = self._part(root)
            part.parent.mkdir(exist_ok=True)
            with replacing(part, synced=True) as out:
                apply(self._delta, file, base, out, self.where)
        rebuilt = part.open("rb")
        try:
            verify(rebuilt, self.head, "the bundle made from it")
        except BaseException:
            rebuilt.close()
            part.unlink()
            raise
        rebuilt.seek(0)
        return rebuilt

    def forget(self, root: Path) -> None:
        self._source.forget(root)
        self._part(root).unlink(missing_ok=True)

    def close(self) -> None:
        self._source.close()
        if self._whole is not None:
            self._whole.close()

    def _part(self, root: Path) -> Path:
        """Return where a download of the whole bundle would store it."""
        return root / FETCHED / f"{self.head.sha256[:32]}.part"


def open_for_deploy(where: str, delta: str | None, trusted: Sequence[PublicKey]) -> BundleSource:
    """Open a bundle by its path or https address, made from a delta if one is named and can be used.

    Raises DeployError, SignatureError.
    """
    if delta is not None:
        return patched(partial(open_bundle, delta, trusted), partial(open_bundle, where, trusted))
    with ExitStack() as on_error:
        source = on_error.enter_context(open_bundle(where, trusted))
        refuse_delta(source)
        on_error.pop_all()
    return source


def patched(
    delta: Callable[[], BundleSource],
    whole: Callable[[], BundleSource],
    listed: Callable[[BinaryIO], bool] = _any,
) -> BundleSource:
    """Return the bundle that a delta leads to, or the whole one with a note if the delta cannot be opened."""
    try:
        with ExitStack() as on_error:
            patch = Patched(on_error.enter_context(delta()), whole, listed)
            on_error.pop_all()
            return patch
    except EdgeSparseError as error:
        source = whole()
        source.note = not_used(error)
        return source


def not_used(error: Exception) -> str:
    """Return the note about a delta that could not be used."""
    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return f"the delta was not used ({reason}): the whole bundle was fetched"


def base_of(root: Root, identity: str) -> Base | None:
    """Return the slot's bundle of this identity, if the device has it."""
    for slot in map(root.slot, SLOTS):
        record, path = slot.record(), slot.bundle / MANIFEST
        if record is not None and record.bundle == identity and path.is_file() and sha256(path) == identity:
            signed = read_regular(path, MOST_MANIFEST)
            return Base(slot.bundle, bundle.parsed(BundleManifest, signed, path))
    return None

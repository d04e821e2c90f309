"""What signed metadata states about the files of a repository: releases, and deltas between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from edgesparse.errors import SignatureError
from edgesparse.fleet.bundle import Sha256
from edgesparse.fleet.rollout import Release, startable
from edgesparse.values import Section

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

DELTA = "delta"


class ListedDelta(Section):
    """A delta: the identities of the bundle it begins with and of the bundle it leads to."""

    base: Sha256
    bundle: Sha256


S = TypeVar("S", Release, ListedDelta)


def read_releases(targets: Targets) -> dict[str, Release]:
    """Return the releases in signed metadata. Raises SignatureError for what this version cannot read."""
    return {path: _stated(Release, custom) for path, custom in _customs(targets) if DELTA not in custom}


def read_deltas(targets: Targets) -> dict[str, ListedDelta]:
    """Return the deltas in signed metadata. Raises SignatureError for what this version cannot read."""
    return {path: _stated(ListedDelta, custom[DELTA]) for path, custom in _customs(targets) if DELTA in custom}


def remove_stale_deltas(targets: Targets) -> None:
    """Remove the deltas to bundles that no device starts any more: stopped, or replaced on all devices."""
    bundles = startable(read_releases(targets).values())
    for path, delta in read_deltas(targets).items():
        if delta.bundle not in bundles:
            del targets.targets[path]


def remove_unlisted_deltas(folder: Path, current: Sequence[Targets]) -> None:
    """Remove the files of deltas in `folder` that none of the `current` metadata, published or staged, names."""
    listed = {f"{file.hashes['sha256']}.{path}" for targets in current for path, file in targets.targets.items()}
    for file in folder.glob("*.esd"):
        if file.name not in listed:
            file.unlink(missing_ok=True)


def _customs(targets: Targets) -> list[tuple[str, dict[str, Any]]]:
    return [(path, file.custom if isinstance(file.custom, dict) else {}) for path, file in targets.targets.items()]


def _stated(kind: type[S], custom: object) -> S:
    try:
        return kind.model_validate(custom)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise SignatureError(f"this edgesparse cannot read a release ({at}: {first['msg']}): update it") from None

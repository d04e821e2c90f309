"""The signed metadata of a repository, as a device reads it with python-tuf's client.

The client follows roots from the one in /etc/edgesparse, and refuses signatures below the threshold, versions that
shrink, parts that do not belong together, files longer than stated, and what has expired. A clock that is behind
does not stretch an expiry: the time in the newest timestamp then counts. A clock that is ahead cannot be told from a
correct one: it refuses updates, and what runs goes on.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from edgesparse.errors import BackendUnavailable, ConfigError, DeployError, SignatureError
from edgesparse.files import make_folder, set_aside, sync, sync_folder
from edgesparse.fleet.admit import DAY
from edgesparse.fleet.connection import Server, ServerRefuses, chunks, why_failed
from edgesparse.fleet.listing import ListedDelta, read_deltas, read_releases
from edgesparse.fleet.repository import TIME
from edgesparse.fleet.rollout import Release
from edgesparse.redaction import redact

try:
    from tuf.api.exceptions import (
        DownloadError,
        DownloadHTTPError,
        DownloadLengthMismatchError,
        ExpiredMetadataError,
        LengthOrHashMismatchError,
        RepositoryError,
    )
    from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
    from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
except ImportError as error:
    raise BackendUnavailable(f"pulling needs python-tuf ({error}): pip install 'edgesparse[fleet]'") from error

ANCHOR = Path("/etc/edgesparse/root.json")
"""The root that a device trusts at first, copied to it when it is provisioned."""
MOST_METADATA = 1 << 20
"""Bytes of one metadata file."""
LENGTHS = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=0,
    root_max_length=1 << 16,
    timestamp_max_length=1 << 14,
    snapshot_max_length=1 << 16,
    targets_max_length=MOST_METADATA,
)


@dataclass(frozen=True)
class Offer:
    """What verified metadata offers. `files`: lengths and hashes of bundles and deltas. `note`: about the clock."""

    releases: tuple[Release, ...]
    deltas: tuple[ListedDelta, ...]
    files: dict[Release | ListedDelta, TargetFile]
    note: str = ""

    def length(self, release: Release) -> int:
        """Return the length of a release's bundle, in bytes."""
        return self.files[release].length

    def has_signed(self, what: Release | ListedDelta, file: BinaryIO) -> bool:
        """Whether length and hashes of a file are those that the metadata states."""
        try:
            self.files[what].verify_length_and_hashes(file)
        except LengthOrHashMismatchError:
            return False
        return True


class _Fetcher(FetcherInterface):
    """Fetches metadata with the deadlines and limits of every other download."""

    def __init__(self, server: Server, query: str) -> None:
        self._server, self._query = server, query

    def _fetch(self, url: str) -> Iterator[bytes]:
        address = f"{url}?{self._query}" if self._query else url
        try:
            data = b""
            with self._server.open(address, {}) as answer:
                for chunk in chunks(answer):
                    data += chunk
                    if len(data) > MOST_METADATA:
                        break
            return iter((data,))
        except ServerRefuses as error:
            raise DownloadHTTPError(str(error), error.code) from None


def is_root(data: bytes) -> bool:
    """Whether these bytes are the metadata of a root, whoever signed it."""
    try:
        return isinstance(Metadata.from_bytes(data).signed, Root)
    except RepositoryError:
        return False


class Mirror:
    """A repository at an https address, whose query, such as an access token, goes with each request. `connect`: how
    its server is reached. Raises ConfigError for another address.
    """

    def __init__(self, url: str, connect: Callable[[str], Server] = Server) -> None:
        try:
            self._server, parts = connect(url), urlsplit(url)
            if parts.scheme != "https" or not parts.hostname:
                raise ValueError(parts.scheme)
        except ValueError:
            raise ConfigError(f"{redact(url)}: needed an https:// address of a repository") from None
        self._url, self._parts = url, parts
        self.where = self._server.where

    def address(self, offer: Offer, what: Release | ListedDelta) -> str:
        """Return the address of a release's bundle or of a delta, with credentials and query."""
        file = offer.files[what]
        path = f"{self._parts.path.rstrip('/')}/targets/{file.hashes['sha256']}.{file.path}"
        return self._parts._replace(path=path).geturl()

    def refresh(self, folder: Path, anchor: bytes) -> Offer:
        """Fetch what is new and verify all of it, with the newest trusted metadata in `folder`.

        Raises DeployError if it cannot be fetched, SignatureError if it must not be trusted.
        """
        base = urlsplit(self._server.url)
        address = base._replace(path=f"{base.path.rstrip('/')}/metadata/", query="", fragment="").geturl()
        try:
            _set_aside_damage(folder)
            fetcher = _Fetcher(self._server, base.query)
            client = Updater(str(folder), address, fetcher=fetcher, config=LENGTHS, bootstrap=anchor)
            client.refresh()
            _sync(folder)
            return self._offer(folder)
        except DownloadLengthMismatchError:
            raise SignatureError(f"{self.where}: a metadata file is longer than its limit: refused") from None
        except ExpiredMetadataError as error:
            raise self._expired(str(error)) from None
        except RepositoryError as error:
            raise SignatureError(
                f"{self.where}: its metadata cannot be trusted ({_first_line(error)}): nothing was changed; check the "
                "server"
            ) from None
        except DownloadError as error:
            raise self._unreachable(error) from None
        except (OSError, ValueError) as error:
            raise DeployError(f"cannot use {folder}: {_first_line(error)}") from None

    def _offer(self, folder: Path) -> Offer:
        """Read what the client verified and stored, by the newest time that is known."""
        root = Metadata[Root].from_file(str(folder / "root.json")).signed
        timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed
        snapshot = Metadata[Snapshot].from_file(str(folder / "snapshot.json")).signed
        targets = Metadata[Targets].from_file(str(folder / "targets.json")).signed
        clock, known = time.time(), timestamp.unrecognized_fields.get(TIME, 0)
        now = datetime.fromtimestamp(max(clock, _seconds(known)), timezone.utc)
        for kind in (root, timestamp, snapshot, targets):
            if kind.is_expired(now):
                raise self._expired(f"{kind.type}.json is expired")
        releases, deltas = read_releases(targets), read_deltas(targets)
        files: dict[Release | ListedDelta, TargetFile] = {
            what: targets.targets[path] for path, what in releases.items()
        }
        files.update({what: targets.targets[path] for path, what in deltas.items()})
        behind = clock < now.timestamp() - DAY
        note = (
            f"the clock here says {_day(clock)}, which is before {now:%Y-%m-%d}, when the metadata was signed: set it"
        )
        return Offer(tuple(releases.values()), tuple(deltas.values()), files, note if behind else "")

    def _expired(self, what: str) -> SignatureError:
        return SignatureError(
            f"{self.where}: {what} (the clock here says {_day(time.time())}): set the clock if that is wrong; "
            "otherwise a mirror is stale, or the publisher must run 'edgesparse fleet sign'"
        )

    def _unreachable(self, error: DownloadError) -> DeployError:
        cause = error.__cause__
        if isinstance(error, DownloadHTTPError):
            return DeployError(_first_line(error))
        if isinstance(cause, DeployError):
            return cause
        reason = why_failed(cause) if isinstance(cause, OSError | HTTPException) else _first_line(error)
        return DeployError(f"cannot fetch {self.where}: {reason}")


def _set_aside_damage(folder: Path) -> None:
    """Begin again from the anchor if the folder holds anything that a client does not write."""
    make_folder(folder)
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path == folder / "root.json"):
            set_aside(folder)
            make_folder(folder)
            return


def _sync(folder: Path) -> None:
    """Write it to disk: after a power cut an older version must not be accepted again."""
    for path in folder.rglob("*.json"):
        with suppress(FileNotFoundError):
            sync(path, os.O_RDONLY | os.O_NONBLOCK)
    sync_folder(folder / "root_history")
    sync_folder(folder)


def _seconds(value: object) -> float:
    return min(max(value, 0), 1 << 37) if isinstance(value, int) else 0


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]

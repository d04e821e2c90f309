"""Where a bundle comes from: a file, or an https address, whose download resumes where it was interrupted.

The head is fetched and verified first. From then on the bundle's length is known: a server that sends more is refused
immediately; one that sends less is asked again. Partial downloads are stored under the head's hash, so that none is
resumed with another bundle's bytes.
"""

from __future__ import annotations

import io
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from edgesparse.closing import Closing
from edgesparse.errors import DeployError, SignatureError
from edgesparse.fleet import connection, delta
from edgesparse.fleet.bundle import Head, head_length, verify
from edgesparse.fleet.connection import SLOWEST, Server, chunks, why_failed
from edgesparse.fleet.keys import PublicKey
from edgesparse.fleet.slots import FETCHED
from edgesparse.progress import Progress
from edgesparse.redaction import redact

TRIES, PAUSE = 5, 2.0
"""Connections in a row that may deliver less than LEAST, and seconds between the first two, doubled each time."""
LEAST = 1 << 16


class Interrupted(DeployError):
    """A download that the next attempt continues."""


class BundleSource(Closing):
    """A bundle whose head has been read and verified. `signed`: the beginning of the file itself, which differs from
    the bundle's `head` if the file is a delta. `note`: a warning about how it was fetched.
    """

    where: str
    head: Head
    signed: Head | delta.Delta
    note = ""

    @abstractmethod
    def missing(self, root: Path) -> int:
        """Return the number of bytes still to be fetched."""

    @abstractmethod
    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        """Return the whole bundle as an open file. Raises DeployError if it is not available."""

    @abstractmethod
    def forget(self, root: Path) -> None:
        """Remove a partial download."""


class LocalFile(BundleSource):
    """A bundle in a file."""

    def __init__(self, path: Path, trusted: Sequence[PublicKey]) -> None:
        self.where = str(path)
        try:
            self._file = path.open("rb")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DeployError(f"cannot read the bundle {path}: {reason}") from None
        try:
            self.signed = delta.read(self._file, trusted, self.where)
        except BaseException:
            self._file.close()
            raise
        self.head = _head(self.signed)

    def missing(self, root: Path) -> int:
        return 0

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        return self._file

    def forget(self, root: Path) -> None:
        """Do nothing: the file belongs to the user."""

    def close(self) -> None:
        self._file.close()


class Download(BundleSource):
    """A bundle at an https address, verified with the system's certificates or those in SSL_CERT_FILE."""

    def __init__(self, url: str, trusted: Sequence[PublicKey]) -> None:
        self._server = Server(url)
        self.where = self._server.where
        start = self._read_start()
        self.signed = delta.read(io.BytesIO(start), trusted, self.where)
        self.head = _head(self.signed)
        if len(start) > self.signed.end:
            raise self._too_long()
        self._start = start

    def _read_start(self) -> bytes:
        """Return at least manifest and signature; a connection that breaks is continued as long as bytes arrive."""
        start, before = b"", -1
        while before < len(start) < head_length(start):
            before = len(start)
            with self._get(before) as answer:
                for chunk in chunks(answer):
                    start += chunk
                    if len(start) >= head_length(start):
                        break
        return start

    def missing(self, root: Path) -> int:
        return max(self.signed.end - _size(self._part(root)), 0)

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        resumed = _size(self._part(root)) > 0
        self._fetch(root, progress)
        if resumed and not self._is_whole(root):
            self.forget(root)  # a power cut can leave a part of the right length with other bytes
            self._fetch(root, progress)
        return self._part(root).open("rb")

    def _is_whole(self, root: Path) -> bool:
        with self._part(root).open("rb") as file:
            try:
                verify(file, self.signed, self.where)
            except SignatureError:
                return False
        return True

    def _fetch(self, root: Path, progress: Progress) -> None:
        part = self._part(root)
        part.parent.mkdir(exist_ok=True)
        for other in part.parent.iterdir():
            if other != part:
                other.unlink()
        if _size(part) < len(self._start):
            part.write_bytes(self._start)
        fruitless = 0
        while (size := _size(part)) < self.signed.end:
            why = self._continue(part, size, progress)
            fruitless = fruitless + 1 if _size(part) < size + LEAST else 0
            if why and fruitless >= TRIES:
                raise Interrupted(f"cannot fetch {self.where}: {why}; {size} of {self.signed.end} bytes are kept")
            if why:
                time.sleep(PAUSE * 2**fruitless / 2)

    def forget(self, root: Path) -> None:
        self._part(root).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _part(self, root: Path) -> Path:
        return root / FETCHED / f"{self.signed.sha256[:32]}.part"

    def _continue(self, part: Path, size: int, progress: Progress) -> str:
        """Fetch from byte `size` on. Returns why the connection ended early."""
        try:
            with self._get(size) as answer, part.open("ab", buffering=0) as file:
                for chunk in chunks(answer):
                    size += len(chunk)
                    if size > self.signed.end:
                        raise self._too_long()
                    _append(file, chunk, part)
                    progress("fetching", size, self.signed.end)
        except (OSError, HTTPException) as error:
            return why_failed(error)
        return "" if size == self.signed.end else "the connection ended too early"

    def _too_long(self) -> DeployError:
        return DeployError(f"{self.where} is longer than the {self.signed.end} bytes of its manifest: refused")

    @contextmanager
    def _get(self, start: int) -> Iterator[HTTPResponse]:
        """Open the response from byte `start` on. Raises DeployError for what another attempt would not change."""
        with self._server.open(self._server.url, {"Range": f"bytes={start}-"} if start else {}) as answer:
            if start and answer.status == 206:
                content_range = answer.headers.get("Content-Range", "")
                if not content_range.startswith(f"bytes {start}-"):
                    raise DeployError(f"{self.where}: requested from byte {start} on, found '{content_range}'")
            elif start:
                _skip(answer, start)
            yield answer


def _head(signed: Head | delta.Delta) -> Head:
    return signed.head if isinstance(signed, delta.Delta) else signed


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _skip(answer: HTTPResponse, count: int) -> None:
    """Skip what is already stored, since the server does not support ranges."""
    begin, left = time.monotonic(), count
    while left:
        chunk = answer.read1(min(left, 1 << 16))
        if not chunk:
            raise ConnectionError("the connection ended too early")
        left -= len(chunk)
        if (passed := time.monotonic() - begin) > connection.TIMEOUT and count - left < SLOWEST * passed:
            raise ConnectionError(f"fewer than {SLOWEST:.0f} bytes per second arrived")


def _append(file: IO[bytes], chunk: bytes, path: Path) -> None:
    """Write a chunk. Disk errors, unlike connection errors, are final."""
    try:
        while chunk:
            chunk = chunk[file.write(chunk) :]
    except OSError as error:
        raise DeployError(f"cannot write {path}: {error.strerror}") from None


def refuse_delta(source: BundleSource) -> None:
    """Raise DeployError for a delta in place of a bundle."""
    if isinstance(source.signed, delta.Delta):
        raise DeployError(f"{source.where} is a delta, needed a bundle: name that, and the delta with --delta")


def open_bundle(where: str, trusted: Sequence[PublicKey]) -> BundleSource:
    """Open a bundle, or a delta, by its path or https address. Raises DeployError, SignatureError."""
    try:
        scheme = urlsplit(where).scheme
    except ValueError:
        raise DeployError(f"{redact(where)}: needed a file or an https:// address") from None
    if scheme == "https":
        return open_download(where, trusted)
    if "://" in where:
        raise DeployError(f"{redact(where)}: needed a file or an https:// address")
    return LocalFile(Path(where), trusted)


def open_download(url: str, trusted: Sequence[PublicKey]) -> Download:
    """Open a bundle at an https address. Raises DeployError, SignatureError."""
    try:
        return Download(url, trusted)
    except (OSError, HTTPException, ValueError) as error:
        reason = why_failed(error) if isinstance(error, OSError | HTTPException) else "it is not a valid address"
        raise DeployError(f"cannot fetch {redact(url)}: {reason}") from None

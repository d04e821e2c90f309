"""Where a bundle comes from: a file, or an https address, of which a download goes on where it was interrupted.

The head is fetched and verified first. From then on the bundle's length is known: a server that sends more is refused
at once, one that sends less is asked again. What has come lies under the head's hash, so it is never part of another
bundle.
"""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from edgesparse.errors import DeployError
from edgesparse.fleet.bundle import BLOCK, MOST_MANIFEST, Head, read_head
from edgesparse.fleet.keys import PublicKey
from edgesparse.fleet.slots import FETCHED
from edgesparse.progress import Progress
from edgesparse.wording import redact

MOST_HEAD = MOST_MANIFEST + 4 * BLOCK
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
SLOWEST = 1000.0
"""Bytes a second, over TIMEOUT: what is slower counts as lost too."""
TRIES, PAUSE = 5, 2.0
"""How often in a row a connection may bring less than LEAST, and seconds between two of them, which double."""
LEAST = 1 << 16


class Source(ABC):
    """A bundle whose head has been read and verified. A context manager."""

    where: str
    head: Head

    @abstractmethod
    def missing(self, root: Path) -> int:
        """Bytes that are still to be fetched."""

    @abstractmethod
    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        """The whole bundle, as a file to be closed. Raises DeployError when it cannot be had."""

    @abstractmethod
    def forget(self, root: Path) -> None:
        """Remove what was kept to go on with."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalFile(Source):
    def __init__(self, path: Path, trusted: Sequence[PublicKey]) -> None:
        self.where = str(path)
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DeployError(f"cannot read the bundle {path}: {error.strerror}") from None
        try:
            self.head = read_head(self._file, trusted, self.where)
        except BaseException:
            self._file.close()
            raise

    def missing(self, root: Path) -> int:
        return 0

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        return self._file

    def forget(self, root: Path) -> None:
        """The file is the user's."""

    def close(self) -> None:
        self._file.close()


class Download(Source):
    """An https address. The system's certificates count, or those that SSL_CERT_FILE names."""

    def __init__(self, url: str, trusted: Sequence[PublicKey]) -> None:
        self.where = redact(url)
        parts = urlsplit(url)
        who, _, host = parts.netloc.rpartition("@")
        self._url, self._opener = parts._replace(netloc=host).geturl(), build_opener(_OnlyHttps)
        self._who = b64encode(unquote(who).encode()).decode()
        start = b""
        with self._get(0) as answer:
            for chunk in _chunks(answer):
                start += chunk
                if len(start) >= MOST_HEAD:
                    break
        self.head = read_head(io.BytesIO(start), trusted, self.where)
        if len(start) > self.head.end:
            raise self._too_long()
        self._start = start

    def missing(self, root: Path) -> int:
        return max(self.head.end - self._there(self._part(root)), 0)

    def complete(self, root: Path, progress: Progress) -> BinaryIO:
        part = self._part(root)
        part.parent.mkdir(exist_ok=True)
        for other in part.parent.iterdir():
            if other != part:
                other.unlink()
        if self._there(part) < len(self._start):
            part.write_bytes(self._start)
        vain = 0
        while (there := self._there(part)) < self.head.end:
            why = self._go_on(part, there, progress)
            vain = vain + 1 if self._there(part) < there + LEAST else 0
            if why and vain >= TRIES:
                raise DeployError(f"cannot fetch {self.where}: {why}; {there} of {self.head.end} bytes are kept")
            if why:
                time.sleep(PAUSE * 2**vain / 2)
        return part.open("rb")

    def forget(self, root: Path) -> None:
        self._part(root).unlink(missing_ok=True)

    def close(self) -> None:
        """No connection stays open."""

    def _part(self, root: Path) -> Path:
        return root / FETCHED / f"{self.head.sha256[:32]}.part"

    @staticmethod
    def _there(part: Path) -> int:
        return part.stat().st_size if part.exists() else 0

    def _go_on(self, part: Path, there: int, progress: Progress) -> str:
        """Fetch from byte `there` on. Returns why the connection ended too early."""
        try:
            with self._get(there) as answer, part.open("ab", buffering=0) as file:
                for chunk in _chunks(answer):
                    there += len(chunk)
                    if there > self.head.end:
                        raise self._too_long()
                    _append(file, chunk, part)
                    progress("fetching", there, self.head.end)
        except (OSError, HTTPException) as error:
            return _reason(error)
        return "" if there == self.head.end else "the connection ended too early"

    def _too_long(self) -> DeployError:
        return DeployError(f"{self.where} is longer than its manifest says ({self.head.end} bytes): refused")

    @contextmanager
    def _get(self, start: int) -> Iterator[HTTPResponse]:
        """The answer from byte `start` on. Raises DeployError for what another try would not change."""
        ask = Request(self._url, headers={"Range": f"bytes={start}-"} if start else {})
        if self._who:
            ask.add_unredirected_header("Authorization", f"Basic {self._who}")
        try:
            answer: HTTPResponse = self._opener.open(ask, timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code >= 500:
                raise ConnectionError(f"the server says {error.code}") from None
            raise DeployError(f"cannot fetch {self.where}: the server says {error.code} {error.reason}") from None
        with answer:
            if start and answer.status == 206:
                found = answer.headers.get("Content-Range", "")
                if not found.startswith(f"bytes {start}-"):
                    raise DeployError(f"{self.where}: asked from byte {start} on, found '{found}'")
            elif start:  # the server knows no ranges: what is here already is read past
                while start:
                    chunk = answer.read(min(start, 1 << 16))
                    if not chunk:
                        raise ConnectionError("the connection ended too early")
                    start -= len(chunk)
            yield answer


class _OnlyHttps(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise DeployError(f"{redact(req.full_url)} sends on to {redact(newurl)}: needed https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _append(file: IO[bytes], chunk: bytes, path: Path) -> None:
    """Unlike errors of the connection, those of the disk are not tried again."""
    try:
        while chunk:
            chunk = chunk[file.write(chunk) :]
    except OSError as error:
        raise DeployError(f"cannot write {path}: {error.strerror}") from None


def _reason(error: BaseException) -> str:
    said = str(getattr(error, "reason", "") or error or type(error).__name__)
    if "certificate" in said and ("not yet valid" in said or "expired" in said):  # more often the clock's fault
        said += f" (the clock here says {datetime.now(timezone.utc):%Y-%m-%d})"
    return said


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    """Raises ConnectionError when it trickles."""
    begun, size = time.monotonic(), 0
    while chunk := answer.read1(1 << 16):
        size += len(chunk)
        yield chunk
        if (passed := time.monotonic() - begun) > TIMEOUT:
            if size < SLOWEST * passed:
                raise ConnectionError(f"fewer than {SLOWEST:.0f} bytes a second came")
            begun, size = time.monotonic(), 0


def open_source(where: str, trusted: Sequence[PublicKey]) -> Source:
    """Raises DeployError, SignatureError."""
    scheme = urlsplit(where).scheme
    if scheme == "https":
        try:
            return Download(where, trusted)
        except (OSError, HTTPException) as error:
            raise DeployError(f"cannot fetch {redact(where)}: {_reason(error)}") from None
    if "://" in where:
        raise DeployError(f"{redact(where)}: needed a file or an https:// address")
    return LocalFile(Path(where), trusted)

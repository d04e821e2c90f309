"""Requests to a web server that may be slow, lie or never end: https only, with deadlines, no secrets in errors."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request

from edgesparse.deadline import Deadline, build_opener
from edgesparse.errors import DeployError
from edgesparse.redaction import redact, remember_address

TIMEOUT = 30.0
"""Seconds to wait for response headers, and without any byte before a connection counts as lost."""
SLOWEST = 1000.0
"""Least bytes per second, averaged over TIMEOUT; a slower connection counts as lost too."""


class ServerRefuses(DeployError):
    """The server answers with a status below 500, which another attempt would not change. `code`: that status."""

    def __init__(self, where: str, code: int, reason: str) -> None:
        super().__init__(f"cannot reach {where}: the server answers {code} {reason}")
        self.code = code


class Server:
    """The server of an https address, whose credentials are sent to no other host. `where`: the address to show."""

    def __init__(self, url: str) -> None:
        self.where = redact(url)
        remember_address(url)
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        self.url, self._opener = parts._replace(netloc=host).geturl(), build_opener(_OnlyHttps)
        self._login = b64encode(unquote(user).encode()).decode()

    def open(self, url: str, headers: dict[str, str], put: bytes | None = None) -> HTTPResponse:
        """Return the answer, once its headers are complete; `put`: store this there. Raises ServerRefuses, OSError,
        HTTPException.
        """
        request = Request(url, put, headers, method="GET" if put is None else "PUT")
        if self._login:
            request.add_unredirected_header("Authorization", f"Basic {self._login}")
        try:
            with ExitStack() as on_error:
                with Deadline(TIMEOUT):  # may also raise after a response whose headers were cut off
                    answer: HTTPResponse = on_error.enter_context(self._opener.open(request, timeout=TIMEOUT))
                on_error.pop_all()
        except HTTPError as error:
            error.close()
            if error.code >= 500:
                raise ConnectionError(f"the server answers {error.code}") from None
            raise ServerRefuses(self.where, error.code, error.reason) from None
        return answer


class _OnlyHttps(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise DeployError(f"{redact(req.full_url)} redirects to {redact(newurl)}: needed https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def why_failed(error: BaseException) -> str:
    """Return why a connection failed, without an HTTPException's text, since some quote the address."""
    if isinstance(error, HTTPException):
        return type(error).__name__
    reason = str(getattr(error, "reason", "") or error or type(error).__name__)
    if "certificate" in reason and ("not yet valid" in reason or "expired" in reason):  # usually the clock is wrong
        reason += f" (the clock here says {datetime.now(timezone.utc):%Y-%m-%d})"
    return reason


def chunks(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives. Raises ConnectionError if it is slower than SLOWEST."""
    begin, size = time.monotonic(), 0
    while chunk := answer.read1(1 << 16):
        size += len(chunk)
        yield chunk
        if (passed := time.monotonic() - begin) > TIMEOUT:
            if size < SLOWEST * passed:
                raise ConnectionError(f"fewer than {SLOWEST:.0f} bytes per second arrived")
            begin, size = time.monotonic(), 0

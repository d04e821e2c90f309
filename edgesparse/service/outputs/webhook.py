"""Each event as an HTTP POST of JSON: retried until it is accepted, in order, in a bounded queue."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from edgesparse.deadline import Deadline, build_opener
from edgesparse.redaction import redact, remember_address
from edgesparse.service.credentials import read_secret
from edgesparse.service.outputs.base import Count, Output, OutputContext, OutputSettings, OutputState
from edgesparse.service.outputs.events import Event
from edgesparse.supervised import Supervised
from edgesparse.values import Positive, host
from edgesparse.version import VERSION

log = logging.getLogger("edgesparse.service")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
FLUSH_SECONDS = 1.5
RETRY_CODES = {408, 425, 429}
"""Client errors (4xx) that are temporary; the others are final."""


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address that starts with http:// or https://")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("an address in ASCII without spaces: write other characters as %20 and so on")
    host(parts.hostname)
    remember_address(url)
    _ = parts.port  # raises ValueError, with a message, for an invalid port
    return url


HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""An address over HTTP, whose credentials are redacted from now on."""


class WebhookSettings(OutputSettings):
    """Each event as a POST of JSON."""

    needs_events: ClassVar[bool] = True
    takes_alarms: ClassVar[bool] = True

    url: HttpUrl
    """Address that events are posted to."""
    token_file: Path | None = None
    """File with the token that is sent as `Authorization: Bearer ...`."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds for a whole request, from connecting to the end of the response headers."""
    queue: Count = 1000
    """Most events that wait; beyond that the oldest are dropped and counted."""
    give_up: Positive = 3600.0
    """Seconds after which an event that was not accepted is dropped."""

    def check(self, key: str) -> None:
        self.token(key)

    def token(self, key: str) -> str | None:
        """Return the token, or None if there is none. Raises ConfigError."""
        return read_secret(self.token_file, f"{key}.token_file") if self.token_file else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Never sends the token to another address: a redirect counts as a refusal."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class Webhook(Output):
    """`event` is called in the frame loop's thread and never waits. Raises ConfigError for an unusable token."""

    settings_type = WebhookSettings

    def __init__(self, settings: WebhookSettings, context: OutputContext) -> None:
        self.state = OutputState("webhook")
        self._settings, self._name = settings, _origin(settings.url)
        self._token = settings.token("service.webhook")
        self._opener = build_opener(_NoRedirect)
        self._waiting: deque[tuple[float, Event]] = deque()
        self._changed = threading.Condition()
        self._leave_by: float | None = None
        self._thread = Supervised("webhook", self._run)

    def event(self, event: Event) -> None:
        with self._changed:
            self._waiting.append((time.monotonic(), event))
            if len(self._waiting) > self._settings.queue:
                self._waiting.popleft()
                self.state.dropped += 1
            self.state.waiting = len(self._waiting)
            self._changed.notify()

    def close(self) -> None:
        """Deliver what can be delivered within FLUSH_SECONDS; the rest is dropped and counted."""
        self._thread.leave()
        with self._changed:
            self._leave_by = time.monotonic() + FLUSH_SECONDS
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS + 0.5)
        with self._changed:
            self.state.dropped += len(self._waiting)
            if self._waiting:
                log.warning("webhook: %d events were not delivered to %s", len(self._waiting), self._name)
            self._waiting.clear()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while (first := self._first()) is not None:
            since, event = first
            outcome = self._deliver(event)
            if outcome == "later" and time.monotonic() - since < self._settings.give_up:
                self.state.failed += 1
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            with self._changed:
                self.state.sent += outcome == "accepted"
                self.state.dropped += outcome != "accepted"
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                self.state.waiting = len(self._waiting)

    def _first(self) -> tuple[float, Event] | None:
        """Return the oldest waiting event, or None when it is time to stop."""
        with self._changed:
            while not self._waiting and self._leave_by is None:
                self._changed.wait()
            late = self._leave_by is not None and time.monotonic() >= self._leave_by
            return self._waiting[0] if self._waiting and not late else None

    def _rest(self, seconds: float) -> None:
        with self._changed:
            if self._leave_by is None:
                self._changed.wait_for(lambda: self._leave_by is not None, seconds)
            else:
                self._changed.wait(min(0.2, seconds))

    def _deliver(self, event: Event) -> str:
        """Return `accepted`, `later` or `never`. Error texts are not used: some quote the address or the token."""
        try:
            return self._post(event)
        except urllib.error.HTTPError as error:
            with error:
                self._report(f"answers {error.code}")
                return "later" if error.code >= 500 or error.code in RETRY_CODES else "never"
        except (OSError, HTTPException) as error:
            self._report(f"does not answer: {_reason(error)}")
            return "later"
        except Exception as error:  # the thread must survive whatever an address or an event causes
            self._report(f"cannot be called: {type(error).__name__}")
            return "later"

    def _post(self, event: Event) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": f"edgesparse/{VERSION}"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = json.dumps(event.record).encode()
        request = urllib.request.Request(self._settings.url, body, headers, method="POST")
        timeout = self._settings.timeout if self._leave_by is None else min(self._settings.timeout, 1.0)
        with Deadline(timeout), self._opener.open(request, timeout=timeout):
            self.state.state = ""
            return "accepted"

    def _report(self, state: str) -> None:
        if state != self.state.state:
            self.state.state = state
            log.warning("webhook: %s %s", self._name, state)


def _origin(url: str) -> str:
    """The address for logs, without path and query, which are often a webhook's secret."""
    parts = urlsplit(redact(url))
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: OSError | HTTPException) -> str:
    """Return the reason, without any part of the request."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return str(reason) or "timed out"
    if isinstance(reason, OSError):
        return reason.strerror or type(reason).__name__
    return type(reason).__name__

"""Each event as a POST of JSON, tried until it is taken, in order, bounded."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from http.client import HTTPException

from edgesparse.service.outputs.base import Output
from edgesparse.service.outputs.events import Happening
from edgesparse.service.settings import Webhook as Said
from edgesparse.service.settings import secret
from edgesparse.version import VERSION
from edgesparse.wording import redact

log = logging.getLogger("edgesparse.service")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
FLUSH_SECONDS = 1.5
LATER = {408, 425, 429}
"""Answers of the 400s that mean: not now. The others mean: never."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """A token is not carried to where an answer points: redirects count as refusals."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class Webhook:
    """`put` is called in the frame loop's thread and never waits. Raises ConfigError when made."""

    def __init__(self, said: Said) -> None:
        self.output = Output("webhook")
        self._said, self._name = said, redact(said.url)
        self._token = secret(said.token_file, "service.webhook.token_file") if said.token_file else None
        self._opener = urllib.request.build_opener(_Stay)
        self._waiting: deque[tuple[float, Happening]] = deque()
        self._changed = threading.Condition()
        self._leave_by: float | None = None
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def put(self, happening: Happening) -> None:
        with self._changed:
            self._waiting.append((time.monotonic(), happening))
            if len(self._waiting) > self._said.queue:
                self._waiting.popleft()
                self.output.dropped += 1
            self.output.waiting = len(self._waiting)
            self._changed.notify()

    def close(self) -> None:
        """Deliver what can be delivered in a second or so; what is left is dropped, and counted."""
        with self._changed:
            self._leave_by = time.monotonic() + FLUSH_SECONDS
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS + 0.5)
        with self._changed:
            self.output.dropped += len(self._waiting)
            if self._waiting:
                log.warning("webhook: %d events were not delivered to %s", len(self._waiting), self._name)
            self._waiting.clear()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while (first := self._first()) is not None:
            since, happening = first
            outcome = self._post(happening)
            if outcome == "later" and time.monotonic() - since < self._said.give_up:
                self.output.failed += 1
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            with self._changed:
                self.output.sent += outcome == "taken"
                self.output.dropped += outcome != "taken"
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                self.output.waiting = len(self._waiting)

    def _first(self) -> tuple[float, Happening] | None:
        """The oldest event that waits; None when it is time to leave."""
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

    def _post(self, happening: Happening) -> str:
        """`taken`, `later` or `never`."""
        headers = {"Content-Type": "application/json", "User-Agent": f"edgesparse/{VERSION}"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = json.dumps(happening.record).encode()
        request = urllib.request.Request(self._said.url, body, headers, method="POST")
        timeout = self._said.timeout if self._leave_by is None else min(self._said.timeout, 1.0)
        try:
            with self._opener.open(request, timeout=timeout):
                self.output.state = ""
                return "taken"
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error.code)
        except (OSError, HTTPException) as error:
            self._say(f"does not answer: {getattr(error, 'reason', error)}")
            return "later"

    def _refused(self, code: int) -> str:
        self._say(f"answers {code}")
        return "later" if code >= 500 or code in LATER else "never"

    def _say(self, state: str) -> None:
        if state != self.output.state:
            self.output.state = state
            log.warning("webhook: %s %s", self._name, state)

"""Notifications to systemd by the sd_notify(3) protocol: datagrams of `KEY=value` lines to NOTIFY_SOCKET."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from edgesparse.redaction import redact_text

log = logging.getLogger("edgesparse.service")


class Notify:
    """Does nothing if NOTIFY_SOCKET is not set. The socket never blocks: what systemd cannot accept is lost."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self.watchdog_seconds = _watchdog(environ)
        """systemd's watchdog interval in seconds; 0 if there is no watchdog."""
        self._fed_at = self._status_at = 0.0
        self._status = ""

    def send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("cannot notify %s: %s", self._address, error)

    def status(self, text: str) -> None:
        """Set the status line of `systemctl status`; an unchanged line is sent at most every 30 seconds."""
        now = time.monotonic()
        if text != self._status or now - self._status_at > 30:
            self._status, self._status_at = text, now
            self.send(f"STATUS={redact_text(' '.join(text.split()))}")

    def alive(self) -> None:
        """Feed the watchdog: four times per interval, however often this is called."""
        now = time.monotonic()
        if self.watchdog_seconds and now - self._fed_at >= self.watchdog_seconds / 4:
            self._fed_at = now
            self.send("WATCHDOG=1")

    def ready(self) -> None:
        self.send("READY=1")

    def longer(self, seconds: float) -> None:
        """Request more time, in seconds from now, to start, reload or stop."""
        self.send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog(environ: Mapping[str, str]) -> float:
    """sd_watchdog_enabled(3): for this process, unless WATCHDOG_PID names another."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 1e6

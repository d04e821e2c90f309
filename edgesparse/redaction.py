"""Removes secrets from text that leaves the process: credentials in addresses, and known secrets.

Code that reads a secret calls `remember`, and code that writes text for others passes it through `redact_text`
(sentences: logs, errors, systemd's status) or `redact_all` (values: status, page, metrics, JSON on standard output).
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

HIDDEN = "..."
SHORTEST = 4
"""Length of the shortest secret to search for; a shorter one may occur in ordinary words."""
MOST_SECRETS = 512
"""Most forms of secrets to remember; beyond that the oldest are forgotten."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_KNOWN_SCHEME = re.compile(r"(?:rtsps?|rtmps?|https?|srt|udp|rtp|tcp|ftp|mqtts?)\Z", re.IGNORECASE)
_MISTYPED = re.compile(r"\s*([^\s:/\\@]*)\s*(?::(?!//)|//|\\)(?=.*@)", re.DOTALL)
"""An address without `://`, such as `rtsp:/user:password@host` or `user:password@host`."""
_SETTING = re.compile(r"(?i:pass|pwd|pw|secret|token|credential|auth)")
_ASSIGNED = re.compile(r"(?i:\b([\w-]*(?:passw(?:or)?d|pwd|user-pw|secret|token)[\w-]*=))[^\s&;,'\"]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WORD = re.compile(r"[^\s'\"<>{}]+")


def redact(address: str) -> str:
    """Return the address without the parts that may hold credentials: user, password, query, `key=value` in the path.

    A password may contain any character: if an @ occurs anywhere but before the host, or a slash is missing from `://`,
    everything but the scheme is removed. Text that is not an address is returned unchanged.
    """
    if mistyped := _MISTYPED.match(address):
        return f"{mistyped[1]}:{HIDDEN}" if _KNOWN_SCHEME.match(mistyped[1]) else HIDDEN
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    before, _, query = re.sub("[?#]", "?", rest, count=1).partition("?")
    host, slash, path = before.partition("/")
    if "@" in path + query:
        return f"{scheme}://{HIDDEN}"
    kept = "/".join(HIDDEN if re.search("[=&;]", part) else part for part in path.split("/"))
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{kept}"


def is_address(text: str) -> bool:
    """Whether `redact` treats the whole text as an address."""
    return re.match(rf"\s*{_SCHEME}://", text) is not None or _MISTYPED.match(text) is not None


def redact_text(text: str) -> str:
    """Return a sentence with addresses redacted, known secrets replaced, and control characters shown."""
    text = visible(text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", _known.without(text))
    return _WORD.sub(lambda word: redact(word[0]), text) if ":" in text else text


def visible(text: str) -> str:
    """Return text with control characters, which could command a terminal, escaped as \\x1b; line breaks are kept."""
    return _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", text)


def redact_all(value: Any) -> Any:
    """Return a JSON-compatible value with every string in it redacted.

    Known secrets are replaced in sentences only: a password may be a word that is also a camera's name.
    """
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    if not isinstance(value, str):
        return value
    if is_address(value) and ("@" in value or not re.search(r"\s", value.strip())):
        return redact(value)
    return redact_text(value) if re.search(r"\s", value) else value


def remember(secret: str) -> None:
    """From now on, replace this secret wherever text leaves the process, in every form that messages may quote."""
    _known.add(secret)


def remember_address(address: str) -> None:
    """Remember the password in an address, and the values of its parameters whose names suggest a secret."""
    rest = address.partition("://")[2] or address
    for part in (rest, re.split("[?#]", rest, maxsplit=1)[0]):  # a password may contain what ends the host, and an @
        user = part.rpartition("@")[0]
        if password := user.partition(":")[2]:
            _known.add(password)
            _known.add(base64.b64encode(unquote(user).encode()).decode())
    for key, value in parse_qsl(re.split(r"[?#]", address, maxsplit=1)[-1].replace(";", "&")):
        if _SETTING.search(key):
            _known.add(value)


class RedactingFormatter(logging.Formatter):
    """Redacts whole records, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


class _Known:
    """The secrets that this process has read. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: OrderedDict[str, None] = OrderedDict()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        forms = {secret, unquote(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
        with self._lock:
            for form in forms:
                if len(form) >= SHORTEST:
                    self._forms[form] = None
                    self._forms.move_to_end(form)
            while len(self._forms) > MOST_SECRETS:
                self._forms.popitem(last=False)
            longest_first = sorted(self._forms, key=len, reverse=True)
            words = "|".join(map(re.escape, longest_first))
            self._pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None

    def without(self, text: str) -> str:
        pattern = self._pattern
        return pattern.sub(HIDDEN, text) if pattern is not None else text


_known = _Known()

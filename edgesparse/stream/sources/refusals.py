"""Why a network camera cannot be opened, and what to do about it."""

from __future__ import annotations

import re

from edgesparse.errors import AuthenticationFailed, CameraUnavailable
from edgesparse.redaction import redact

_STATUS = re.compile(r"(?:method \w+ failed:|HTTP error) (\d{3}) (.*)")
"""FFmpeg's messages for RTSP and HTTP. Since FFmpeg 7 the reason is in parentheses."""
_CONNECTION = re.compile(r"Connection to \S+ failed: (.*)")
_HOST = re.compile(r"Failed to resolve hostname (\S+?):")
_TIMEOUT = re.compile(r"Stream timeout triggered|Immediate exit requested|timed out", re.IGNORECASE)


def refusal(url: str, log: str, transport: str = "tcp") -> CameraUnavailable:
    """Return the error for an address that could not be opened, from what FFmpeg or GStreamer logged.

    AuthenticationFailed if the camera rejects the login, since it may lock the user out after a few attempts."""
    shown = f"cannot open {redact(url)}"
    if match := _STATUS.search(log):
        return status_refusal(url, int(match[1]), match[2].strip(" ()"), transport)
    if match := _HOST.search(log):
        return CameraUnavailable(f"{shown}: unknown host {match[1]}")
    if match := _CONNECTION.search(log):
        reason = match[1].strip()
        remedy = ": is the port right, and is RTSP enabled on the camera?" if "refused" in reason else ""
        return CameraUnavailable(f"{shown}: {reason[:1].lower()}{reason[1:]}{remedy}")
    if _TIMEOUT.search(log):
        return CameraUnavailable(f"{shown}: it does not answer")
    return CameraUnavailable(f"{shown}: is the address right and the camera on?")


def status_refusal(url: str, code: int, reason: str, transport: str = "tcp") -> CameraUnavailable:
    """Return the error for an RTSP or HTTP status."""
    shown = f"cannot open {redact(url)}: {code}"
    if code in (401, 403):
        return AuthenticationFailed(f"{shown}, {_user(url) if code == 401 else 'this user may not view it'}")
    if code == 404:
        return CameraUnavailable(f"{shown}, the camera has no stream at this path")
    if code == 453:
        return CameraUnavailable(f"{shown}, no bandwidth left for another viewer: close one, or take a smaller stream")
    if code == 461:
        other = "udp" if transport == "tcp" else "tcp"
        return CameraUnavailable(f"{shown}, the camera does not offer {transport.upper()}: set 'transport: {other}'")
    if code == 503:
        return CameraUnavailable(f"{shown}, the camera is busy or still starting")
    return CameraUnavailable(f"{shown}{' ' if reason else ''}{reason}")


def _user(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "wrong user name or password"
    return "it requires a user name and password, as in rtsp://USER:PASSWORD@HOST/PATH"

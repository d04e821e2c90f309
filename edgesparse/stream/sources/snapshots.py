"""Cameras that return one image per HTTP request, polled."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from typing import Any

import cv2
import numpy as np

from edgesparse.errors import CameraUnavailable, ImageError, SourceError
from edgesparse.redaction import redact
from edgesparse.runtime.images import decode_image
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.capture import OPEN_SECONDS
from edgesparse.stream.sources.refusals import status_refusal

USUAL_FPS = 2.0
"""Requests per second unless the camera's `fps` is set."""
_MOST_BYTES = 64 << 20


def is_snapshot(url: str) -> bool:
    """Whether an address is that of a single image, judging by its path. A .cgi may also be a stream, which only its
    response shows.
    """
    scheme, _, rest = url.partition("://")
    path = re.split("[?#]", rest, maxsplit=1)[0].lower()
    if scheme.lower() not in ("http", "https"):
        return False
    return path.endswith((".jpg", ".jpeg", ".png")) or (path.endswith(".cgi") and _answers_with_image(url))


def open_snapshots(url: str, fps: float | None) -> Snapshots:
    """Open the address and fetch its first image. Raises CameraUnavailable and AuthenticationFailed."""
    try:
        return Snapshots(url, fps or USUAL_FPS)
    except CameraUnavailable:
        raise
    except SourceError as error:
        raise CameraUnavailable(str(error)) from None


class Snapshots:
    """A Capture that requests an image `fps` times per second, or less often if the camera is slower."""

    def __init__(self, url: str, fps: float) -> None:
        self._url, self._fps = url, fps
        self._opener, self._plain = _opener(url)
        self._due = time.monotonic()
        self._image: Image = self._fetch()
        self._is_first = True

    def _fetch(self) -> Image:
        with _request(self._opener, self._plain, self._url) as response:
            data = response.read(_MOST_BYTES)
        try:
            return decode_image(data)
        except ImageError as error:
            raise SourceError(f"cannot open {redact(self._url)}: its response is not an image ({error})") from None

    def grab(self) -> bool:
        if not self._is_first:
            self._due = max(self._due + 1 / self._fps, time.monotonic() - 1 / self._fps)
            time.sleep(max(0.0, self._due - time.monotonic()))
            self._image = self._fetch()
        self._is_first = False
        return True

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        if image is None or image.shape != self._image.shape:
            return True, self._image
        np.copyto(image, self._image)
        return True, image

    def get(self, propId: int, /) -> float:
        return self._fps if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


def _opener(url: str) -> tuple[urllib.request.OpenerDirector, str]:
    """Return an opener for requests, with basic or digest authentication, and the address without user and password."""
    scheme, _, rest = url.partition("://")
    user, _, plain = rest.rpartition("@")
    address = f"{scheme}://{plain}"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if user:
        name, _, password = user.partition(":")
        passwords.add_password(None, address, urllib.parse.unquote(name), urllib.parse.unquote(password))
    digest, basic = _DigestOnce(passwords), urllib.request.HTTPBasicAuthHandler(passwords)
    return urllib.request.build_opener(digest, basic), address


class _DigestOnce(urllib.request.HTTPDigestAuthHandler):
    """Sends a password only once: urllib sends a wrong one six times, enough for a camera to lock the user out."""

    def retry_http_digest_auth(self, req: urllib.request.Request, auth: str) -> Any:
        if req.has_header(self.auth_header):
            raise urllib.error.HTTPError(req.full_url, 401, "Unauthorized", Message(), None)
        return super().retry_http_digest_auth(req, auth)


def _request(opener: urllib.request.OpenerDirector, plain: str, url: str) -> Any:
    try:
        return opener.open(plain, timeout=OPEN_SECONDS)
    except urllib.error.HTTPError as error:
        raise status_refusal(url, error.code, str(error.reason)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or str(reason)
        raise CameraUnavailable(f"cannot open {redact(url)}: {text[:1].lower()}{text[1:]}") from None


def check_answer(url: str) -> None:
    """Raise CameraUnavailable with the status if an HTTP address is refused."""
    _answers_with_image(url)


def _answers_with_image(url: str) -> bool:
    with _request(*_opener(url), url) as response:
        return str(response.headers.get_content_type()).startswith("image/")

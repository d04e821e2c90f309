"""What every response of the web server has in common."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from edgesparse.redaction import redact_all

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def as_json(values: dict[str, Any], status: int = 200) -> Response:
    """A response of JSON without credentials."""
    return Response(json.dumps(redact_all(values)), status, HEADERS, "application/json")


def as_text(text: str, status: int) -> Response:
    """A response of one line of text."""
    return Response(f"{text}\n", status, HEADERS, "text/plain")

"""POST /v1/detect: images in, detections or an annotated image out; /openapi.json describes it."""

from __future__ import annotations

import json
import time
from importlib import resources
from typing import Any

import cv2
import yaml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.images import Image
from edgesparse.service.report import Report
from edgesparse.service.web.answers import HEADERS, as_json
from edgesparse.service.web.bodies import images_of
from edgesparse.service.web.inference import DEADLINE_MS, LONGEST_DEADLINE_MS, Held, Inference, Refusal
from edgesparse.service.web.kserve import KServe
from edgesparse.stream.sinks.draw import draw
from edgesparse.stream.sinks.json_lines import detection_records
from edgesparse.version import VERSION

ANNOTATED = {"image/jpeg": ".jpg", "image/png": ".png"}
JPEG_QUALITY = 90


class Detect:
    """The responses of /v1/detect and /openapi.json."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        text = (resources.files("edgesparse.service.web") / "openapi.yaml").read_text()
        document = yaml.safe_load(text)
        document["info"]["version"] = VERSION
        self._document = json.dumps(document).encode()

    def routes(self) -> list[Route]:
        return [Route("/v1/detect", self._detect, methods=["POST"]), Route("/openapi.json", self._openapi)]

    async def _openapi(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json", headers=HEADERS)

    async def _detect(self, request: Request) -> Response:
        return await self._inference.answer(request, self._respond)

    async def _respond(self, request: Request, body: bytes, held: Held) -> Response:
        started, accepted = time.monotonic(), _accepted(request.headers.get("accept", "*/*"))
        deadline_ms, raw = _deadline(request), _raw(request)
        kind = request.headers.get("content-type", "")
        images = await self._inference.aside(images_of, body, kind, raw, held)
        if accepted != "application/json" and len(images) != 1:
            raise Refusal(406, f"found {len(images)} images, needed one for Accept: {accepted}, or application/json")
        results = await self._inference.detect(images, deadline_ms)
        if accepted != "application/json":
            held.take(images[0].nbytes)
            data = await self._inference.aside(_annotated, images[0], results[0], ANNOTATED[accepted])
            headers = {**HEADERS, "X-Detections": str(len(results[0]))}
            return Response(data, media_type=accepted, headers=headers)
        identity = self._inference.report.identity
        return as_json(
            {
                "model": identity.model,
                "package": identity.package,
                "milliseconds": round(1000 * (time.monotonic() - started), 1),
                "images": [_record(*pair) for pair in zip(images, results, strict=True)],
            }
        )


def inference_routes(report: Report) -> list[Route]:
    """Return the routes of HTTP clients that send images."""
    inference = Inference(report)
    return [*Detect(inference).routes(), *KServe(inference).routes()]


def _record(image: Image, detections: Detections) -> dict[str, Any]:
    height, width = image.shape[:2]
    return {"width": width, "height": height, "detections": detection_records(detections, detections.classes)}


def _annotated(image: Image, detections: Detections, suffix: str) -> bytes:
    drawn = image.copy()
    draw(drawn, detections, detections.classes)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY) if suffix == ".jpg" else ()
    return cv2.imencode(suffix, drawn, quality)[1].tobytes()


def _accepted(accept: str) -> str:
    """Return the media type that the client likes best (RFC 9110, 12.5.1). Raises Refusal if there is none."""
    offers = ("application/json", *ANNOTATED)
    ranges = sorted(map(_range, accept.split(",")), key=lambda each: -each[1])
    for pattern, quality in ranges:
        for offer in offers if quality > 0 else ():
            if pattern in ("*/*", offer, f"{offer.partition('/')[0]}/*"):
                return offer
    raise Refusal(406, f"needed Accept: {', '.join(offers)}")


def _range(text: str) -> tuple[str, float]:
    """Return a media range and its quality."""
    pattern, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    return pattern, float(weight) if weight.replace(".", "", 1).isdecimal() and len(weight) < 6 else 0.0


def _deadline(request: Request) -> int:
    value = _number(request, "deadline_ms", DEADLINE_MS)
    if not 0 < value <= LONGEST_DEADLINE_MS:
        raise Refusal(400, f"found deadline_ms={value}, needed 1 to {LONGEST_DEADLINE_MS}")
    return value


def _raw(request: Request) -> tuple[int, int, str] | None:
    """Return width, height and format of raw pixels; None if the query names neither side."""
    query = request.query_params
    if not {"width", "height", "pixels"} & query.keys():
        return None
    return _number(request, "width", 0), _number(request, "height", 0), query.get("pixels", "bgr")


def _number(request: Request, key: str, default: int) -> int:
    text = request.query_params.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, f"found {key}={text}, needed a whole number")
    return int(text)

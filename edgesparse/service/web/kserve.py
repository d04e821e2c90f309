"""KServe's inference protocol, version 2, over HTTP (Open Inference Protocol), with Triton's binary tensors.

The model is the whole detector, not only its engine: `images` goes in, boxes in the images' pixels come out.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgesparse.backends.frames import PIXELS
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.images import Image
from edgesparse.service.web.answers import HEADERS, as_json
from edgesparse.service.web.bodies import MAX_IMAGES, raw_image
from edgesparse.service.web.inference import DEADLINE_MS, LONGEST_DEADLINE_MS, Held, Inference, Refusal
from edgesparse.version import VERSION

MAX_JSON = 1 << 20
"""Bytes of a request's JSON; larger tensors are sent in binary."""
VERSION_OF_MODELS = "1"
HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT = {"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
OUTPUTS = [
    {"name": "num_dets", "datatype": "INT32", "shape": [-1, 1]},
    {"name": "det_boxes", "datatype": "FP32", "shape": [-1, -1, 4]},
    {"name": "det_scores", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "det_classes", "datatype": "INT32", "shape": [-1, -1]},
]
"""As TensorRT's EfficientNMS names them: per image a count, and rows that are zero beyond it."""


class KServe:
    """The responses below /v2."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        return [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            *(
                route
                for path in (model, model + "/versions/{version}")
                for route in (
                    Route(path, self._model),
                    Route(f"{path}/ready", self._ready),
                    Route(f"{path}/infer", self._infer, methods=["POST"]),
                )
            ),
        ]

    async def _server(self, _: Request) -> Response:
        return as_json({"name": "edgesparse", "version": VERSION, "extensions": ["binary_tensor_data"]})

    async def _live(self, _: Request) -> Response:
        return as_json({"live": True})

    async def _ready(self, request: Request) -> Response:
        """Return whether images would be answered now: cameras have their own /readyz."""
        try:
            self._check_model(request)
            self._inference.check()
        except Refusal as refusal:
            return refusal.response()
        return as_json({"ready": True})

    async def _model(self, request: Request) -> Response:
        try:
            self._check_model(request)
        except Refusal as refusal:
            return refusal.response()
        identity = self._inference.report.identity
        return as_json(
            {
                "name": identity.model,
                "versions": [VERSION_OF_MODELS],
                "platform": f"edgesparse_{identity.backend}",
                "inputs": [INPUT],
                "outputs": OUTPUTS,
            }
        )

    def _check_model(self, request: Request) -> None:
        model = self._inference.report.identity.model
        name, version = request.path_params.get("name", model), request.path_params.get("version", VERSION_OF_MODELS)
        if (name, version) != (model, VERSION_OF_MODELS):
            raise Refusal(404, f"no model '{name}' of version {version}, only '{model}' of {VERSION_OF_MODELS}")

    async def _infer(self, request: Request) -> Response:
        return await self._inference.answer(request, self._respond)

    async def _respond(self, request: Request, body: bytes, held: Held) -> Response:
        self._check_model(request)
        head, binary = _split(request.headers.get(HEADER_LENGTH), body)
        deadline_ms, selected = _deadline(head), _selected(head)
        images = await self._inference.aside(_images, head, binary, held)
        outputs = _outputs(await self._inference.detect(images, deadline_ms))
        answer: dict[str, Any] = {"model_name": self._inference.report.identity.model}
        answer |= {"model_version": VERSION_OF_MODELS}
        answer |= {"id": head["id"]} if isinstance(head.get("id"), str) else {}
        return _response(answer, {name: outputs[name] for name in selected}, selected)


def _split(length: str | None, body: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return a request's JSON and the binary tensors behind it. Raises Refusal."""
    if length is not None and not (length.isascii() and length.isdigit() and int(length[:16]) <= len(body)):
        raise Refusal(400, f"found {HEADER_LENGTH}: {length}, needed the length of the JSON before the tensors")
    size = len(body) if length is None else int(length)
    if size > MAX_JSON:
        raise Refusal(413, f"needed at most {MAX_JSON >> 20} MiB of JSON: send tensors in binary")
    try:
        head = json.loads(body[:size])
    except (ValueError, RecursionError):
        raise Refusal(400, "the request is not JSON") from None
    if not isinstance(head, dict):
        raise Refusal(400, "needed a JSON object with inputs")
    return head, memoryview(body)[size:]


def _images(head: dict[str, Any], binary: memoryview, held: Held) -> list[Image]:
    inputs = head.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise Refusal(400, "needed one input, 'images'")
    tensor = inputs[0]
    if (tensor.get("name"), tensor.get("datatype")) != ("images", "UINT8"):
        raise Refusal(400, f"found input {tensor.get('name')} {tensor.get('datatype')}, needed images UINT8")
    shape = tensor.get("shape")
    if not (isinstance(shape, list) and len(shape) == 4 and all(type(side) is int for side in shape)) or shape[3] != 3:
        raise Refusal(400, f"found shape {shape}, needed [N, height, width, 3]")
    count, height, width, _ = shape
    if not 0 < count <= MAX_IMAGES or min(height, width) < 1:
        raise Refusal(413, f"found shape {shape}, needed 1 to {MAX_IMAGES} images")
    pixels = _parameters(head).get("pixels", "bgr")
    if pixels not in ("bgr", "rgb"):
        raise Refusal(400, f"found pixels {pixels}, needed one of {', '.join(PIXELS[:2])}")
    data, size = _bytes_of(tensor, binary, held), 3 * height * width
    if len(data) != count * size:
        raise Refusal(400, f"found {len(data)} bytes, needed {count * size} for shape {shape}")
    starts = range(0, len(data), size)
    return [raw_image(data[start : start + size], width, height, pixels, held) for start in starts]


def _bytes_of(tensor: dict[str, Any], binary: memoryview, held: Held) -> memoryview:
    """Return a tensor's values, which are binary or in its JSON, flat or nested."""
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        if size != len(binary) or type(size) is not int:
            raise Refusal(400, f"found binary_data_size {size}, needed {len(binary)}, the bytes behind the JSON")
        return binary
    try:
        values = np.asarray(tensor.get("data"))
    except (ValueError, OverflowError):
        values = np.empty(0, object)
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() > 255:
        raise Refusal(400, "needed data of whole numbers from 0 to 255, or binary_data_size")
    held.take(values.nbytes)
    return memoryview(values.astype(np.uint8).tobytes())


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, "found parameters that are not a JSON object")
    return parameters


def _deadline(head: dict[str, Any]) -> int:
    value = _parameters(head).get("deadline_ms", DEADLINE_MS)
    if type(value) is not int or not 0 < value <= LONGEST_DEADLINE_MS:
        raise Refusal(400, f"found deadline_ms {value}, needed 1 to {LONGEST_DEADLINE_MS}")
    return value


def _selected(head: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs that a request wants, and whether in binary."""
    binary = _parameters(head).get("binary_data_output", False) is True
    names = [str(output["name"]) for output in OUTPUTS]
    outputs = head.get("outputs")
    if outputs is None:
        return dict.fromkeys(names, binary)
    if not isinstance(outputs, list) or not all(isinstance(o, dict) and o.get("name") in names for o in outputs):
        raise Refusal(400, f"found an unknown output, needed some of {', '.join(names)}")
    return {output["name"]: _parameters(output).get("binary_data", binary) is True for output in outputs}


def _outputs(results: list[Detections]) -> dict[str, NDArray[Any]]:
    """Return the output tensors of N images, padded to the largest number of detections."""
    most = max(map(len, results))
    outputs: dict[str, NDArray[Any]] = {
        "num_dets": np.array([[len(result)] for result in results], np.int32),
        "det_boxes": np.zeros((len(results), most, 4), np.float32),
        "det_scores": np.zeros((len(results), most), np.float32),
        "det_classes": np.zeros((len(results), most), np.int32),
    }
    for row, result in enumerate(results):
        outputs["det_boxes"][row, : len(result)] = result.xyxy
        outputs["det_scores"][row, : len(result)] = result.confidence
        outputs["det_classes"][row, : len(result)] = result.class_id
    return outputs


def _response(answer: dict[str, Any], outputs: dict[str, NDArray[Any]], binary: dict[str, bool]) -> Response:
    kinds = {str(output["name"]): output["datatype"] for output in OUTPUTS}
    tensors: list[dict[str, Any]] = []
    tail = b""
    for name, values in outputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": kinds[name], "shape": list(values.shape)}
        if binary[name]:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            tail += values.tobytes()
        else:
            tensor["data"] = values.ravel().tolist()
        tensors.append(tensor)
    response = as_json({**answer, "outputs": tensors})
    if not any(binary.values()):
        return response
    head = bytes(response.body)
    headers = {**HEADERS, HEADER_LENGTH: str(len(head))}
    return Response(head + tail, media_type="application/octet-stream", headers=headers)

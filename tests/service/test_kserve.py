"""KServe's protocol, spoken by NVIDIA's own client (tritonclient)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import squares
import tritonclient.http as triton
from serving import Served, detector, served
from tritonclient.utils import InferenceServerException

from edgesparse.service.web import inference, kserve

IMAGES = np.stack([squares.image([(1, 1, 0), (5, 3, 1)]), squares.image([]), squares.image([(0, 0, 1)])])


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(detector(tmp_path_factory.mktemp("squares"))) as serving:
        yield serving


@pytest.fixture
def client(serving: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(serving.address) as client:
        yield client


def tensor(images: np.ndarray, binary: bool = True) -> Any:
    tensor = triton.InferInput("images", images.shape, "UINT8")
    return tensor.set_data_from_numpy(np.ascontiguousarray(images), binary_data=binary)


def test_the_client_finds_server_and_model(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("small") and client.is_model_ready("small", "1")
    assert not client.is_model_ready("other") and not client.is_model_ready("small", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("small")
    assert [each["name"] for each in metadata["outputs"]] == ["num_dets", "det_boxes", "det_scores", "det_classes"]
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    with pytest.raises(InferenceServerException, match="no model 'other' of version 1, only 'small'"):
        client.get_model_metadata("other")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_batch_gives_padded_boxes(client: Any, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(each["name"], binary_data=binary) for each in kserve.OUTPUTS]
    result = client.infer("small", [tensor(IMAGES, binary)], outputs=outputs, request_id="7")
    assert result.get_response()["id"] == "7"
    assert result.as_numpy("num_dets").tolist() == [[2], [0], [1]]
    assert result.as_numpy("det_boxes").shape == (3, 2, 4) and result.as_numpy("det_scores").dtype == np.float32
    assert result.as_numpy("det_boxes")[2].tolist() == [[0, 0, 8, 8], [0, 0, 0, 0]]
    assert sorted(result.as_numpy("det_classes")[0].tolist()) == [0, 1] and result.as_numpy("det_classes").dtype == "i4"
    assert (result.as_numpy("det_scores")[0] > 0.25).all()


def test_without_detections_the_outputs_are_empty(client: Any) -> None:
    result = client.infer("small", [tensor(IMAGES[1:2])], model_version="1")
    assert result.as_numpy("num_dets").tolist() == [[0]] and result.as_numpy("det_boxes").shape == (1, 0, 4)


def test_rgb_and_a_deadline_are_parameters(client: Any) -> None:
    parameters = {"pixels": "rgb", "deadline_ms": 5000}
    result = client.infer("small", [tensor(IMAGES[:1, ..., ::-1])], parameters=parameters)
    assert sorted(result.as_numpy("det_classes")[0].tolist()) == [0, 1]
    result = client.infer("small", [tensor(IMAGES[:1, ..., ::-1])])
    assert result.as_numpy("num_dets").tolist() == [[1]], "in BGR, only green is green"


def test_asynchronous_requests_are_answered(serving: Served) -> None:
    with triton.InferenceServerClient(serving.address, concurrency=4) as client:
        waiting = [client.async_infer("small", [tensor(IMAGES[:1])]) for _ in range(8)]
        assert [each.get_result().as_numpy("num_dets").tolist() for each in waiting] == [[[2]]] * 8


def refused(serving: Served, head: Any, tail: bytes = b"", **headers: str) -> tuple[int, str]:
    data = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {kserve.HEADER_LENGTH.replace("-", "_"): str(len(data)), **headers}
    return serving.refusal(serving.post("/v2/models/small/infer", data + tail, **headers))


GOOD: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}


@pytest.mark.parametrize(
    ("head", "status", "why"),
    [
        (b"not JSON", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[]", 400, "needed a JSON object"),
        (b"\xff\xfe", 400, "not JSON"),
        ({}, 400, "needed one input"),
        ({"inputs": [GOOD, GOOD]}, 400, "needed one input"),
        ({"inputs": ["images"]}, 400, "needed one input"),
        ({"inputs": [{**GOOD, "name": "x"}]}, 400, "found input x UINT8"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, 400, "found input images FP32"),
        ({"inputs": [{**GOOD, "shape": [2, 2, 3]}]}, 400, "needed [N, height, width, 3]"),
        ({"inputs": [{**GOOD, "shape": [1, 2, 2, 4]}]}, 400, "needed [N, height, width, 3]"),
        ({"inputs": [{**GOOD, "shape": [1, True, 2, 3]}]}, 400, "needed [N, height, width, 3]"),
        ({"inputs": [{**GOOD, "shape": None}]}, 400, "needed [N, height, width, 3]"),
        ({"inputs": [{**GOOD, "shape": [99, 2, 2, 3]}]}, 413, "needed 1 to 16 images"),
        ({"inputs": [{**GOOD, "shape": [1, -2, -2, 3]}]}, 413, "needed 1 to 16 images"),
        ({"inputs": [{**GOOD, "shape": [1, 10**12, 10**12, 3]}]}, 400, "found 12 bytes"),
        ({"inputs": [{**GOOD, "data": [0] * 11}]}, 400, "found 11 bytes, needed 12"),
        ({"inputs": [{**GOOD, "data": [256] * 12}]}, 400, "numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "data": ["a"] * 12}]}, 400, "numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "data": [[0], [0, 1]]}]}, 400, "numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "data": [10**30] * 12}]}, 400, "numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 12}}]}, 400, "needed 0, the bytes behind"),
        ({"inputs": [{**GOOD, "parameters": []}]}, 400, "parameters that are not"),
        ({"inputs": [GOOD], "parameters": {"pixels": "nv12"}}, 400, "found pixels nv12"),
        ({"inputs": [GOOD], "parameters": {"pixels": ["rgb"]}}, 400, "found pixels"),
        ({"inputs": [GOOD], "parameters": {"deadline_ms": 1e9}}, 400, "found deadline_ms"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, 400, "unknown output"),
        ({"inputs": [GOOD], "outputs": [{"name": ["x"]}]}, 400, "unknown output"),
        ({"inputs": [GOOD], "outputs": 1}, 400, "unknown output"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(serving: Served, head: Any, status: int, why: str) -> None:
    refusal = refused(serving, head)
    assert refusal[0] == status and why in refusal[1]


def test_json_is_bounded_and_its_length_checked(serving: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in ("-1", "99999999", "x", "9" * 5000):
        assert refused(serving, {"inputs": [GOOD]}, Inference_Header_Content_Length=length)[0] == 400
    monkeypatch.setattr(kserve, "MAX_JSON", 100)
    assert refused(serving, {"inputs": [GOOD], "id": "x" * 100})[0] == 413


def test_readiness_is_that_of_requests(serving: Served, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.report, "requests", None)
    assert client.is_server_live() and not client.is_server_ready() and not client.is_model_ready("small")
    with pytest.raises(InferenceServerException, match="the engine is being loaded"):
        client.infer("small", [tensor(IMAGES[:1])])
    assert int(serving.post("/v2/models/small/infer", b"{}")[1]["retry-after"]) == inference.RETRY_SECONDS

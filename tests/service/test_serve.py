"""`edgesparse serve`: a service without cameras, from the command line."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares
import tritonclient.http as triton
from running import Running, Start
from samples import secret_file

from edgesparse.errors import ConfigError
from edgesparse.service.health import PATIENCE, Health
from edgesparse.service.life import Target

TOKEN = "a-token-of-this-test-0123456789"


def target(folder: Path, settings: Any = None, **web: Any) -> Target:
    path = None
    if settings is not None:
        (path := folder / "device.yaml").write_text(json.dumps(settings))
    return Target(folder, folder, path, {}, web)


def test_settings_with_cameras_are_refused(tmp_path: Path) -> None:
    run = ({"source": "demo"}, {"cameras": [{"name": "door", "source": "demo"}]})
    for settings in (*({"run": each} for each in run), {"service": {"camera_changes": {}}}):
        with pytest.raises(ConfigError, match="needed settings without cameras: remove it, or use 'edgesparse run"):
            target(tmp_path, settings).read()


def test_other_addresses_need_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a token_file"):
        target(tmp_path, host="0.0.0.0").read()
    token = secret_file(tmp_path / "token", TOKEN)
    settings = target(tmp_path, {"service": {"web": {"port": 1000}}}, host="0.0.0.0", token_file=token).read()
    web = settings.service.web
    assert (web.host, web.port, web.token()) == ("0.0.0.0", 1000, TOKEN)
    with pytest.raises(ConfigError, match="command line"):
        target(tmp_path, host="a b").read()


def test_the_doors_are_open_whatever_the_settings_say(tmp_path: Path) -> None:
    web = target(tmp_path, {"service": {"web": {"enabled": False, "inference": False}}}).read().service.web
    assert web.enabled and web.inference


def test_without_cameras_only_recent_failures_count(monkeypatch: pytest.MonkeyPatch) -> None:
    health, now = Health(), time.monotonic()
    health.update(())
    assert health.judge_loop(now).detecting
    health.failed(answered=3)
    health.failed(answered=3)
    assert health.judge_loop(now).why == "inference failed 2 times in a row"
    health.failed(answered=4)
    assert health.failing == 1, "one was answered in between"
    monkeypatch.setattr(health, "turn_at", now + 2 * PATIENCE)
    assert health.judge_loop(now + 2 * PATIENCE).alive, "systemd restarts no service that nobody asks anything"


def post(service: Running, image: Any) -> dict[str, Any]:
    status, result = service.post("/v1/detect", cv2.imencode(".png", image)[1].tobytes())
    assert status == 200 and isinstance(result, dict), result
    return result


def test_it_answers_reloads_and_drains(squares_package: Path, tmp_path: Path, start: Start) -> None:
    service = start(squares_package, {}, verb="serve")
    service.notify.until("READY=1")
    assert json.loads(service.get("/readyz")[1]) == {"ready": True, "why": ""}
    image = squares.image([(1, 1, 0)])
    result = post(service, image)
    assert [each["class"] for each in result["images"][0]["detections"]] == ["red"] and result["model"] == "squares"
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        tensor = triton.InferInput("images", [1, *image.shape], "UINT8")
        answer = client.infer("squares", [tensor.set_data_from_numpy(image[None])])
    assert answer.as_numpy("num_dets").tolist() == [[1]]
    assert "edgesparse_request_images_total 2.0" in service.get("/metrics")[1].decode()
    service.write({"run": {"classes": ["green"]}})
    service.signal(signal.SIGHUP)
    service.notify.until("RELOADING=1")
    end = time.monotonic() + 60
    while post(service, image)["images"][0]["detections"]:
        assert time.monotonic() < end, "the new settings were not taken"
    service.stop()
    assert service.process.returncode == 0

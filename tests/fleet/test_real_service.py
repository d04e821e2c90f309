"""Deploys with the real service: `edgesparse run --service`, restarted by a script instead of systemd."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bundles
import cv2
import numpy as np
import pytest
import squares
import yaml

from edgesparse.errors import DeployError, RolledBack
from edgesparse.fleet import contents, keys
from edgesparse.fleet.deploy import Device
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.fleet.status import status
from edgesparse.shadow import REQUEST


@pytest.fixture
def camera() -> Iterator[str]:
    """A camera that shows three squares, with noise, at an address of single images."""
    random, scene = np.random.default_rng(0), squares.image([(1, 1, 0), (5, 5, 1), (3, 6, 0)])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            noisy = np.maximum(scene, random.integers(0, 20, scene.shape, np.uint8))
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(cv2.imencode(".png", noisy)[1].tobytes())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/belt.png"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def service(tmp_path: Path, camera: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceControl]:
    """Restarting returns once the new process is ready, as with systemctl; each process ends by itself eventually."""
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path / "device"))  # as /var/lib/edgesparse is both
    settings = {
        "run": {"cameras": [{"name": "belt", "source": camera, "rate": 20}]},
        "service": {"web": {"enabled": False}},
    }
    (tmp_path / "device.yaml").write_text(yaml.safe_dump(settings))
    run = f"-m edgesparse run --service --settings {tmp_path}/device.yaml {tmp_path}/device/current/package"
    script = tmp_path / "restart.sh"
    script.write_text(
        textwrap.dedent(f"""\
        cd {tmp_path}
        [ -e pid ] && kill $(cat pid) && while kill -0 $(cat pid) 2>/dev/null; do sleep 0.1; done
        rm -f status.json
        RUNTIME_DIRECTORY={tmp_path} timeout 200 {sys.executable} {run} >>service.log 2>&1 &
        echo $! >pid
        while kill -0 $(cat pid) 2>/dev/null; do grep -qs '"ready": true' status.json && exit 0; sleep 0.2; done
        tail -n 1 service.log
        exit 1
        """)
    )
    yield ServiceControl(("sh", str(script)), tmp_path / "status.json", 5.0, 0.5)
    if (tmp_path / "pid").exists():
        with suppress(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


class FrameCounter:
    """A Progress that records the service's frame count at the start of each step of a deploy."""

    def __init__(self, service: ServiceControl) -> None:
        self._service = service
        self.frames: dict[str, int] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        current = self._service.current_status()
        # The status is written once per second, and this build takes less: before the switch, wait for the next one.
        until = time.monotonic() + 60
        while step == "switching" and current and time.monotonic() < until:
            if current.frames > self.frames.get("unpacking", 0):
                break
            time.sleep(0.1)
            current = self._service.current_status()
        self.frames.setdefault(step, current.frames if current else 0)


def test_a_good_bundle_runs_and_an_unhealthy_one_is_rolled_back(
    tmp_path: Path, service: ServiceControl, quick: None
) -> None:
    squares.detector(tmp_path / "squares.onnx")
    (tmp_path / "labels").mkdir()
    squares.coco_annotations(tmp_path / "labels")
    private = keys.read_private(bundles.key(tmp_path))
    count = FrameCounter(service)
    device = Device(Root(tmp_path / "device"), service, progress=count)

    def deploy(version: str, **limits: Any) -> str:
        recipe = {"model": "squares.onnx", "build": {"backend": "onnxruntime", "threads": 1}}
        recipe["deploy"] = {"images": "labels", **limits}
        (tmp_path / "squares.yaml").write_text(yaml.safe_dump(recipe))
        contents.make(tmp_path / "squares.yaml", tmp_path / f"{version}.esb", private, version=version)
        with bundles.opened(tmp_path / f"{version}.esb") as source:
            return device.deploy(source).result

    assert deploy("1.0") == "deployed"
    first = status(device.root, service)
    count.frames.clear()
    assert first["healthy"] and first["service"]["frames"] > 0
    with pytest.raises(RolledBack, match=r"camera belt: found a frame .* ms old, needed deploy\.max_age_ms 0\.0001"):
        deploy("2.0", max_age_ms=0.0001)
    assert (
        count.frames["switching"] > count.frames["unpacking"] > 0
    )  # the old engine was in service while the new one was built
    after = status(device.root, service)
    assert after["running"]["version"] == "1.0" and after["healthy"]
    assert after["service"]["pid"] != first["service"]["pid"] and after["service"]["frames"] > 0
    assert "camera belt: found a frame" in after["last"]["why"]
    with pytest.raises(
        DeployError, match=r"found \d+ frames with \d+ boxes beside the active engine in 1 s, needed 1 with"
    ):
        deploy("3.0", shadow={"share": 0.5, "frames": 1, "boxes": 100_000, "seconds": 1})
    check_shadow(device, service, deploy)


def check_shadow(device: Device, service: ServiceControl, deploy: Callable[..., str]) -> None:
    """An engine that agrees with the active one on the camera's frames is switched to."""
    before = status(device.root, service)["service"]["pid"]
    assert deploy("4.0", shadow={"share": 0.5, "frames": 3, "boxes": 9, "seconds": 20}) == "deployed"
    after = status(device.root, service)
    assert after["running"]["version"] == "4.0" and after["healthy"] and after["service"]["pid"] != before
    beside = after["running"]["shadow"]
    assert beside["state"] == "done" and beside["recall"] == beside["precision"] == 1.0
    assert beside["frames"] >= 3 and beside["boxes"] >= 9 and beside["errors"] == 0 and beside["memory_mb"] is not None
    assert not (device.root.path / REQUEST).exists()

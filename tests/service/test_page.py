"""The page in a real headless Chromium. Last run here with Debian 12's Chromium 156; CI has none (it takes 60 MB and
a minute to install)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser, browser
from camera import NetworkCamera
from running import Running, Start

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt install chromium chromium-driver"),
]

SUM = """const shown = document.querySelector('[data-camera="%s"] canvas');
if (!shown || shown.hidden) return null;
const bytes = shown.getContext("2d").getImageData(0, 0, shown.width, shown.height).data;"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def colours(page: Browser, camera: str) -> list[int]:
    """How many pixels of the shown snapshot are nearly of the camera's red, and how many nearly of a box's blue."""
    found = page.run(
        SUM % camera
        + """let red = 0, box = 0;
for (let i = 0; i < bytes.length; i += 4) {
  const [r, g, b] = [bytes[i], bytes[i + 1], bytes[i + 2]];
  if (r > 200 && g < 60 && b < 60) red++;
  if (b > 180 && r < 110) box++;
}
return [red, box];"""
    )
    return list(found or [0, 0])


def test_snapshots_move_boxes_are_there_and_a_dead_camera_is_shown_as_such(
    squares_package: Path, start: Start, chromium: Browser, camera: NetworkCamera
) -> None:
    dying = NetworkCamera()
    cameras = [{"name": "door", "source": camera.url}, {"name": "yard", "source": dying.url}]
    service: Running = start(squares_package, {"run": {"cameras": cameras}})
    service.until(lambda said: all(camera["state"] == "live" for camera in said["cameras"]))
    chromium.log()
    chromium.open(f"http://127.0.0.1:{service.port}/")
    number = "return Number(document.querySelector('[data-camera=\"%s\"]').dataset.snapshot || 0)"
    chromium.until("return document.querySelectorAll('.camera.live canvas:not([hidden])').length === 2")
    first = chromium.until(number % "door")
    chromium.until(f"{number % 'door'} > {first + 5}")
    chromium.until("return document.querySelector('[data-camera=door]').dataset.found === '1'")
    red, box = colours(chromium, "door")
    assert red > 1000, "the square that the camera shows"
    assert box > 200, "the box that was drawn round it"
    sums = set()
    for _ in range(6):
        chromium.until(f"{number % 'door'} > {chromium.run(number % 'door')}")
        sums.add(chromium.run(SUM % "door" + "return bytes.reduce((sum, byte, i) => (sum * 31 + byte) % 65521, 0)"))
    assert len(sums) > 2, "snapshots move"
    assert chromium.run("return document.querySelectorAll('#latency path')[0].getAttribute('d').length") > 0
    assert chromium.run("return document.getElementById('state').textContent") == "detecting"
    text = chromium.run("return document.body.innerText")
    assert "fp32: the only candidate" in text and "onnxruntime" in text and "squares" in text

    dying.off()
    chromium.until("return document.querySelector('[data-camera=yard]').classList.contains('away')")
    words = chromium.run("return document.querySelector('[data-camera=yard] .view p').innerText")
    assert words.startswith("away for")
    assert chromium.run("return getComputedStyle(document.querySelector('.away canvas')).filter") != "none"
    assert "1 of 2 cameras away: yard" in chromium.run("return document.getElementById('notice').textContent")
    before = chromium.run(number % "door")
    chromium.until(f"{number % 'door'} > {before}")
    dying.on()
    chromium.until("return document.querySelector('[data-camera=yard]').classList.contains('live')")
    said = [line for line in chromium.log() if "Canvas2D" not in line]  # this test reads pixels back
    assert said == [], "no error, and nothing that the page's policy kept out"

    assert service.stop() < 5
    chromium.until("return document.getElementById('state').textContent === 'the service does not answer'")
    dying.off()


def test_it_fits_narrow_and_wide_screens_light_and_dark(
    squares_package: Path, start: Start, chromium: Browser, camera: NetworkCamera
) -> None:
    service = start(squares_package, {"run": {"cameras": [{"name": "door", "source": camera.url}]}})
    service.until(lambda said: said["detecting"])
    for width, dark in ((500, False), (500, True), (820, False), (1600, True)):
        chromium.size(width, 1000)
        chromium.dark(dark)
        chromium.open(f"http://127.0.0.1:{service.port}/")
        chromium.until("return document.querySelector('.camera.live canvas:not([hidden])')")
        page = "document.documentElement"
        wide, inside = chromium.run(f"return [{page}.scrollWidth, {page}.clientWidth]")
        assert wide <= inside, f"something is cut off at the right of {width} pixels"
        snapshot = cv2.imdecode(np.frombuffer(chromium.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert snapshot is not None
        assert (float(np.median(snapshot)) < 90) == dark

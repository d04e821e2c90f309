"""The web page in a real headless Chromium. Last run with Chromium 156 of Debian 12; CI has none (it takes 60 MB and a
minute to install)."""

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

READ_PIXELS = """const shown = document.querySelector('[data-camera="%s"] canvas');
if (!shown || shown.hidden) return null;
const bytes = shown.getContext("2d").getImageData(0, 0, shown.width, shown.height).data;"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def count_colors(page: Browser, camera: str) -> list[int]:
    """Return how many pixels of the snapshot are close to the camera's red, and how many are close to a box's blue."""
    counts = page.run(
        READ_PIXELS % camera
        + """let red = 0, box = 0;
for (let i = 0; i < bytes.length; i += 4) {
  const [r, g, b] = [bytes[i], bytes[i + 1], bytes[i + 2]];
  if (r > 200 && g < 60 && b < 60) red++;
  if (b > 180 && r < 110) box++;
}
return [red, box];"""
    )
    return list(counts or [0, 0])


NUMBER = "return Number(document.querySelector('[data-camera=\"%s\"]').dataset.snapshot || 0)"


def open_page(chromium: Browser, service: Running, cameras: int) -> None:
    """Open the page and wait for a snapshot of each camera."""
    service.until(lambda status: all(camera["state"] == "live" for camera in status["cameras"]))
    chromium.open("about:blank")  # a page of a service that has ended still asks for it
    chromium.log()
    chromium.open(f"http://127.0.0.1:{service.port}/")
    chromium.until(f"return document.querySelectorAll('.camera.live canvas:not([hidden])').length === {cameras}")


def errors(chromium: Browser) -> list[str]:
    """Errors, and what the page's policy has blocked, without Chromium's warning about tests reading pixels back."""
    return [line for line in chromium.log() if "Canvas2D" not in line]


def test_snapshots_move_and_show_boxes(
    squares_package: Path, start: Start, chromium: Browser, camera: NetworkCamera
) -> None:
    service = start(squares_package, {"run": {"cameras": [{"name": "door", "source": camera.url}]}})
    open_page(chromium, service, 1)
    first = chromium.until(NUMBER % "door")
    chromium.until(f"{NUMBER % 'door'} > {first + 5}")
    chromium.until("return document.querySelector('[data-camera=door]').dataset.detections === '1'")
    red, box = count_colors(chromium, "door")
    assert red > 1000, "the square in front of the camera"
    assert box > 200, "the box around it"
    checksum = READ_PIXELS % "door" + "return bytes.reduce((sum, byte, i) => (sum * 31 + byte) % 65521, 0)"
    sums = set()
    for _ in range(6):
        chromium.until(f"{NUMBER % 'door'} > {chromium.run(NUMBER % 'door')}")
        sums.add(chromium.run(checksum))
    assert len(sums) > 2, "snapshots move"
    assert chromium.run("return document.querySelectorAll('#latency path')[0].getAttribute('d').length") > 0
    assert chromium.run("return document.getElementById('state').textContent") == "detecting"
    text = chromium.run("return document.body.innerText")
    assert "fp32: the only candidate" in text and "onnxruntime" in text and "squares" in text
    assert errors(chromium) == []


def test_a_camera_that_is_away_and_a_service_that_has_ended_are_shown(
    squares_package: Path, start: Start, chromium: Browser, camera: NetworkCamera
) -> None:
    dying = NetworkCamera()
    cameras = [{"name": "door", "source": camera.url}, {"name": "yard", "source": dying.url}]
    service = start(squares_package, {"run": {"cameras": cameras}})
    open_page(chromium, service, 2)
    dying.off()
    chromium.until("return document.querySelector('[data-camera=yard]').classList.contains('away')")
    words = chromium.run("return document.querySelector('[data-camera=yard] .view p').innerText")
    assert words.startswith("away for")
    assert chromium.run("return getComputedStyle(document.querySelector('.away canvas')).filter") != "none"
    assert "1 of 2 cameras away: yard" in chromium.run("return document.getElementById('notice').textContent")
    before = chromium.run(NUMBER % "door")
    chromium.until(f"{NUMBER % 'door'} > {before}")
    dying.on()
    chromium.until("return document.querySelector('[data-camera=yard]').classList.contains('live')")
    assert errors(chromium) == []
    service.stop()
    chromium.until("return document.getElementById('state').textContent === 'the service does not answer'")
    dying.off()


def test_the_large_view_lists_what_was_counted(squares_package: Path, start: Start, chromium: Browser) -> None:
    """The square stands in each place for eight frames, which is a stay in the zone; nothing crosses the line."""
    camera = NetworkCamera(hold=8)
    places = {"lines": {"way": [[0.5, 0], [0.5, 1]]}, "zones": {"all": [[0, 0], [1, 0], [1, 1], [0, 1]]}}
    cameras = [{"name": "door", "source": camera.url, **places}]
    service = start(squares_package, {"run": {"tracking": "sort", "cameras": cameras}})
    open_page(chromium, service, 1)
    chromium.run("document.querySelector('[data-camera=door] .view').click()")
    box = "const box = document.getElementById('large-counted-box')"
    words = chromium.until(f"{box}; return !box.hidden && /[1-9][0-9]* entered/.test(box.innerText) && box.innerText")
    assert "way" in words and "0 in, 0 out" in words and "all" in words and " red)" in words
    assert errors(chromium) == []
    camera.off()


def test_the_page_fits_narrow_and_wide_screens_light_and_dark(
    squares_package: Path, start: Start, chromium: Browser, camera: NetworkCamera
) -> None:
    service = start(squares_package, {"run": {"cameras": [{"name": "door", "source": camera.url}]}})
    service.until(lambda status: status["detecting"])
    for width, dark in ((500, False), (500, True), (820, False), (1600, True)):
        chromium.size(width, 1000)
        chromium.dark(dark)
        chromium.open(f"http://127.0.0.1:{service.port}/")
        chromium.until("return document.querySelector('.camera.live canvas:not([hidden])')")
        page = "document.documentElement"
        wide, inside = chromium.run(f"return [{page}.scrollWidth, {page}.clientWidth]")
        assert wide <= inside, f"the page is wider than {width} pixels"
        snapshot = cv2.imdecode(np.frombuffer(chromium.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert snapshot is not None
        assert (float(np.median(snapshot)) < 90) == dark

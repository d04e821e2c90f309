"""A headless Chromium, driven through Debian's chromedriver with the few WebDriver calls (W3C) that the tests need."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def free_port() -> int:
    """A port below those of outgoing connections, from a range of this test process alone, so that it stays free."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = random.SystemRandom().randrange(16000 + 4000 * (worker % 4), 20000 + 4000 * (worker % 4))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Browser:
    """One window."""

    def __init__(self, driver: str, session: str) -> None:
        self._at = f"{driver}/session/{session}"

    def open(self, url: str) -> None:
        _call("POST", f"{self._at}/url", {"url": url})

    def size(self, width: int, height: int) -> None:
        _call("POST", f"{self._at}/window/rect", {"width": width, "height": height})

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        """Emulate a device with a screen of this size, which can be narrower than a window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        _call("POST", f"{self._at}/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
        self.dark(dark)

    def keys(self, text: str) -> None:
        """Press keys, by WebDriver's code points, one after another."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        _call("POST", f"{self._at}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def run_async(self, script: str) -> Any:
        """Run a JavaScript function body and return what it passes to its callback, `arguments[0]`."""
        return _call("POST", f"{self._at}/execute/async", {"script": script, "args": []})

    def run(self, script: str) -> Any:
        """Run a JavaScript function body and return its result."""
        return _call("POST", f"{self._at}/execute/sync", {"script": script, "args": []})

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """Wait until the script returns a true value, and return it."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never became true: {script}\n{self.run('return document.body.innerText')}"
            time.sleep(0.2)
        return value

    def screenshot(self) -> bytes:
        return base64.b64decode(_call("GET", f"{self._at}/screenshot"))

    def dark(self, dark: bool) -> None:
        params = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        _call("POST", f"{self._at}/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": params})

    def log(self) -> list[str]:
        """Return the console's messages: script errors, and what the page's content security policy has blocked."""
        entries = _call("POST", f"{self._at}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]


def violations(page: Browser) -> list[str]:
    """Violations that axe-core reports, by rule and element."""
    if not page.run("return typeof axe !== 'undefined'"):
        page.run((resources.files("axe_core_python") / "axe.min.js").read_text())
    script = "axe.run(document, {resultTypes: ['violations']}).then(result => arguments[0](result.violations))"
    faults = page.run_async(script)
    return [f"{violation['id']}: {node['html'][:100]}" for violation in faults for node in violation["nodes"]]


@contextmanager
def browser(width: int = 1280, height: int = 1000) -> Iterator[Browser]:
    """A new Chromium with an empty profile."""
    port = free_port()
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        at = f"http://127.0.0.1:{port}"
        session = ""
        try:
            _wait(at)
            options = {
                "binary": CHROMIUM,
                "args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            }
            capabilities = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = _call("POST", f"{at}/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
            yield Browser(at, session)
        finally:
            if session:
                _call("DELETE", f"{at}/session/{session}")
            process.terminate()
            process.wait(60)


def _wait(at: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if _call("GET", f"{at}/status")["ready"]:
                return
        except OSError:
            pass
        assert time.monotonic() < end, "chromedriver does not answer"
        time.sleep(0.1)


def _call(method: str, url: str, content: Any = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None

"""The webhook against a real HTTP server: delivery, refusals, secrets, and servers that answer slowly."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import free_port
from samples import output_context, sample_event, secret_file, wait_until

from edgesparse.errors import ConfigError
from edgesparse.service.outputs.webhook import Webhook, WebhookSettings


class Hook:
    """A server whose status codes the test sets; it keeps the bodies of accepted requests."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.received: list[tuple[dict[str, Any], str | None]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = hook.answers.pop(0) if hook.answers else 200
                if code == 200:
                    hook.received.append((body, self.headers.get("Authorization")))
                self.send_response(code)
                self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr("edgesparse.service.outputs.webhook.FIRST_PAUSE", 0.05)
    hook = Hook()
    yield hook
    hook.close()


def open_webhook(url: str, folder: Path = Path("/nowhere"), **changes: Any) -> Webhook:
    return Webhook(WebhookSettings(url=url, **changes), output_context(folder))


def test_an_event_is_retried_until_it_is_accepted_in_order(hook: Hook, tmp_path: Path) -> None:
    token = secret_file(tmp_path / "token", "abc")
    hook.answers = [500, 503, 429, 200, 500, 200]
    webhook = open_webhook(f"{hook.url}?key=1", token_file=token)
    for number in range(5):
        webhook.event(sample_event(n=number))
    wait_until(lambda: len(hook.received) == 5)
    assert hook.received == [({"n": number}, "Bearer abc") for number in range(5)]
    wait_until(lambda: webhook.state.sent == 5)
    assert (webhook.state.failed, webhook.state.dropped, webhook.state.state) == (4, 0, "")
    webhook.close()


def test_a_refused_event_is_dropped_and_redirects_are_not_followed(hook: Hook) -> None:
    hook.answers = [404, 302]
    webhook = open_webhook(hook.url)
    for number in range(3):
        webhook.event(sample_event(n=number))
    wait_until(lambda: webhook.state.sent == 1)
    assert [body["n"] for body, _ in hook.received] == [2] and webhook.state.dropped == 2
    webhook.close()


def test_a_server_that_is_away_costs_bounded_memory_and_time(caplog: pytest.LogCaptureFixture) -> None:
    webhook = open_webhook(f"http://u:secret@127.0.0.1:{free_port()}/secret/hook?key=secret", queue=3)
    for number in range(10):
        webhook.event(sample_event(n=number))
    wait_until(lambda: webhook.state.failed)
    assert webhook.state.dropped == 7
    begin = time.monotonic()
    webhook.close()
    assert time.monotonic() - begin < 8 and webhook.state.dropped == 10
    assert "does not answer" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("trickle", ["header", "status"])
def test_the_timeout_covers_the_whole_request(trickle: str) -> None:
    """A server that slowly sends single bytes: each receive succeeds, but the answer never ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_trickle, args=(server, trickle), daemon=True).start()
        webhook = open_webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=1.0)
        begin = time.monotonic()
        webhook.event(sample_event())
        wait_until(lambda: webhook.state.failed)
        assert 0.5 < time.monotonic() - begin < 15
        assert webhook.state.state == "does not answer: no complete answer within 1 s"
        webhook.close()


def _trickle(server: socket.socket, what: str) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        text = b"HTTP/1.1 200 OK\r\nX: " if what == "header" else b"HTTP/1.1 200 "
        try:
            connection.sendall(text)
            for _ in range(200):
                connection.sendall(b"a")
                time.sleep(0.1)
        except OSError:
            return


def test_any_exception_leaves_a_state_without_its_text_and_the_thread_alive(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = open_webhook(hook.url)
    opener = webhook._opener

    class Broken:
        def open(self, *_: object, **__: object) -> None:
            raise ValueError("Invalid header value b'Bearer secret'")

    monkeypatch.setattr(webhook, "_opener", Broken())
    webhook.event(sample_event(n=1))
    wait_until(lambda: webhook.state.failed)
    assert webhook.state.state == "cannot be called: ValueError" and webhook._thread.is_alive()
    monkeypatch.setattr(webhook, "_opener", opener)
    wait_until(lambda: webhook.state.sent == 1)
    assert webhook.state.state == "" and "secret" not in caplog.text
    webhook.close()


def test_an_event_that_is_not_json_does_not_end_the_thread(hook: Hook) -> None:
    webhook = open_webhook(hook.url, give_up=0.3)
    webhook.event(sample_event(n=object()))
    webhook.event(sample_event(n=2))
    wait_until(lambda: webhook.state.sent == 1)
    assert webhook.state.dropped == 1
    webhook.close()


@pytest.mark.parametrize("text", ["first\nsecond-secret", "secret\x07", "\xff secret"])
def test_an_unusable_token_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    token = tmp_path / "token"
    token.write_bytes(text.encode("latin-1"))
    token.chmod(0o600)
    with pytest.raises(ConfigError) as error:
        open_webhook("http://127.0.0.1/", token_file=token)
    assert "secret" not in str(error.value) and "service.webhook.token_file" in str(error.value)


@pytest.mark.parametrize("url", ["http://u:secret@host/a b", "http://host:port/", "http://host/\n", "http://host/ä"])
def test_an_address_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        WebhookSettings(url=url)


def test_a_certificate_that_nobody_knows_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_server(("127.0.0.1", 0)) as server:
        webhook = open_webhook(f"https://127.0.0.1:{server.getsockname()[1]}/", timeout=1.0)
        webhook.event(sample_event())
        wait_until(lambda: webhook.state.failed)
        assert webhook.state.state.startswith("does not answer: ")
        webhook.close()

"""Promise: after SIGHUP the new secret is used, and the old one no longer works."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from browser import free_port
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from samples import SCENE, sample_event, secret_file, service_settings, wait_until

from edgesparse.service.credentials import fingerprint
from edgesparse.service.live_cameras import LiveCameras
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.table import OUTPUTS
from edgesparse.service.parts import Parts
from edgesparse.service.settings import ServiceSettings, WebSettings
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings
from edgesparse.values import Section

OLD, NEW = "old-secret-0123456789", "new-secret-0123456789"


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    snapshots = SnapshotEncoder(SnapshotSettings(), ())
    outputs = Outputs(ServiceSettings(), SCENE, snapshots)
    yield outputs
    outputs.close()
    snapshots.close()


@pytest.fixture
def received() -> Iterator[tuple[int, list[str]]]:
    """The port of a webhook server, and the tokens that it received."""
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, tokens
        server.shutdown()


def has_length(items: list[str], count: int) -> bool:
    return len(items) == count


def test_the_webhook_sends_the_new_token_only(
    outputs: Outputs, received: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, tokens = received
    token = secret_file(tmp_path / "token", OLD)
    settings = service_settings(webhook={"url": f"http://127.0.0.1:{port}/", "token_file": token})
    for number, secret in enumerate((OLD, NEW), 1):
        secret_file(tmp_path / "token", secret)
        outputs.change(settings, SCENE)
        outputs._open["webhook"].event(sample_event())
        wait_until(functools.partial(has_length, tokens, number))
    assert tokens == [f"Bearer {OLD}", f"Bearer {NEW}"]


def certificate(name: str) -> str:
    """A CA certificate, as PEM."""
    key, subject = Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


def test_mqtt_takes_the_new_password_and_ca(outputs: Outputs, tmp_path: Path) -> None:
    first, second = certificate("old"), certificate("new")
    password, authority = secret_file(tmp_path / "password", OLD), tmp_path / "ca.pem"
    authority.write_text(first)
    section = {"host": "127.0.0.1", "port": free_port(), "tls": True, "ca_file": authority, "password_file": password}
    settings = service_settings(mqtt={**section, "username": "u"})
    outputs.change(settings, SCENE)
    before: Any = outputs._open["mqtt"]
    secret_file(password, NEW)
    authority.write_text(second)
    outputs.change(settings, SCENE)
    after: Any = outputs._open["mqtt"]
    assert (before._password, after._password) == (OLD, NEW)
    assert before._tls.get_ca_certs() != after._tls.get_ca_certs()
    assert not before._thread.is_alive()


def test_every_setting_that_names_a_file_counts_with_its_contents(tmp_path: Path) -> None:
    sections: list[type[Section]] = [WebSettings, *(kind.settings_type for kind in OUTPUTS.values())]
    keys = [(kind, key) for kind in sections for key in kind.model_fields if key.endswith("_file")]
    assert len(keys) >= 4
    for kind, key in keys:
        file = tmp_path / key
        values: Any = {key: file}
        section = kind.model_construct(**values)
        fingerprints = []
        for text in (OLD, NEW):
            file.write_text(text)
            fingerprints.append(fingerprint(section))
        assert fingerprints[0] != fingerprints[1], key


def test_the_web_page_refuses_the_former_token(tmp_path: Path) -> None:
    token, port = secret_file(tmp_path / "token", OLD), free_port()
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    parts: Any = Parts.__new__(Parts)
    parts.report = SimpleNamespace(health=SimpleNamespace(judge=lambda: judgement))
    parts._engine, parts._web = SimpleNamespace(package=SimpleNamespace(folder=tmp_path)), None
    parts._cameras = LiveCameras()
    parts.governor, parts._reporter = SimpleNamespace(), SimpleNamespace()
    parts.snapshots = parts.outputs = parts.monitors = SimpleNamespace(change=lambda *_: None)
    parts._engine.identity, parts._engine.scene = SimpleNamespace(classes=()), SCENE
    settings = ServiceSettings(web=WebSettings(port=port, token_file=token))
    parts._settings = settings
    parts._open_web(settings)

    def answer(secret: str) -> int:
        request = Request(f"http://127.0.0.1:{port}/healthz", headers={"Authorization": f"Bearer {secret}"})
        try:
            with urlopen(request, timeout=60) as response:
                return int(response.status)
        except HTTPError as error:
            with error:
                return error.code

    with socket.create_connection(("127.0.0.1", port)) as kept:
        request = f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OLD}\r\n\r\n".encode()
        kept.settimeout(5)
        kept.sendall(request)
        text = b""
        while not text.endswith(b"}"):
            text += kept.recv(4096)
        assert text.startswith(b"HTTP/1.1 200")
        assert (answer(OLD), answer(NEW)) == (200, 401)
        secret_file(token, NEW)
        parts.change(settings)
        assert (answer(OLD), answer(NEW)) == (401, 200)
        with suppress(ConnectionError):
            kept.sendall(request)
            assert kept.recv(4096) == b"", "a connection from before the rotation is closed"
    parts._web.close()

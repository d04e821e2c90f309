"""A real HTTPS server on loopback that follows or violates the protocol, as the test chooses."""

from __future__ import annotations

import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Site:
    """What is served, and how. `cut`: bytes after which a connection ends. `answers`: status codes of the first
    requests. `pace`: seconds between chunks of 100 bytes. `header_pace`: seconds between single bytes of the header.
    `ranges_requested`: the Range header of each request; `authorization`: that of the last request."""

    data: bytes = b""
    cut: int | None = None
    ranges: bool = True
    shifted: bool = False
    length: int | None = None
    answers: list[int] = field(default_factory=list)
    location: str = ""
    pace: float = 0.0
    url: str = ""
    header_pace: float = 0.0
    ranges_requested: list[str] = field(default_factory=list)
    authorization: str = ""
    files: Callable[[str], bytes | None] | None = None
    """Returns what is stored at a path, instead of `data` at each."""
    requested: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        requested = request.headers.get("Range", "")
        self.ranges_requested.append(requested)
        self.authorization = request.headers.get("Authorization", "")
        if self.answers:
            request.send_response(self.answers.pop(0))
            request.send_header("Location", self.location)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if self.header_pace:
            self._trickle(request)
            return
        if self.files is not None:
            self.requested.append(request.path)
            data = self.files(request.path)
            if data is None:
                request.send_error(404)
                return
            self.data = data
        match = re.fullmatch(r"bytes=(\d+)-", requested) if self.ranges else None
        start = int(match[1]) if match else 0
        request.send_response(206 if match else 200)
        if match:
            request.send_header("Content-Range", f"bytes {start + self.shifted}-{len(self.data) - 1}/{len(self.data)}")
        body = self.data[start:]
        request.send_header("Content-Length", str(len(body) if self.length is None else self.length))
        request.end_headers()
        with suppress(OSError):
            while self.pace and body:
                request.wfile.write(body[:100])
                body = body[100:]
                time.sleep(self.pace)
            request.wfile.write(body[: self.cut])
        request.close_connection = True

    def _trickle(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            for _ in range(200):
                request.wfile.write(b"a")
                time.sleep(self.header_pace)


@contextmanager
def serving(folder: Path, since: int = -1) -> Iterator[Site]:
    """Serve a site; `folder`/ca.pem is its certificate, valid for three days starting `since` days from now."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def do_PUT(self) -> None:
            site.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    _certificate(folder, since)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "ca.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    site.url = f"https://127.0.0.1:{server.server_address[1]}/model.esb"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificate(folder: Path, since: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(since))
        .not_valid_after(now + timedelta(since + 3))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "ca.key").write_bytes(pem)

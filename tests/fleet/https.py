"""A real HTTPS server on loopback that keeps to the protocol or lies, as a test asks."""

from __future__ import annotations

import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Iterator
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
    requests. `pace`: seconds between two times that 100 bytes are sent. `asked`: the Range of each request, `who`: its
    Authorization."""

    data: bytes = b""
    cut: int | None = None
    ranges: bool = True
    shifted: bool = False
    length: int | None = None
    answers: list[int] = field(default_factory=list)
    location: str = ""
    pace: float = 0.0
    url: str = ""
    asked: list[str] = field(default_factory=list)
    who: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        said = request.headers.get("Range", "")
        self.asked.append(said)
        self.who = request.headers.get("Authorization", "")
        if self.answers:
            request.send_response(self.answers.pop(0))
            request.send_header("Location", self.location)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-", said) if self.ranges else None
        start = int(found[1]) if found else 0
        request.send_response(206 if found else 200)
        if found:
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


@contextmanager
def serving(folder: Path, since: int = -1) -> Iterator[Site]:
    """A site, and in `folder`/ca.pem the certificate that vouches for it, valid for three days from `since` days on."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

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
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(since))
        .not_valid_after(now + timedelta(since + 3))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "ca.key").write_bytes(pem)

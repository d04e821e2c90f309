"""A scripted RTSP server that refuses: it answers every DESCRIBE or SETUP with a status."""

from __future__ import annotations

import re
import socketserver
import threading

REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    453: "Not Enough Bandwidth",
    461: "Unsupported Transport",
    503: "Service Unavailable",
}
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)


class RtspResponder:
    """Answers with `status`: 453 and 461 to SETUP, others to DESCRIBE. `requests` are (method, has credentials)."""

    def __init__(self, status: int) -> None:
        self.status, self.requests = status, list[tuple[str, bool]]()
        responder = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while head := self._read_head():
                    method = head.split(" ", 1)[0]
                    responder.requests.append((method, "\nauthorization:" in head.lower()))
                    sequence = re.search(r"(?i)cseq: *(\d+)", head)
                    self.wfile.write(responder.answer(method, sequence[1] if sequence else "1").encode())

            def _read_head(self) -> str:
                lines = []
                while line := self.rfile.readline().decode("latin-1"):
                    lines.append(line)
                    if line == "\r\n":
                        return "".join(lines)
                return ""

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]

    def answer(self, method: str, sequence: str) -> str:
        refused_at = "SETUP" if self.status in (453, 461) else "DESCRIBE"
        if method == refused_at:
            challenge = 'WWW-Authenticate: Digest realm="camera", nonce="1f"\r\n' if self.status == 401 else ""
            return f"RTSP/1.0 {self.status} {REASONS[self.status]}\r\nCSeq: {sequence}\r\n{challenge}\r\n"
        head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n"
        if method == "OPTIONS":
            return head + "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n"
        if method == "DESCRIBE":
            return head + f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
        return head + "\r\n"

    @property
    def attempts(self) -> int:
        """Number of requests with credentials."""
        return sum(method == "DESCRIBE" and credentials for method, credentials in self.requests)

    def url(self, credentials: str = "user:secret@") -> str:
        return f"rtsp://{credentials}127.0.0.1:{self.port}/stream"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

#!/usr/bin/python3
"""Runs commands in the virtual machine: a line of JSON comes over a virtio port, a line with the result goes back.

qemu.py has the other end. It uses the system's Python and the standard library only.
"""

import json
import os
import subprocess
import time
from io import FileIO
from pathlib import Path
from typing import Any

PORT = Path("/dev/virtio-ports/edgesparse")
MOST = 500_000
"""Bytes of output that are returned; what is longer is cut at the front."""


def main() -> None:
    while not PORT.exists():
        time.sleep(0.1)
    with PORT.open("r+b", buffering=0) as port:
        serve(port)


def serve(port: FileIO) -> None:
    text = b""
    while True:
        part = os.read(port.fileno(), 65536)
        if not part:  # nobody is connected yet
            time.sleep(0.1)
        text += part
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            send(port, run(json.loads(line)))


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a shell command; past its time it is killed, with the processes that it started."""
    began = time.monotonic()
    child = subprocess.Popen(
        ["sh", "-c", request["command"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
    )
    try:
        output, _ = child.communicate(timeout=request["timeout"])
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        output, _ = child.communicate()
        output += b"\n[timed out]"
    seconds = round(time.monotonic() - began, 2)
    number, text = request["number"], output[-MOST:].decode(errors="replace")
    return {"number": number, "code": child.returncode, "seconds": seconds, "output": text}


def send(port: FileIO, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port.fileno(), data) :]


if __name__ == "__main__":
    main()

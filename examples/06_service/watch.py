"""Wait until the service is ready, then print its state and some metrics."""

import json
import time
from urllib.error import URLError
from urllib.request import urlopen

ADDRESS = "http://127.0.0.1:8931"


def ready() -> bool:
    try:
        with urlopen(f"{ADDRESS}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


deadline = time.monotonic() + 120
while not ready():
    if time.monotonic() > deadline:
        raise SystemExit("the service is not ready after two minutes")
    time.sleep(0.5)

with urlopen(f"{ADDRESS}/status.json", timeout=5) as answer:
    status = json.load(answer)
print("cameras:", {camera["name"]: camera["state"] for camera in status["cameras"]})
with urlopen(f"{ADDRESS}/metrics", timeout=5) as answer:
    print(*[line for line in answer.read().decode().splitlines() if line.startswith("edgesparse_frames")], sep="\n")

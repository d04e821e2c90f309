"""The five commands of docs/guide/home-assistant.md, from installing a wheel to a box delivered by MQTT."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from broker import MOSQUITTO, Broker
from browser import free_port
from installed import make_environment, offline
from markdown_blocks import ROOT, blocks

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(
        not (MOSQUITTO and shutil.which("mosquitto_sub")), reason="needs apt install mosquitto mosquitto-clients"
    ),
]


def commands() -> str:
    (text,) = (block.text for block in blocks(ROOT / "docs/guide/home-assistant.md") if "pip install" in block.text)
    assert sum(line.startswith(("pip", "cat", "edgesparse", "mosquitto_sub")) for line in text.splitlines()) == 5
    return text


def test_from_installation_to_a_box_in_five_commands(tmp_path: Path, wheel: Path) -> None:
    broker = Broker(tmp_path)
    programs = make_environment(tmp_path / "environment")
    text = commands().replace("host: 127.0.0.1", f"host: 127.0.0.1, port: {broker.port}")
    text = text.replace("mosquitto_sub", f"mosquitto_sub -p {broker.port} -W 60")
    text = text.replace("service:\n", f"service:\n  web: {{port: {free_port()}}}\n")
    environ = offline(programs, wheel.parent, EDGESPARSE_STATE=str(tmp_path / "state"))
    command = ["bash", "-euc", f"{text}\nkill %1; wait %1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        broker.off()
    assert process.returncode == 0, err
    records = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    configs = {record["device"]["name"]: record["components"] for record in records if "device" in record}
    assert "belt" in configs and {"occupancy", "zone_middle_occupancy", "detect"} <= set(configs["belt"])
    (frame,) = (record for record in records if "detections" in record)
    assert len(frame["detections"][0]["box"]) == 4 and "middle" in frame["detections"][0]["zones"]

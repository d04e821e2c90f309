"""All outputs by their key in the service's settings. Adding one is one line here."""

from __future__ import annotations

from edgesparse.service.outputs.base import Output
from edgesparse.service.outputs.clips import Clips
from edgesparse.service.outputs.json_lines import RotatingJsonLines
from edgesparse.service.outputs.mqtt import Mqtt
from edgesparse.service.outputs.traces import Traces
from edgesparse.service.outputs.webhook import Webhook

OUTPUTS: dict[str, type[Output]] = {
    "mqtt": Mqtt,
    "webhook": Webhook,
    "clips": Clips,
    "jsonl": RotatingJsonLines,
    "traces": Traces,
}

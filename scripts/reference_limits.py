"""Generate docs/reference/limits.md: every bound on what files, visitors and servers may cost, with the values in the
code."""

from __future__ import annotations

from reference_keys import MARK

from edgesparse import camera, shadow, strict_yaml, supervised, tiles
from edgesparse.fleet import bundle, coding, connection, health, history, mqtt_reports, reports, state
from edgesparse.runtime import images
from edgesparse.service import credentials, live_cameras, log_rate
from edgesparse.service.monitor import baseline, drift_settings
from edgesparse.service.monitor import shadow as monitor_shadow
from edgesparse.service.outputs import backlog, clips, events, mqtt, traces, webhook
from edgesparse.service.web import bodies, camera_changes, connections, door, inference, kserve, server
from edgesparse.stream import requests
from edgesparse.stream.sources import capture_worker


def _size(count: int) -> str:
    if count % (1 << 30) == 0:
        return f"{count >> 30} GiB"
    if count % (1 << 20) == 0:
        return f"{count >> 20} MiB"
    return f"{count >> 10} KiB" if count % (1 << 10) == 0 else f"{count:,} bytes"


_DEEP = f"{strict_yaml.MOST_DEPTH} levels, {strict_yaml.MOST_VALUES:,} values with aliases written out"
_PAUSES = f"{supervised.LONGEST_PAUSE:g} s; a camera's, {capture_worker.PAUSE_LONGEST:g} s"
_LINES = f"{log_rate.SAME} of the same text and {log_rate.SIMILAR} that differ in values only"

TABLES: dict[str, list[tuple[str, str, str]]] = {
    "Files": [
        ("a recipe, settings, names", _size(strict_yaml.MOST_BYTES), "refused"),
        ("nesting and aliases in them", _DEEP, "refused"),
        (
            "cameras",
            f"{camera.MOST_CAMERAS}, with {camera.MOST_ZONES} zones and {camera.MOST_LINES} lines each",
            "refused",
        ),
        ("images that a frame and its tiles are", str(tiles.MOST), "refused; `auto` uses larger tiles"),
        ("corners of a zone", str(camera.MOST_CORNERS), "refused"),
        ("rules for events", str(events.MOST_RULES), "refused"),
        ("what is kept of added and removed cameras", _size(live_cameras.MAX_BYTES), "refused"),
        ("a token or password", _size(credentials.MAX_SECRET_BYTES), "refused"),
        ("certificates (`ca_file`)", _size(credentials.MAX_CERTIFICATE_BYTES), "refused"),
        ("an image", f"{images.MAX_PIXELS:,} pixels", "skipped by name"),
    ],
    "Visitors of the web page": [
        ("connections", str(connections.MAX_CONNECTIONS), "closed immediately"),
        ("new connections per second", str(connections.ACCEPTS_PER_SECOND), "wait"),
        ("requests per second", str(door.REQUESTS_PER_SECOND), f"wait {door.LONGEST_WAIT:g} s, then 429"),
        ("the header of a request", _size(server.MAX_HEADER), "400"),
        ("the body of a request that adds a camera", _size(camera_changes.MAX_BODY), "400"),
        ("time for that body", f"{camera_changes.BODY_SECONDS:g} s", "408"),
        ("cameras, once some are added", "`camera_changes.most`", "409"),
        ("time for the first request", f"{connections.HEADER_SECONDS:g} s", "disconnected"),
        ("time for each further request, body included", f"{connections.IDLE_SECONDS:g} s", "disconnected"),
        ("time to read an answer", f"{connections.WRITE_SECONDS:g} s", "disconnected"),
    ],
    "Clients that send images": [
        ("a request's body", _size(inference.MAX_BODY), "413"),
        ("time to send it", f"{inference.BODY_SECONDS:g} s", "408"),
        ("images in a request", str(bodies.MAX_IMAGES), "413"),
        ("an image", f"{bodies.MAX_PIXELS:,} pixels, its sides in a ratio of up to {bodies.MAX_RATIO}", "413, 400"),
        ("JSON of a request of KServe's protocol", _size(kserve.MAX_JSON), "413"),
        ("bodies and decoded images of all clients", _size(inference.MAX_MEMORY), "429; 413 if one takes more"),
        ("images that wait for the engine", str(requests.MOST_WAITING), "429"),
        ("time to wait", f"`deadline_ms`, at most {inference.LONGEST_DEADLINE_MS:,}", "503"),
        ("threads that decode and draw", str(inference.THREADS), "wait"),
    ],
    "Servers that the service calls": [
        ("a webhook's answer", "`timeout`, at most 60 s, for the whole request", "retried"),
        ("events that wait for a webhook", "`queue`", "the oldest are dropped and counted"),
        ("pause between attempts", f"{webhook.LONGEST_PAUSE:g} s", ""),
        ("a broker's answer", f"{mqtt.ANSWER_SECONDS:g} s", "tried again"),
        ("a packet from a broker", f"{mqtt.LONGEST_PACKET >> 10} KiB", "disconnected, tried again"),
        ("messages to a broker in memory", f"{backlog.MAX_IN_MEMORY:,}", "the oldest are dropped and counted"),
        ("messages to a broker on disk", "`spool`", "the oldest are dropped and counted"),
        ("spans that wait for a collector", f"{traces.MOST_WAITING:,}", "the oldest are dropped"),
        ("clips that wait for the disk", str(clips.MAX_WAITING), "dropped and counted"),
    ],
    "What the service keeps of cameras": [
        ("a baseline's file", _size(baseline.MOST_BYTES), "set aside; a new baseline starts"),
        ("baselines per camera, in all", f"{baseline.KEPT}, {baseline.MOST_FILES:,}", "the oldest are removed"),
        ("hard frames", "`disk` bytes", "the oldest are removed"),
        ("hard frames in 24 hours", "`per_day`", "not stored"),
        ("a request for a shadow engine", _size(shadow.MOST_BYTES), "not used; logged"),
        ("errors of a shadow engine", str(monitor_shadow.MOST_ERRORS), "it is released, and the switch refused"),
        ("examples of drift per camera", str(drift_settings.MOST_EXAMPLES), "replaced by the next alarm's"),
    ],
    "Threads and log": [
        ("log lines in ten minutes", _LINES, "left out; the last one says so"),
        ("errors of a thread in a row", str(supervised.DOWN_AFTER), "the service counts as unhealthy"),
        ("pause before a thread is restarted", _PAUSES, ""),
    ],
    "Fleet": [
        ("a bundle's manifest", _size(bundle.MOST_MANIFEST), "refused"),
        ("a bundle's file", _size(bundle.MOST_FILE + 1), "refused"),
        ("the header of a download's answer", f"{connection.TIMEOUT:g} s", "tried again"),
        ("the pace of a download", f"{connection.SLOWEST:g} bytes/s over {connection.TIMEOUT:g} s", "resumed"),
        ("memory that decoding a delta takes", f"{11 * coding.SEGMENT >> 20} MiB", "the whole bundle is fetched"),
        ("a device's report", _size(reports.MOST_REPORT), "a bad report in the table"),
        ("a packet from a broker with reports", _size(mqtt_reports.LONGEST), "refused"),
        ("a slot's record, the journal", _size(state.MAX_BYTES), "set aside"),
        ("the history", f"{_size(history.MAX_BYTES)}, {history.KEPT} events", "set aside; the oldest are removed"),
        ("the service's status", _size(health.MAX_BYTES), "counts as none"),
    ],
}


def limits_page() -> str:
    """A table per kind: what is bounded, by how much, and what happens beyond the bound."""
    parts = [f"{MARK}# Limits\n\nWhat files, visitors and servers may cost at most, and what happens beyond that.\n"]
    for title, rows in TABLES.items():
        lines = "\n".join(f"| {what} | {most} | {beyond} |" for what, most, beyond in rows)
        parts.append(f"## {title}\n\n| what | at most | beyond |\n|---|---|---|\n{lines}\n")
    return "\n".join(parts)

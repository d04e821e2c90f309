"""Traces of frames: OpenTelemetry's own SDK and exporter, and a collector that decodes what arrives over HTTP."""

from __future__ import annotations

import gzip
import http.server
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from samples import (
    NAMES,
    SCENE,
    output_context,
    sample_detections,
    sample_frame,
    secret_file,
    service_settings,
    wait_until,
)

from edgesparse.errors import ConfigError
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.traces import MOST_WAITING, Traces, TracesSettings
from edgesparse.service.snapshots import SnapshotEncoder, SnapshotSettings
from edgesparse.stream.summary import ALL_STAGES

MS = 1_000_000
ROW = np.array([1, 2, 30, 4, 5, 2, 4, 60, 52], np.int64) * MS
"""Stages, total and age: the frame was captured 52 ms before its detections were collected."""


class Collector:
    """Accepts OTLP over HTTP, as a collector does; `status` is its answer."""

    def __init__(self) -> None:
        self.status, self.spans, self.requests = 200, list[Any](), list[Any]()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                message = ExportTraceServiceRequest.FromString(body)
                collector.requests.append((self.path, self.headers.get("Authorization")))
                if collector.status == 200:
                    resources = message.resource_spans
                    collector.spans += [
                        span for part in resources for scope in part.scope_spans for span in scope.spans
                    ]
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_a_frame_is_a_trace_with_a_span_per_stage(tmp_path: Path) -> None:
    memory = InMemorySpanExporter()
    traces = Traces(TracesSettings(every=3), output_context(tmp_path), memory)
    for number in range(7):
        traces.frame_times(sample_frame(number, "door"), sample_detections(0, 1), ROW)
    traces.close()
    spans = memory.get_finished_spans()
    roots = [span for span in spans if span.parent is None]
    assert [root.attributes and dict(root.attributes) for root in roots] == [
        {"camera": "door", "frame": 20, "detections": 2},
        {"camera": "door", "frame": 50, "detections": 2},
    ], "every third"
    root = roots[0]
    assert root.context and root.start_time and root.end_time and root.end_time - root.start_time == 60 * MS
    children = [span for span in spans if span.parent and span.parent.span_id == root.context.span_id]
    assert tuple(span.name for span in children) == ALL_STAGES
    times = [(span.start_time or 0, span.end_time or 0) for span in children]
    assert [end - start for start, end in times] == [int(each) for each in ROW[:7]]
    assert times[0][0] == root.start_time and times[-1][1] == root.end_time
    assert all(times[i][1] == times[i + 1][0] for i in range(1, 6)), "the detector's stages follow each other"
    assert root.resource.attributes["service.name"] == "edgesparse" and root.resource.attributes["host.name"] == "test"
    assert traces.state.sent == len(spans) == 16 and traces.state.dropped == 0


def test_a_real_collector_gets_them_with_the_token(tmp_path: Path, collector: Collector) -> None:
    token = secret_file(tmp_path / "token", "a-token-of-this-test")
    settings = TracesSettings(url=collector.url, every=1, token_file=token)
    traces = Traces(settings, output_context(tmp_path))
    traces.frame_times(sample_frame(1, "yard"), sample_detections(0), ROW)
    traces.close()
    assert {span.name for span in collector.spans} == {"frame", *ALL_STAGES}
    assert collector.requests == [("/v1/traces", "Bearer a-token-of-this-test")]
    assert len({span.trace_id for span in collector.spans}) == 1 and traces.state.sent == 8
    camera = next(span for span in collector.spans if span.name == "frame").attributes[0]
    assert (camera.key, camera.value.string_value) == ("camera", "yard")


@pytest.mark.parametrize("kind", ["refuses", "away", "silent"])
def test_a_collector_that_does_not_answer_costs_no_frame(tmp_path: Path, collector: Collector, kind: str) -> None:
    collector.status = 400
    silent = socket.create_server(("127.0.0.1", 0))
    ports = {"away": 9, "silent": silent.getsockname()[1]}
    url = collector.url if kind == "refuses" else f"http://user:hunter2pass@127.0.0.1:{ports[kind]}/v1/traces"
    traces = Traces(TracesSettings(url=url, every=1, timeout=1), output_context(tmp_path))
    times = []
    for number in range(MOST_WAITING // 7 + 200):
        begun = time.perf_counter()
        traces.frame_times(sample_frame(number), sample_detections(0), ROW)
        times.append(time.perf_counter() - begun)
    assert sorted(times)[len(times) * 98 // 100] < 0.1
    begun = time.monotonic()
    traces.close()
    assert time.monotonic() - begun < 8
    if kind == "refuses":
        wait_until(lambda: traces.state.dropped)
        assert traces.state.state == f"{collector.url} does not accept traces"
    silent.close()
    wait_until(lambda: not any(thread.name.startswith("Otel") for thread in threading.enumerate()))
    assert "hunter2pass" not in traces.state.state


def test_without_the_section_nothing_is_called_and_a_reload_switches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path))
    snapshots = SnapshotEncoder(SnapshotSettings(), NAMES)
    outputs = Outputs(service_settings(), SCENE, snapshots)
    assert outputs._timed == ()
    outputs.change(service_settings(traces=TracesSettings(url=collector.url, every=1)), SCENE)
    outputs.frame_times(sample_frame(), sample_detections(0), ROW)
    outputs.change(service_settings(), SCENE)
    assert outputs._timed == () and len(collector.spans) == 8
    outputs.close()
    snapshots.close()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"service.traces needs opentelemetry.*: pip install 'edgesparse\[otel\]'"):
        Traces(TracesSettings(), output_context(tmp_path))

"""OpenTelemetry: a trace of every Nth frame, with a span per stage, sent to a collector by OTLP over HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesparse.errors import ConfigError
from edgesparse.redaction import redact
from edgesparse.runtime.detections import Detections
from edgesparse.service.credentials import read_secret
from edgesparse.service.outputs.base import Count, Output, OutputContext, OutputSettings, OutputState
from edgesparse.service.outputs.webhook import HttpUrl
from edgesparse.stream.frames import Frame
from edgesparse.stream.summary import ALL_STAGES
from edgesparse.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("edgesparse.service")

CLOSE_SECONDS = 1.5
MOST_WAITING = 2048
"""Spans that wait for the collector; beyond that they are dropped."""
_CAPTURE, _TRACK, _SINKS = (ALL_STAGES.index(name) for name in ("capture", "track", "sinks"))
_TOTAL, _AGE = len(ALL_STAGES), len(ALL_STAGES) + 1


class TracesSettings(OutputSettings):
    """OpenTelemetry traces of frames, by OTLP over HTTP; needs `pip install 'edgesparse[otel]'`."""

    url: HttpUrl = "http://127.0.0.1:4318/v1/traces"
    """Address of the collector."""
    every: Count = 30
    """One of this many frames is traced."""
    token_file: Path | None = None
    """File with the token that is sent as `Authorization: Bearer ...`."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds for a request."""

    def check(self, key: str) -> None:
        self.token(key)

    def token(self, key: str) -> str | None:
        """Return the token, or None if there is none. Raises ConfigError."""
        return read_secret(self.token_file, f"{key}.token_file") if self.token_file else None


class Traces(Output):
    """`frame_times` is called in the frame loop's thread; the SDK sends in its own, from a bounded queue."""

    settings_type = TracesSettings
    wants_times: ClassVar[bool] = True

    def __init__(self, settings: TracesSettings, context: OutputContext, exporter: SpanExporter | None = None) -> None:
        self.state = OutputState("traces")
        token = settings.token("service.traces")
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = exporter or _otlp(settings, token)
        except ImportError as error:
            raise ConfigError(f"service.traces needs {error.name}: pip install 'edgesparse[otel]'") from None
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the state says what fails
        names = {"service.name": "edgesparse", "service.version": VERSION, "host.name": context.device}
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._exporter = _counting(exporter, self.state, redact(settings.url))
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, MOST_WAITING, max_export_batch_size=512))
        self._tracer, self._inside = self._provider.get_tracer("edgesparse", VERSION), trace.set_span_in_context
        self._every = self._left = settings.every

    def frame_times(self, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> None:
        self._left -= 1
        if self._left:
            return
        self._left = self._every
        end = time.time_ns()
        begin = end - int(row[_TRACK] + row[_SINKS] + row[_AGE])
        attributes: dict[str, str | int] = {"camera": frame.source, "frame": frame.index, "detections": len(detections)}
        whole = self._tracer.start_span("frame", start_time=min(begin, end - int(row[_TOTAL])), attributes=attributes)
        inside = self._inside(whole)
        for name, start, nanoseconds in _stages(row, end):
            self._tracer.start_span(name, inside, start_time=start).end(start + nanoseconds)
        whole.end(end)

    def close(self) -> None:
        """Send what waits, within CLOSE_SECONDS."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            self._exporter.shutdown()  # ends the attempts for what is left


def _stages(row: NDArray[np.int64], end: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and duration of each stage, in nanoseconds. Capture starts when the loop begins to take frames,
    the detector's stages end where tracking begins: what is between waited for another batch in the engine.
    """
    yield "capture", end - int(row[_TOTAL]), int(row[_CAPTURE])
    start = end - int(row[_SINKS]) - int(row[_CAPTURE + 1 : _SINKS].sum())
    for stage in range(_CAPTURE + 1, _SINKS + 1):
        yield ALL_STAGES[stage], start, int(row[stage])
        start += int(row[stage])


def _otlp(settings: TracesSettings, token: str | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return OTLPSpanExporter(settings.url, headers=headers, timeout=settings.timeout)


def _counting(exporter: SpanExporter, state: OutputState, where: str) -> Any:
    """Return an exporter that counts what `exporter` sends and says in `state` what is wrong."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                result = exporter.export(spans)
            except Exception:  # what a transport raises for an address or a certificate
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                state.sent, state.state = state.sent + len(spans), ""
                return result
            state.failed, state.dropped = state.failed + 1, state.dropped + len(spans)
            if not state.state:
                state.state = f"{where} does not accept traces"
                log.warning("traces: %s", state.state)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Counting()

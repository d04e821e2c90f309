"""Metrics for Prometheus, collected on request."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from edgesparse.redaction import redact_text
from edgesparse.runtime.counts import DIRECTIONS
from edgesparse.service.report import Report
from edgesparse.service.tally import BOUNDS_MS, Histogram
from edgesparse.stream.sinks.draw import class_name
from edgesparse.supervised import thread_states
from edgesparse.version import VERSION

_LE = [f"{bound / 1000:g}" for bound in BOUNDS_MS]


class _Collector(Collector):
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        # Label values are the only text that is not ours. There are tens of thousands with 16 cameras and 80 classes,
        # but few names: a search through the whole text would hold Python's lock, and so the frame loop, for 0.16 s.
        redacted = cache(redact_text)
        for family in self._families():
            for sample in family.samples:
                for label, value in sample.labels.items():
                    sample.labels[label] = redacted(value)
            yield family

    def _families(self) -> Iterator[Metric]:
        report = self._report
        yield from _cameras(report)
        stages, ages = report.tally.stages(), report.tally.ages()
        yield _histogram("stage_seconds", "Time of a frame in each stage of the loop.", ("camera", "stage"), stages)
        yield _histogram("frame_age_seconds", "From capture to detections.", ("camera",), ages)
        yield from _detections(report)
        yield from _counts(report)
        yield from _events(report)
        yield from _drift(report)
        yield from _hard_frames(report)
        yield from _shadow(report)
        yield from _engine(report)
        yield from _requests(report)
        yield from _board(report)
        yield from _outputs(report)
        judgement = report.health.judge()
        yield _gauge("healthy", "1 while frames are processed or cameras are retried.", judgement.alive)
        yield _gauge("detecting", "1 while results arrive.", judgement.detecting)
        yield _gauge("watched_cameras", "Cameras being watched on the web page.", report.snapshots.viewed)
        restarts = [(thread.name, thread.restarts) for thread in thread_states()]
        yield _each("thread_restarts", "How often a thread failed and was restarted.", "thread", restarts)
        yield _each("reloads", "Reloads by outcome.", "outcome", report.reloads.items())
        started = round(time.time() - report.uptime)
        yield _gauge("start_time_seconds", "Start time of the service, in seconds since 1970.", started)


def exposition(report: Report) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(report))
    return generate_latest(registry)


def _cameras(report: Report) -> Iterator[Metric]:
    cameras = report.health.cameras
    counters = (
        ("frames", "Frames with a result.", "frames"),
        ("dropped_frames", "Captured frames that were skipped for newer ones.", "dropped"),
        ("reconnects", "How often the camera was reopened.", "reopened"),
    )
    for name, about, key in counters:
        yield _each(name, about, "camera", [(camera.name, getattr(camera, key)) for camera in cameras])
    up = GaugeMetricFamily("edgesparse_camera_up", "1 while the camera delivers frames.", labels=["camera"])
    for camera in cameras:
        up.add_metric([camera.name], float(camera.state == "live"))
    yield up
    paused = GaugeMetricFamily("edgesparse_camera_paused", "1 while the camera is paused.", labels=["camera"])
    for camera in cameras:
        paused.add_metric([camera.name], float(camera.state == "paused"))
    yield paused


def _detections(report: Report) -> Iterator[Metric]:
    names = report.identity.classes
    total = CounterMetricFamily("edgesparse_detections", "Detections.", labels=["camera", "class"])
    seen = report.tally.detections()
    for camera, counts in seen.items():
        for name, count in zip(names, counts.tolist(), strict=False):
            if count:
                total.add_metric([camera, name], count)
    yield total
    about = "Objects in view now; zone is empty for all of the frame."
    in_view = GaugeMetricFamily("edgesparse_objects_in_view", about, labels=["camera", "zone", "class"])
    for camera, view in report.tally.in_view.now().items():
        zones = report.outputs.zones(camera)
        for zone, class_id in itertools.product(("", *zones), np.flatnonzero(seen.get(camera, ()))):
            if class_id < len(names):
                in_view.add_metric([camera, zone, names[class_id]], view.counts.get((zone, int(class_id)), 0))
    yield in_view


def _counts(report: Report) -> Iterator[Metric]:
    """What cameras have counted, of each class that they have detected so far."""
    names, detected = report.identity.classes, report.tally.detections()
    labels = ["camera", "zone", "class"]
    crossings = CounterMetricFamily(
        "edgesparse_line_crossings",
        "Objects that crossed a line, by direction.",
        labels=["camera", "line", "class", "direction"],
    )
    entries = CounterMetricFamily("edgesparse_zone_entries", "Objects that entered a zone.", labels=labels)
    dwell = SummaryMetricFamily(
        "edgesparse_zone_dwell_seconds", "Time in a zone of objects that left it.", labels=labels
    )
    for camera, counts in list(report.tally.counts.items()):
        classes = np.flatnonzero(detected.get(camera, ())) if counts.tracked else ()
        for class_id in map(int, classes):
            for line, direction in itertools.product(counts.lines, DIRECTIONS):
                crossed = counts.crossed.get((line, direction, class_id), 0)
                crossings.add_metric([camera, line, class_name(names, class_id), direction], crossed)
            for zone in counts.zones:
                where = [camera, zone, class_name(names, class_id)]
                entries.add_metric(where, counts.entered.get((zone, class_id), 0))
                dwell.add_metric(where, *counts.left.get((zone, class_id), (0, 0.0)))
    yield from (crossings, entries, dwell)


def _events(report: Report) -> Iterator[Metric]:
    events = CounterMetricFamily("edgesparse_events", "Reports of events.", labels=["camera", "event", "type"])
    for (camera, name, phase), count in list(report.outputs.reports.items()):
        events.add_metric([camera, name, phase], count)
    yield events


def _drift(report: Report) -> Iterator[Metric]:
    """How far cameras are from their baselines, for those that were sampled."""
    states = report.monitors.states() if report.monitors is not None else {}
    about = "Population stability index of the newest hours against the camera's baseline."
    index = GaugeMetricFamily("edgesparse_drift_psi", about, labels=["camera", "quantity"])
    alarm = GaugeMetricFamily("edgesparse_drifted", "1 while the camera has drifted.", labels=["camera"])
    about = "Hours of observation in the camera's baseline."
    hours = GaugeMetricFamily("edgesparse_drift_baseline_hours", about, labels=["camera"])
    for camera, state in states.items():
        alarm.add_metric([camera], float(state["state"] == "drifted"))
        hours.add_metric([camera], state["baseline_hours"])
        for name, quantity in state["quantities"].items():
            if quantity["psi"] is not None:
                index.add_metric([camera, name], quantity["psi"])
    yield from (index, alarm, hours)


def _hard_frames(report: Report) -> Iterator[Metric]:
    hard = report.monitors.hard if report.monitors is not None else None
    if hard is None:
        return
    state, about = hard.state(), "Frames stored because the detector was unsure, by reason."
    stored = CounterMetricFamily("edgesparse_hard_frames", about, labels=["camera", "reason"])
    for (camera, reason), count in list(hard.stored.items()):
        stored.add_metric([camera, reason], count)
    yield stored
    yield _gauge("hard_frames_kept", "Hard frames on disk.", state["stored"])
    yield _gauge("hard_frames_bytes", "Bytes of hard frames on disk.", state["bytes"])


def _shadow(report: Report) -> Iterator[Metric]:
    state = report.monitors.shadow_state() if report.monitors is not None else None
    if state is None:
        return
    known = (
        ("shadow_frames", "Frames on which the shadow engine was compared.", state["frames"]),
        ("shadow_recall", "Share of the active engine's boxes that the shadow detects.", state["recall"]),
        ("shadow_precision", "Share of the shadow's boxes that the active engine has.", state["precision"]),
        ("shadow_busy", "Share of the time in which the shadow ran.", state["busy"]),
    )
    for name, about, value in known:
        if value is not None:
            yield _gauge(name, about, value)


def _engine(report: Report) -> Iterator[Metric]:
    engine = report.identity
    info = InfoMetricFamily("edgesparse_engine", "The engine that runs.")
    labels = {
        key: str(getattr(engine, key))
        for key in ("package", "model", "backend", "version", "precision", "candidate", "fallback", "sha256")
    }
    info.add_metric([], {**labels, "edgesparse": VERSION})
    yield info
    yield _gauge("sparse_layers", "Layers of the engine that run sparse kernels.", engine.sparse_layers)
    yield _gauge("layers", "Layers of the model that could run them.", engine.layers)
    yield _gauge("fallback", "1 while the fallback runs instead of the chosen engine.", engine.fallback)
    yield _counter("inference_errors", "Failed inferences.", report.health.errors)
    faults = dict(report.engine.detector.faults)
    yield _each("invalid_boxes", "Model outputs that are not valid boxes, by fault.", "fault", faults.items())


def _requests(report: Report) -> Iterator[Metric]:
    if report.requests is not None:
        yield _counter("request_images", "Images of HTTP clients that were answered.", report.requests.answered)
        yield _gauge("waiting_images", "Images of HTTP clients that wait for the engine.", len(report.requests))
    refusals = [(str(status), count) for status, count in report.refusals.items()]
    yield _each("refused_requests", "Refused requests of HTTP clients, by status.", "status", refusals)


def _board(report: Report) -> Iterator[Metric]:
    reading = report.reading
    known = (
        ("memory_resident_bytes", "Memory of this process.", reading.resident),
        ("memory_available_bytes", "Memory available without swapping.", reading.available),
        ("power_watts", "Power of the board.", reading.watts),
        ("joules_per_frame", "Power of the board over the frame rate of all cameras.", report.joules_per_frame()),
    )
    for name, about, value in known:
        if value is not None:
            yield _gauge(name, about, value)
    if report.joules is not None:
        yield _counter("energy_joules", "Energy of the board since the service started.", report.joules)
    zones = GaugeMetricFamily("edgesparse_temperature_celsius", "Temperature of each thermal zone.", labels=["zone"])
    for zone, degrees in reading.temperatures:
        zones.add_metric([zone], degrees)
    yield zones
    yield _gauge(
        "rate_share",
        "Share of the full frame rate; below 1 while a memory or temperature limit is exceeded.",
        report.governor.share,
    )


def _outputs(report: Report) -> Iterator[Metric]:
    counts = CounterMetricFamily(
        "edgesparse_output_messages", "Messages of an output by outcome.", labels=["output", "outcome"]
    )
    waiting = GaugeMetricFamily("edgesparse_output_waiting", "Messages not delivered yet.", labels=["output"])
    for output in report.outputs.states():
        for outcome in ("sent", "dropped", "failed"):
            counts.add_metric([output.name, outcome], getattr(output, outcome))
        waiting.add_metric([output.name], output.waiting)
    yield counts
    yield waiting


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edgesparse_{name}", about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"edgesparse_{name}", about, value=float(value))


def _each(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(f"edgesparse_{name}", about, labels=[label])
    for key, value in values:
        family.add_metric([key], float(value))
    return family


def _histogram(name: str, about: str, labels: Sequence[str], histograms: Mapping[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(f"edgesparse_{name}", about, labels=labels)
    for values, histogram in histograms.items():
        below: list[Any] = [*zip(_LE, histogram.below, strict=True), ("+Inf", histogram.count)]
        family.add_metric(values, buckets=below, sum_value=histogram.seconds)
    return family

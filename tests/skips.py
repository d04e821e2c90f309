"""A pytest plugin: only a test with a marker that says what it needs may be skipped; any other skip is a failure.

A marker whose line in setup.cfg begins with "needs" is such a marker. With EDGESPARSE_RECORD=1, what ran is noted per
marker in last_runs.json; where a test is skipped, its reason says when and where the tests of its marker last ran.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

LAST_RUNS = Path(__file__).with_name("last_runs.json")
OF_FIXTURES = {
    "real": "real",
    "cases": "real",
    "mount_disk": "root",
    "rtsp_server": "rtsp",
    "toy": "torch",
    "fake": "compiler",
}
"""Fixtures that may skip, and the marker of the tests that use them."""


def may_skip(config: pytest.Config) -> set[str]:
    """The markers whose tests may be skipped."""
    lines = [line.partition(":") for line in config.getini("markers")]
    return {name.strip() for name, _, meaning in lines if meaning.strip().startswith("needs ")}


def markers(item: pytest.Item) -> list[str]:
    return sorted(name for name in may_skip(item.config) if item.get_closest_marker(name))


def mark_by_fixtures(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in OF_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


def judge(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """A skip without a marker becomes a failure; the reason of one with a marker says when it last ran."""
    if report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        names = markers(item)
        if not names:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: skipped without a marker that says what it needs: {reason}"
        else:
            report.longrepr = path, line, "; ".join([reason, *filter(None, map(last_run, names))])
    return report


def judge_module(config: pytest.Config, report: pytest.CollectReport) -> pytest.CollectReport:
    """A file may be skipped as a whole where the reason begins with the name of such a marker and a colon."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.partition(":")[0] not in may_skip(config):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped as a whole without the name of a marker: {reason}"
    return report


def last_run(marker: str) -> str:
    if marker == "gpu":  # tests/gpu notes every test
        return ""
    runs = json.loads(LAST_RUNS.read_text()) if LAST_RUNS.exists() else {}
    if marker not in runs:
        return f"no run of '{marker}' is on record"
    run = runs[marker]
    return f"'{marker}' last ran on {run['date']} on {run['machine']}: {run['passed']} passed, {run['failed']} failed"


class Record:
    """Counts what ran, per marker, and writes it down at the end. tests/gpu notes every test by itself."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if report.when == "call" and report.outcome in ("passed", "failed"):
            for name in set(markers(item)) - {"gpu"}:
                self._counts.setdefault(name, Counter())[report.outcome] += 1

    def write(self) -> None:
        """Nothing unless EDGESPARSE_RECORD is set; a worker of pytest-xdist sees only its own part."""
        if not os.environ.get("EDGESPARSE_RECORD") or "PYTEST_XDIST_WORKER" in os.environ or not self._counts:
            return
        runs = json.loads(LAST_RUNS.read_text()) if LAST_RUNS.exists() else {}
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
        machine = f"{system}, {platform.machine()}, Python {platform.python_version()}"
        for name, count in self._counts.items():
            runs[name] = {"date": date, "machine": machine, "passed": count["passed"], "failed": count["failed"]}
        LAST_RUNS.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")


_record = Record()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_by_fixtures(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = judge(item, (yield))
    _record.add(item, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return judge_module(collector.config, (yield))


def pytest_sessionfinish() -> None:
    _record.write()

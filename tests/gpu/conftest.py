"""Tests on a real GPU with TensorRT. Without one they skip and report where they last ran, and with what result.

`EDGESPARSE_RECORD=1 pytest tests/gpu` writes that record, last_run.json next to this file.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LAST = Path(__file__).parent / "last_run.json"
RECORD = Path(os.environ.get("EDGESPARSE_RECORD_FILE", LAST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    reason = _missing() if ours else ""
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"{reason}; {_last_run(item.name)}"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and os.environ.get("EDGESPARSE_RECORD"):
        _record(item.name, report.outcome)


@pytest.fixture
def few_tactics() -> Iterator[None]:
    """Shorter builds, for tests of what an engine computes."""
    from few_tactics import few_tactics

    with few_tactics():
        yield


@pytest.fixture
def few_int8_tactics() -> Iterator[None]:
    """The same with INT8 wherever a layer can: with a table, TensorRT would choose by time, each build differently."""
    from few_tactics import few_tactics

    with few_tactics(int8=True):
        yield


def _missing() -> str:
    from edgesparse.backends import backend

    available = backend("tensorrt").probe()
    return "" if available.ok else f"needs TensorRT on a GPU: {available.reason}"


def _last_run(name: str) -> str:
    runs = json.loads(LAST.read_text()) if LAST.exists() else {}
    if name not in runs:
        return "never ran yet"
    return "last ran on {date} on {gpu} with TensorRT {tensorrt}: {outcome}".format(**runs[name])


def _record(name: str, outcome: str) -> None:
    from edgesparse import device
    from edgesparse.backends import backend

    runs = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    machine = {"gpu": device.probe().gpu, "tensorrt": backend("tensorrt").probe().version}
    runs[name] = {"date": date, **machine, "outcome": outcome}
    RECORD.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
